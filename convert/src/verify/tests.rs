use super::*;
use crate::convert::{ConvertOptions, convert};
use crate::progress::NoProgress;
use crate::random_model::RandomModel;
use crate::test_support::{Fixture, StopAt, fixture};
use std::fs;

fn store() -> (Fixture, Manifest) {
    let fixture = fixture(&RandomModel::default());
    convert(
        &fixture.open(),
        &fixture.store,
        &ConvertOptions::default(),
        &NoProgress,
    )
    .unwrap();
    let manifest = open_store(&fixture.store).unwrap();
    (fixture, manifest)
}

fn problems(fixture: &Fixture) -> Vec<Problem> {
    verify_store(&fixture.store, &NoProgress).unwrap().problems
}

#[test]
fn one_flipped_bit_is_found_and_named_wherever_it_is() {
    let (fixture, manifest) = store();
    let object = &manifest.objects[5];
    let tensor = &manifest.resident["layers.1.router"];
    let places = [
        (object.file, object.offset, object.key.to_string()),
        // The last byte of an object may be a filler's; it is read, so it counts.
        (
            object.file,
            object.offset + object.bytes - 1,
            object.key.to_string(),
        ),
        (
            tensor.file,
            tensor.offset + tensor.bytes - 1,
            "tensor layers.1.router".into(),
        ),
    ];
    for (file, offset, name) in places {
        let path = fixture.store.join(&manifest.file(file).path);
        let mut bytes = fs::read(&path).unwrap();
        bytes[offset as usize] ^= 0x40;
        fs::write(&path, &bytes).unwrap();
        let found = problems(&fixture);
        assert!(
            matches!(&found[..], [Problem::Checksum { what, .. }] if *what == name),
            "{found:?}"
        );
        bytes[offset as usize] ^= 0x40;
        fs::write(&path, &bytes).unwrap();
        assert_eq!(problems(&fixture), []);
    }
}

#[test]
fn missing_and_cut_files_are_problems_and_the_rest_is_still_checked() {
    let (fixture, manifest) = store();
    let path = |index: usize| fixture.store.join(&manifest.files[index].path);
    fs::remove_file(path(3)).unwrap();
    fs::write(path(4), &fs::read(path(4)).unwrap()[..5000]).unwrap();
    let report = verify_store(&fixture.store, &NoProgress).unwrap();
    let unreadable = |problem: &&Problem| matches!(problem, Problem::Unreadable { .. });
    assert_eq!(
        report.problems.iter().filter(unreadable).count(),
        2,
        "{:?}",
        report.problems
    );
    assert!(
        report
            .problems
            .iter()
            .any(|problem| matches!(problem, Problem::File(_)))
    );
    assert_eq!(
        report.checked,
        manifest.objects.len() + manifest.resident.len()
    );
}

#[test]
fn what_is_no_store_is_an_error_and_a_stop_is_one_too() {
    let (fixture, _) = store();
    let error = verify_store(&fixture.model, &NoProgress).unwrap_err();
    assert!(
        error.to_string().contains("there is no manifest.json"),
        "{error}"
    );
    let stopped = verify_store(&fixture.store, &StopAt::report(2));
    assert!(matches!(stopped, Err(VerifyError::Cancelled)));
    fs::write(fixture.store.join("manifest.json"), "{").unwrap();
    assert!(matches!(
        verify_store(&fixture.store, &NoProgress),
        Err(VerifyError::Open(_))
    ));
}
