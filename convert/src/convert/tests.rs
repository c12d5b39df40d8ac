mod layouts;
mod refusals;
mod resume;

use super::*;
use crate::progress::{Level, NoProgress, ProgressReport};
use crate::random_model::RandomModel;
use crate::source::{SourceError, TensorId};
use crate::store::{check_store_files, open_store};
use crate::test_support::{Fixture, MadeUpSource, fixture, source_values, store_values};
use crate::verify::verify_store;
use odmoe_formats::BlockFormat;
use odmoe_formats::ExpertKey;
use odmoe_formats::names::ExpertRole;
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
fn what_is_in_blocks_already_stays_and_routers_are_decoded() {
    let folder = tempfile::tempdir().unwrap();
    let mut source = MadeUpSource::new(RandomModel::default().model_config());
    let gate = TensorId::Expert(ExpertKey::routed(0, 0), ExpertRole::GateProj);
    for tensor in &mut source.tensors {
        match &tensor.id {
            TensorId::Resident(name) if name == "layers.1.router" => {
                tensor.format = BlockFormat::Q8_0;
            }
            TensorId::Resident(name) if name == "layers.0.q_proj" => {
                tensor.format = BlockFormat::Q4_0;
            }
            id if *id == gate => tensor.format = BlockFormat::Q4_0,
            _ => {}
        }
    }
    for (options, floats) in [
        (ConvertOptions::default(), BlockFormat::F32),
        (quantised(), BlockFormat::Q8_0),
    ] {
        let store = folder.path().join(floats.name());
        let summary = convert(&source, &store, &options, &NoProgress).unwrap();
        let manifest = open_store(&store).unwrap();
        let format = |name: &str| manifest.resident[name].format;
        assert_eq!(format("layers.0.q_proj"), BlockFormat::Q4_0);
        assert_eq!(format("layers.1.q_proj"), floats);
        assert_eq!(format("layers.0.router"), BlockFormat::F32);
        assert_eq!(format("layers.1.router"), BlockFormat::F32);
        // The experts of one store may differ in size.
        let [first, second] = [0, 1].map(|index| &manifest.objects[index]);
        assert_eq!(first.tensors["gate_proj"].format, BlockFormat::Q4_0);
        assert_eq!(first.tensors["down_proj"].format, floats);
        assert!(first.tensors["gate_proj"].bytes < second.tensors["gate_proj"].bytes);
        let smaller = first.bytes < second.bytes;
        assert_eq!(smaller, floats == BlockFormat::F32, "on whole pages");
        let already = if floats == BlockFormat::Q8_0 { 2 } else { 0 };
        let counted = (summary.kept_matrices, summary.quantised_already);
        assert_eq!(counted, (0, already));
        let verified = verify_store(&store, &NoProgress).unwrap();
        assert_eq!(verified.problems, []);
    }
}
