//! Stops, destinations and sources that must do no harm.

use super::*;
use crate::fingerprint::Fingerprint;
use crate::hugging_face::HuggingFaceFolder;
use crate::source::{ModelMetadata, SourceError, SourceFileInfo, SourceTensor};
use crate::store::{OpenStoreError, is_store};
use crate::test_support::{MadeUpSource, StopAt, StopAtStep};

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
    // Steps that threads have done by the time they are shown are told of once.
    assert!(stopped >= 4, "only {stopped} places to stop at");
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
    let told = error.to_string();
    let ConvertError::NoSpace { needed, free, .. } = error else {
        panic!("{told}")
    };
    let missing = format!("{} are missing", ByteCount(needed.0 - free.0));
    assert!(told.contains(&missing), "{told}");
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
        "architecture \"other\" is not supported; supported: llama, olmoe, qwen2moe, qwen3, qwen3moe"
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

/// A source whose last tensor is a bug.
struct Panics(HuggingFaceFolder);

impl ModelSource for Panics {
    fn metadata(&self) -> &ModelMetadata {
        self.0.metadata()
    }
    fn tensors(&self) -> &[SourceTensor] {
        self.0.tensors()
    }
    fn read_tensor(&self, index: usize, offset: u64, into: &mut [u8]) -> Result<(), SourceError> {
        assert!(index + 1 < self.tensors().len(), "a bug in a source");
        self.0.read_tensor(index, offset, into)
    }
    fn files(&self) -> &[SourceFileInfo] {
        self.0.files()
    }
    fn read_file(&self, index: usize, offset: u64, into: &mut [u8]) -> Result<(), SourceError> {
        self.0.read_file(index, offset, into)
    }
    fn tensor_start(&self, index: usize) -> Option<(usize, u64)> {
        self.0.tensor_start(index)
    }
    fn fingerprint(&self) -> Fingerprint {
        self.0.fingerprint()
    }
    fn check_unchanged(&self) -> Result<(), SourceError> {
        self.0.check_unchanged()
    }
}

#[test]
fn a_panic_of_one_thread_ends_the_conversion() {
    let fixture = fixture(&RandomModel::default());
    let source = Panics(fixture.open());
    let convert = || {
        convert(
            &source,
            &fixture.store,
            &ConvertOptions::default(),
            &NoProgress,
        )
    };
    let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(convert));
    assert!(ended.is_err(), "it went on");
    assert!(!is_store(&fixture.store));
    // And the lock is free.
    run(&fixture, &ConvertOptions::default()).unwrap();
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
