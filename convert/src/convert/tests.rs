use super::*;
use crate::progress::{Level, NoProgress, ProgressReport};
use crate::random_model::RandomModel;
use crate::source::TensorId;
use crate::store::{OpenStoreError, check_store_files, is_store, open_store};
use crate::test_support::{
    Fixture, MadeUpSource, StopAt, StopAtStep, fixture, source_values, store_values,
};
use crate::verify::verify_store;
use odmoe_formats::safetensors::FILLER_PREFIX;
use std::fs;
use std::ops::ControlFlow;
use std::sync::Mutex;

fn run(fixture: &Fixture, options: &ConvertOptions) -> Result<Summary, ConvertError> {
    convert(&fixture.open(), &fixture.store, options, &NoProgress)
}

fn quantised() -> ConvertOptions {
    ConvertOptions {
        weights: WeightFormat::Q8_0,
        ..ConvertOptions::default()
    }
}

/// Converts, and compares every tensor with the source's; `None` for the format that the source has.
fn check_values(model: &RandomModel, options: &ConvertOptions) {
    let fixture = fixture(model);
    let source = fixture.open();
    let summary = run(&fixture, options).unwrap();
    let manifest = open_store(&fixture.store).unwrap();
    assert_eq!(manifest.config, model.model_config());
    assert_eq!(manifest.object_bytes(), summary.expert_bytes);
    for tensor in source.tensors() {
        let expected = source_values(&source, &tensor.id);
        let (format, found) = store_values(&fixture.store, &manifest, &tensor.id);
        if format == BlockFormat::Q8_0 {
            let mut bytes = vec![0; format.row_bytes(expected.len() as u64).unwrap() as usize];
            let mut decoded = vec![0.0; expected.len()];
            format.encode_row(&expected, &mut bytes);
            format.decode_row(&bytes, &mut decoded);
            assert_eq!(found, decoded, "{}", tensor.id);
        } else {
            assert_eq!(found, expected, "{}", tensor.id);
        }
        let norm = tensor.shape.len() == 1;
        let router = tensor.id.to_string().ends_with("router");
        let expected_format = match options.weights {
            _ if norm => BlockFormat::F32,
            WeightFormat::Q8_0 if !router && tensor.shape[1] % 32 == 0 => BlockFormat::Q8_0,
            _ => model.format,
        };
        assert_eq!(format, expected_format, "{}", tensor.id);
    }
    let report = verify_store(&fixture.store, &NoProgress).unwrap();
    assert_eq!(report.problems, []);
    assert_eq!(
        report.checked,
        manifest.resident.len() + manifest.objects.len()
    );
}

#[test]
fn values_survive_every_kind_of_model() {
    let base = RandomModel::default();
    let models = [
        base.clone(),
        RandomModel {
            format: BlockFormat::F32,
            seed: 1,
            ..base.clone()
        },
        RandomModel {
            format: BlockFormat::F16,
            seed: 2,
            ..base.clone()
        },
        RandomModel {
            shards: 3,
            seed: 3,
            ..base.clone()
        },
        RandomModel {
            tie: true,
            seed: 4,
            ..base.clone()
        },
        RandomModel {
            layers: 3,
            dense_layers: vec![0, 2],
            seed: 5,
            ..base.clone()
        },
        // Rows that are not whole blocks, and shapes that leave remainders everywhere.
        RandomModel {
            hidden: 40,
            head_dim: 6,
            expert_ffn: 50,
            vocab: 301,
            seed: 6,
            ..base
        },
    ];
    for model in &models {
        check_values(model, &ConvertOptions::default());
        check_values(model, &quantised());
    }
}

#[test]
fn matrices_that_cannot_be_quantised_are_counted() {
    let model = RandomModel {
        expert_ffn: 50,
        ..RandomModel::default()
    };
    let summary = run(&fixture(&model), &quantised()).unwrap();
    // Of each expert only down_proj has rows of 50.
    assert_eq!(summary.kept_matrices, summary.experts);
    assert_eq!(
        run(&fixture(&model), &ConvertOptions::default())
            .unwrap()
            .kept_matrices,
        0
    );
}

#[test]
fn the_same_model_gives_the_same_bytes_however_it_is_sharded() {
    let one = fixture(&RandomModel::default());
    let many = fixture(&RandomModel {
        shards: 4,
        ..RandomModel::default()
    });
    run(&one, &ConvertOptions::default()).unwrap();
    run(&many, &ConvertOptions::default()).unwrap();
    let (a, b) = (
        open_store(&one.store).unwrap(),
        open_store(&many.store).unwrap(),
    );
    assert_eq!(
        (&a.resident, &a.objects, &a.files),
        (&b.resident, &b.objects, &b.files)
    );
    assert_ne!(a.provenance, b.provenance);
    for file in &a.files {
        let read = |fixture: &Fixture| fs::read(fixture.store.join(&file.path)).unwrap();
        assert!(read(&one) == read(&many), "{}", file.path);
    }
}

#[test]
fn any_safetensors_reader_opens_every_file() {
    let fixture = fixture(&RandomModel::default());
    run(&fixture, &quantised()).unwrap();
    let manifest = open_store(&fixture.store).unwrap();
    let mut names = Vec::new();
    for file in &manifest.files {
        let bytes = fs::read(fixture.store.join(&file.path)).unwrap();
        let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let real = tensors
            .names()
            .into_iter()
            .filter(|name| !name.starts_with(FILLER_PREFIX));
        names.push(real.count());
    }
    assert_eq!(names[0], manifest.resident.len());
    assert!(names[1..].iter().all(|count| *count == 3), "{names:?}");
}

#[test]
fn the_base_is_split_at_the_limit() {
    let fixture = fixture(&RandomModel::default());
    let base_file_limit = ByteCount(40_000);
    let options = ConvertOptions {
        base_file_limit,
        ..ConvertOptions::default()
    };
    run(&fixture, &options).unwrap();
    let manifest = open_store(&fixture.store).unwrap();
    let base: Vec<_> = manifest
        .files
        .iter()
        .filter(|file| file.path.starts_with("base"))
        .collect();
    assert_eq!(
        base.last().unwrap().path,
        format!("base-{:05}.safetensors", base.len())
    );
    assert!(base.len() >= 3, "{base:?}");
    assert_eq!(
        verify_store(&fixture.store, &NoProgress).unwrap().problems,
        []
    );
}

#[test]
fn text_files_and_provenance_are_carried_over() {
    let fixture = fixture(&RandomModel::default());
    let options = ConvertOptions {
        name: Some("a name".into()),
        ..ConvertOptions::default()
    };
    run(&fixture, &options).unwrap();
    let manifest = open_store(&fixture.store).unwrap();
    check_store_files(&fixture.store, &manifest).unwrap();
    assert_eq!(manifest.name, "a name");
    assert_eq!(manifest.text.end_of_sequence_ids, [258, 256]);
    assert_eq!(manifest.text.special_tokens["eos_token"], "<|im_end|>");
    for name in ["tokenizer.json", "generation_config.json"] {
        let read = |folder: &Path| fs::read(folder.join(name)).unwrap();
        assert_eq!(read(&fixture.store), read(&fixture.model));
    }
    let template = fs::read_to_string(fixture.store.join("chat_template.jinja")).unwrap();
    assert!(template.contains("<|im_start|>"), "{template}");
    let sources = &manifest.provenance.sources;
    let generation = sources
        .iter()
        .find(|file| file.name == "generation_config.json")
        .unwrap();
    let bytes = fs::read(fixture.model.join("generation_config.json")).unwrap();
    assert_eq!(
        generation.sha256,
        crate::fingerprint::hex(&<sha2::Sha256 as sha2::Digest>::digest(&bytes))
    );
    assert!(sources.iter().any(|file| file.name == "model.safetensors"));
}

#[test]
fn progress_rises_to_the_total_on_both_levels() {
    struct Recorder(Mutex<Vec<(String, Level, Level)>>, Mutex<Option<Preflight>>);
    impl Progress for Recorder {
        fn planned(&self, preflight: &Preflight) {
            assert!(self.0.lock().unwrap().is_empty());
            assert!(
                !preflight.destination.exists(),
                "something was written before"
            );
            *self.1.lock().unwrap() = Some(preflight.clone());
        }
        fn report(&self, report: &ProgressReport<'_>) -> ControlFlow<()> {
            let entry = (report.step.into(), report.whole, report.step_level);
            self.0.lock().unwrap().push(entry);
            ControlFlow::Continue(())
        }
    }
    let fixture = fixture(&RandomModel::default());
    let recorder = Recorder(Mutex::default(), Mutex::default());
    let source = fixture.open();
    let summary = convert(
        &source,
        &fixture.store,
        &ConvertOptions::default(),
        &recorder,
    )
    .unwrap();
    let preflight = recorder.1.into_inner().unwrap().unwrap();
    assert!(preflight.needed > summary.store_bytes && preflight.free > preflight.needed);
    let reports = recorder.0.into_inner().unwrap();
    let mut steps: Vec<&str> = reports.iter().map(|report| report.0.as_str()).collect();
    steps.dedup();
    assert_eq!(
        steps,
        [
            "base",
            "experts of layer 0",
            "experts of layer 1",
            "source checksums"
        ]
    );
    let rising = |pair: &[(String, Level, Level)]| pair[0].1.done <= pair[1].1.done;
    assert!(reports.windows(2).all(rising));
    let (_, whole, step) = reports.last().unwrap();
    assert_eq!((whole.done, step.done), (whole.total, step.total));
}

#[test]
fn a_stop_at_any_report_leaves_nothing_that_opens_and_the_next_attempt_succeeds() {
    let fixture = fixture(&RandomModel {
        layers: 1,
        experts: 3,
        ..RandomModel::default()
    });
    let source = fixture.open();
    let mut stopped = 0;
    loop {
        let stop = StopAt::report(stopped + 1);
        match convert(&source, &fixture.store, &ConvertOptions::default(), &stop) {
            Err(ConvertError::Cancelled) => stopped += 1,
            Ok(_) => break,
            Err(error) => panic!("report {stopped}: {error}"),
        }
        assert!(!is_store(&fixture.store));
        let opened = open_store(&fixture.store);
        assert!(
            matches!(opened, Err(OpenStoreError::NoManifest { .. })),
            "report {stopped}"
        );
    }
    assert!(stopped >= 6, "only {stopped} places to stop at");
    assert_eq!(
        verify_store(&fixture.store, &NoProgress).unwrap().problems,
        []
    );
    assert!(!fixture.store.join(".odmoe-incomplete").exists());
}

#[test]
fn leftovers_of_a_larger_model_are_cleared() {
    let large = fixture(&RandomModel {
        layers: 4,
        ..RandomModel::default()
    });
    let small = fixture(&RandomModel::default());
    let stop = StopAtStep("experts of layer 3");
    let error = convert(
        &large.open(),
        &small.store,
        &ConvertOptions::default(),
        &stop,
    );
    assert!(matches!(error, Err(ConvertError::Cancelled)));
    assert!(small.store.join("experts/layer-002").exists());
    run(&small, &ConvertOptions::default()).unwrap();
    assert!(!small.store.join("experts/layer-002").exists());
}

#[test]
fn a_store_is_replaced_only_when_asked_for() {
    let fixture = fixture(&RandomModel::default());
    run(&fixture, &ConvertOptions::default()).unwrap();
    let before = fs::read(fixture.store.join("manifest.json")).unwrap();
    let error = run(&fixture, &quantised()).unwrap_err();
    assert!(matches!(error, ConvertError::StoreExists { .. }), "{error}");
    assert_eq!(
        fs::read(fixture.store.join("manifest.json")).unwrap(),
        before
    );
    run(
        &fixture,
        &ConvertOptions {
            overwrite: true,
            ..quantised()
        },
    )
    .unwrap();
    assert_ne!(
        fs::read(fixture.store.join("manifest.json")).unwrap(),
        before
    );
    assert_eq!(
        verify_store(&fixture.store, &NoProgress).unwrap().problems,
        []
    );
}

#[test]
fn a_folder_with_other_files_is_left_alone() {
    let fixture = fixture(&RandomModel::default());
    let overwrite = ConvertOptions {
        overwrite: true,
        ..ConvertOptions::default()
    };
    let refuse = |destination: &Path, options: &ConvertOptions| {
        convert(&fixture.open(), destination, options, &NoProgress).unwrap_err()
    };
    // The source itself, a folder with a file that only looks like ours, a store with a foreign file, a plain file.
    let error = refuse(&fixture.model, &overwrite);
    assert!(
        matches!(error, ConvertError::ForeignFiles { .. }),
        "{error}"
    );
    fs::create_dir(&fixture.store).unwrap();
    fs::write(fixture.store.join("tokenizer.json"), "mine").unwrap();
    let error = refuse(&fixture.store, &overwrite);
    assert!(
        matches!(error, ConvertError::ForeignFiles { .. }),
        "{error}"
    );
    assert_eq!(
        fs::read(fixture.store.join("tokenizer.json")).unwrap(),
        b"mine"
    );

    fs::remove_file(fixture.store.join("tokenizer.json")).unwrap();
    run(&fixture, &ConvertOptions::default()).unwrap();
    fs::write(fixture.store.join("experts/notes.txt"), "mine").unwrap();
    let error = refuse(&fixture.store, &overwrite);
    assert!(error.to_string().contains("notes.txt"), "{error}");
    assert!(is_store(&fixture.store));
    let error = refuse(&fixture.store.join("manifest.json"), &overwrite);
    assert!(matches!(error, ConvertError::NotAFolder { .. }), "{error}");
}

#[test]
fn two_conversions_to_one_place_do_not_mix() {
    struct ConvertInside<'a>(&'a Fixture, Mutex<Option<ConvertError>>);
    impl Progress for ConvertInside<'_> {
        fn report(&self, _report: &ProgressReport<'_>) -> ControlFlow<()> {
            let second = run(self.0, &ConvertOptions::default());
            *self.1.lock().unwrap() = second.err();
            ControlFlow::Continue(())
        }
    }
    let fixture = fixture(&RandomModel {
        layers: 1,
        experts: 2,
        ..RandomModel::default()
    });
    let inside = ConvertInside(&fixture, Mutex::default());
    convert(
        &fixture.open(),
        &fixture.store,
        &ConvertOptions::default(),
        &inside,
    )
    .unwrap();
    let error = inside
        .1
        .into_inner()
        .unwrap()
        .expect("the second conversion went ahead");
    assert!(matches!(error, ConvertError::Busy { .. }), "{error}");
    assert_eq!(
        verify_store(&fixture.store, &NoProgress).unwrap().problems,
        []
    );
}

#[test]
fn a_model_that_does_not_fit_is_refused_before_a_byte_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = RandomModel::default().model_config();
    (config.vocab_size, config.hidden_size) = (1 << 24, 1 << 24);
    let source = MadeUpSource::new(config);
    let store = folder.path().join("new/store");
    let preflight = preflight(&source, &store, &ConvertOptions::default()).unwrap();
    let error = convert(&source, &store, &ConvertOptions::default(), &NoProgress).unwrap_err();
    let ConvertError::NoSpace { needed, free, .. } = error else {
        panic!("{error}")
    };
    assert_eq!(needed, preflight.needed);
    // The embedding and the head alone take 2^24 x 2^24 x 4 bytes each.
    assert!(needed.0 > 1 << 51 && free < needed);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn a_model_whose_tensors_are_not_those_of_its_configuration_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let refuse = |change: &dyn Fn(&mut MadeUpSource)| {
        let mut source = MadeUpSource::new(RandomModel::default().model_config());
        change(&mut source);
        let store = folder.path().join("store");
        let error = convert(&source, &store, &ConvertOptions::default(), &NoProgress);
        assert!(!store.exists());
        error.unwrap_err().to_string()
    };
    let resident = |name: &str| TensorId::Resident(name.into());
    let missing = refuse(&|source| {
        source
            .tensors
            .retain(|tensor| tensor.id != resident("norm"))
    });
    assert_eq!(missing, "tensor norm is missing; shape [64] was expected");
    let missing = refuse(&|source| drop(source.tensors.pop()));
    assert_eq!(
        missing,
        "tensor layer 1 expert 7 down_proj is missing; shape [64, 32] was expected"
    );
    let shape = refuse(&|source| source.tensors.last_mut().unwrap().shape = vec![32, 64]);
    assert!(
        shape.ends_with("has shape [32, 64]; the configuration calls for [64, 32]"),
        "{shape}"
    );
    let unknown = refuse(&|source| {
        let mut bias = source.tensors[0].clone();
        (bias.id, bias.source_name) = (resident("bias"), "bias".into());
        source.tensors.push(bias);
    });
    assert!(
        unknown.starts_with("tensor \"bias\" is no part"),
        "{unknown}"
    );
    let twice = refuse(&|source| source.tensors.push(source.tensors[0].clone()));
    assert_eq!(twice, "tensor embed_tokens is there twice");
    let family = refuse(&|source| source.metadata.config.architecture = "other".into());
    assert_eq!(
        family,
        "architecture \"other\" is not supported; supported: qwen3moe"
    );
    let name = refuse(&|source| source.metadata.suggested_name = "a\nb".into());
    assert!(name.contains("control characters"), "{name}");
}

#[test]
fn weights_that_are_not_finite_are_not_quantised_in_silence() {
    for weight in [f32::NAN, f32::NEG_INFINITY, 9.0e6] {
        let folder = tempfile::tempdir().unwrap();
        let mut source = MadeUpSource::new(RandomModel::default().model_config());
        source.weight = weight;
        let store = folder.path().join("store");
        let error = convert(&source, &store, &quantised(), &NoProgress).unwrap_err();
        assert!(
            matches!(error, ConvertError::NotQuantisable { .. }),
            "{error}"
        );
        assert!(!is_store(&store));
    }
}

#[test]
fn a_source_that_changes_meanwhile_is_noticed() {
    let fixture = fixture(&RandomModel::default());
    let source = fixture.open();
    fs::write(fixture.model.join("generation_config.json"), "{}").unwrap();
    let error = convert(
        &source,
        &fixture.store,
        &ConvertOptions::default(),
        &NoProgress,
    );
    let error = error.unwrap_err();
    // A shorter file is met as a read that ends early, any other change at the end.
    let expected = matches!(
        error,
        ConvertError::Source(SourceError::Io { .. } | SourceError::Changed { .. })
    );
    assert!(expected, "{error}");
    assert!(!is_store(&fixture.store));
}
