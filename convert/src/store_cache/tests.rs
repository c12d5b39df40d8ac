use super::*;
use crate::WeightFormat;
use crate::progress::{NoProgress, ProgressReport};
use crate::random_model::RandomModel;
use crate::test_support::{Fixture, StopAtStep, fixture};
use crate::verify::verify_store;
use std::ops::ControlFlow;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicBool, Ordering};

fn small() -> Fixture {
    fixture(&RandomModel {
        layers: 1,
        experts: 2,
        ..RandomModel::default()
    })
}

fn get(fixture: &Fixture) -> Obtained {
    obtain(
        &fixture.open(),
        &fixture.store,
        &ConvertOptions::default(),
        &NoProgress,
    )
    .unwrap()
}

/// What is in the cache folder but for locks.
fn entries(cache: &Path) -> Vec<String> {
    let names = fs::read_dir(cache)
        .unwrap()
        .map(|entry| entry.unwrap().file_name());
    let names = names.map(|name| name.into_string().unwrap());
    names.filter(|name| !name.starts_with(".lock")).collect()
}

#[test]
fn a_model_is_converted_once() {
    let fixture = small();
    let first = get(&fixture);
    assert!(first.converted);
    let name = first
        .store
        .file_name()
        .unwrap()
        .to_string_lossy()
        .into_owned();
    assert!(name.starts_with("model-"), "{name}");
    let second = get(&fixture);
    assert_eq!(
        second,
        Obtained {
            store: first.store.clone(),
            converted: false
        }
    );
    assert_eq!(
        verify_store(&first.store, &NoProgress).unwrap().problems,
        []
    );
    let options = ConvertOptions::default();
    assert_eq!(
        find(&fixture.store, key(&fixture.open(), &options)),
        Some(first.store)
    );
    assert_eq!(entries(&fixture.store), [name]);
}

#[test]
fn another_source_or_other_options_are_another_store() {
    let fixture = small();
    let first = get(&fixture).store;
    let quantised = ConvertOptions {
        weights: WeightFormat::Q8_0,
        ..ConvertOptions::default()
    };
    let second = obtain(&fixture.open(), &fixture.store, &quantised, &NoProgress).unwrap();
    assert!(second.converted && second.store != first);
    fixture.edit_json("config.json", |config| config["rms_norm_eps"] = 1e-5.into());
    let third = get(&fixture);
    assert!(third.converted && third.store != first);
    assert_eq!(entries(&fixture.store).len(), 3);
}

fn quantised_in(layout: WeightLayout) -> ConvertOptions {
    ConvertOptions {
        weights: WeightFormat::Q8_0,
        layout,
        ..ConvertOptions::default()
    }
}

#[test]
fn a_store_in_another_layout_is_used_and_the_one_asked_for_preferred() {
    let [rows, lanes] = WeightLayout::ALL.map(quantised_in);
    for (first, second) in [(&rows, &lanes), (&lanes, &rows)] {
        let fixture = small();
        let source = fixture.open();
        let get = |options| obtain(&source, &fixture.store, options, &NoProgress).unwrap();
        let find = |options| find_in_any_layout(&fixture.store, &source, options);
        assert_eq!(find(second), None);
        let store = get(first).store;
        assert_eq!(find(second), Some(store.clone()));
        let again = Obtained {
            store: store.clone(),
            converted: false,
        };
        assert_eq!(get(second), again);
        // Where both are there, each is found.
        let name = format!("both{}", folder_suffix(key(&source, second)));
        let other = fixture.store.join(name);
        convert(&source, &other, second, &NoProgress).unwrap();
        assert_eq!(find(second), Some(other));
        assert_eq!(find(first), Some(store));
    }
}

/// Stores that earlier versions made are found under the keys that they gave.
#[test]
fn a_key_has_a_layout_only_where_it_is_not_rows() {
    let fixture = small();
    let source = fixture.open();
    let earlier = |weights: &str| {
        FingerprintBuilder::new("cached store")
            .part("source", source.fingerprint().to_string().as_bytes())
            .part("weights", weights.as_bytes())
            .part("base files", &(4u64 << 30).to_le_bytes())
            .part("name", b"model")
            .part("version", &1u32.to_le_bytes())
            .part("revision", &1u32.to_le_bytes())
            .finish()
    };
    let [rows, lanes] = WeightLayout::ALL.map(quantised_in);
    assert_eq!(key(&source, &rows), earlier("q8_0"));
    assert_ne!(key(&source, &lanes), earlier("q8_0"));
    // Floats have one layout.
    for layout in WeightLayout::ALL {
        let options = ConvertOptions {
            layout,
            ..ConvertOptions::default()
        };
        assert_eq!(key(&source, &options), earlier("source"));
    }
}

#[test]
fn a_model_is_served_under_the_name_that_its_folder_has_now() {
    let mut fixture = small();
    let first = get(&fixture).store;
    let renamed = fixture.folder.path().join("renamed");
    fs::rename(&fixture.model, &renamed).unwrap();
    fixture.model = renamed;
    let second = get(&fixture).store;
    assert_ne!(second, first);
    assert_eq!(open_store(&second).unwrap().name, "renamed");
}

#[test]
fn a_damaged_store_is_made_again() {
    let damages: [fn(&Path); 3] = [
        |store| fs::remove_file(store.join("base-00001.safetensors")).unwrap(),
        |store| fs::write(store.join("experts/layer-000/expert-001.safetensors"), "x").unwrap(),
        |store| fs::write(store.join("manifest.json"), "{}").unwrap(),
    ];
    for damage in damages {
        let fixture = small();
        let store = get(&fixture).store;
        damage(&store);
        assert_eq!(
            find(
                &fixture.store,
                key(&fixture.open(), &ConvertOptions::default())
            ),
            None
        );
        assert_eq!(
            get(&fixture),
            Obtained {
                store: store.clone(),
                converted: true
            }
        );
        assert_eq!(verify_store(&store, &NoProgress).unwrap().problems, []);
    }
}

#[test]
fn a_stopped_conversion_is_not_found_and_does_not_disturb_the_next() {
    let fixture = small();
    let stop = StopAtStep("source checksums");
    let source = fixture.open();
    let error = obtain(&source, &fixture.store, &ConvertOptions::default(), &stop);
    assert!(matches!(error, Err(ConvertError::Cancelled)));
    assert_eq!(
        find(&fixture.store, key(&source, &ConvertOptions::default())),
        None
    );
    assert!(get(&fixture).converted);
    assert_eq!(entries(&fixture.store).len(), 1);
}

#[test]
fn of_many_at_once_one_converts_and_all_get_the_same() {
    let fixture = small();
    let results: Vec<Obtained> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| get(&fixture))).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    });
    assert_eq!(results.iter().filter(|result| result.converted).count(), 1);
    assert!(
        results
            .iter()
            .all(|result| result.store == results[0].store)
    );
    assert_eq!(
        verify_store(&results[0].store, &NoProgress)
            .unwrap()
            .problems,
        []
    );
}

#[test]
fn waiting_for_another_process_is_reported_and_can_be_ended() {
    struct Wait(AtomicBool);
    impl Progress for Wait {
        fn report(&self, report: &ProgressReport<'_>) -> ControlFlow<()> {
            self.0
                .store(report.step.starts_with("waiting"), Ordering::Relaxed);
            ControlFlow::Break(())
        }
    }
    let fixture = small();
    let source = fixture.open();
    let suffix = folder_suffix(key(&source, &ConvertOptions::default()));
    fs::create_dir(&fixture.store).unwrap();
    let held = lock(&fixture.store.join(format!(".lock{suffix}")), &NoProgress).unwrap();
    let wait = Wait(AtomicBool::new(false));
    let error = obtain(&source, &fixture.store, &ConvertOptions::default(), &wait);
    assert!(matches!(error, Err(ConvertError::Cancelled)) && wait.0.into_inner());
    drop(held);
    assert!(get(&fixture).converted);
}

#[test]
fn nothing_stays_of_a_source_that_is_still_changing() {
    let fixture = small();
    let source = fixture.open();
    let weights = fixture.model.join("model.safetensors");
    let file = File::options().write(true).open(weights).unwrap();
    file.set_modified(std::time::UNIX_EPOCH).unwrap();
    let options = ConvertOptions::default();
    let error = obtain(&source, &fixture.store, &options, &NoProgress).unwrap_err();
    let changed = matches!(error, ConvertError::Source(SourceError::Changed { .. }));
    assert!(changed, "{error}");
    assert_eq!(entries(&fixture.store), [""; 0]);
    assert!(get(&fixture).converted);
}

#[test]
fn names_become_plain_folder_names() {
    assert_eq!(plain_name("Qwen3-30B-A3B"), "Qwen3-30B-A3B");
    assert_eq!(plain_name("../a b/ü"), "_a_b__");
    assert_eq!(plain_name("..."), "model");
    assert_eq!(plain_name(&"x".repeat(500)).len(), 64);
}

#[test]
fn a_stopped_conversion_is_taken_up_wherever_it_was_stopped() {
    let fixture = small();
    let options = ConvertOptions::default();
    let source = fixture.open();
    let stop = StopAtStep("source checksums");
    obtain(&source, &fixture.store, &options, &stop).unwrap_err();
    let suffix = folder_suffix(key(&source, &options));
    let partial = fixture.store.join(format!(".partial{suffix}"));
    let expert = "experts/layer-000/expert-001.safetensors";
    let signs = |store: &Path| {
        let found = fs::metadata(store.join(expert)).unwrap();
        (found.ino(), found.mtime(), found.mtime_nsec())
    };
    let before = signs(&partial);
    let store = get(&fixture).store;
    assert_eq!(signs(&store), before);
    // Between the conversion's end and the renaming.
    fs::rename(&store, &partial).unwrap();
    assert_eq!(find(&fixture.store, key(&source, &options)), None);
    assert_eq!(get(&fixture).store, store);
    assert_eq!(signs(&store), before);
}
