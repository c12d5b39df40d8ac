//! The oracle's files are those that its scripts wrote, by the scripts that lie beside them.

use odmoe_tests::workspace::root;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::path::Path;

fn sha256(path: &Path) -> String {
    let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    Sha256::digest(&bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// Compares the files of a folder with its `provenance.json`.
fn check_one(model: &Path, script: &str) {
    let oracle = root().join("tests/oracle");
    let text = std::fs::read_to_string(model.join("provenance.json")).expect("provenance.json");
    let provenance: Value = serde_json::from_str(&text).expect("JSON");
    let scripts = provenance["script_sha256"].as_object().expect("hashes");
    assert!(scripts.contains_key(script));
    for (name, hash) in scripts {
        assert_eq!(
            *hash,
            sha256(&oracle.join(name)),
            "{}: run {script} again",
            model.display()
        );
    }
    let recorded = provenance["sha256"].as_object().expect("hashes");
    for (name, hash) in recorded {
        assert_eq!(
            *hash,
            sha256(&model.join(name)),
            "{}/{name}",
            model.display()
        );
    }
    let files = std::fs::read_dir(model).expect("a folder").count();
    assert_eq!(
        files,
        recorded.len() + 1,
        "{}: a file without a hash",
        model.display()
    );
}

/// Compares every model of a folder with its provenance; `script` is the one that makes them.
fn check(folder: &str, script: &str, expected_models: usize) {
    let models = std::fs::read_dir(root().join("tests/oracle").join(folder)).expect("models");
    let models: Vec<_> = models
        .map(|entry| entry.expect("a readable folder").path())
        .collect();
    for model in &models {
        check_one(model, script);
    }
    assert_eq!(models.len(), expected_models);
}

#[test]
fn hugging_face_models_are_those_that_the_script_wrote() {
    check("models", "make_goldens.py", 11);
}

#[test]
fn gguf_models_are_those_that_the_script_wrote() {
    check("gguf", "make_gguf_goldens.py", 17);
}

#[test]
fn vectors_of_block_formats_are_those_that_the_script_wrote() {
    check_one(
        &root().join("formats/tests/quants"),
        "quants/make_quants.py",
    );
}

#[test]
fn vocabularies_are_those_that_the_script_wrote() {
    check_one(&root().join("tests/oracle/vocab"), "vocab/make.py");
}
