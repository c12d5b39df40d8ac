//! The oracle's files are those that its script wrote, by the script that lies beside them.

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

#[test]
fn files_are_those_that_the_script_wrote() {
    let oracle = root().join("tests/oracle");
    let script = sha256(&oracle.join("make_goldens.py"));
    let mut models = 0;
    for entry in std::fs::read_dir(oracle.join("models")).expect("models") {
        let folder = entry.expect("a readable folder").path();
        let text =
            std::fs::read_to_string(folder.join("provenance.json")).expect("provenance.json");
        let provenance: Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(
            provenance["script_sha256"],
            *script,
            "{}: run make_goldens.py again",
            folder.display()
        );
        let recorded = provenance["sha256"].as_object().expect("hashes");
        for (name, hash) in recorded {
            assert_eq!(
                *hash,
                sha256(&folder.join(name)),
                "{}/{name}",
                folder.display()
            );
        }
        let files = std::fs::read_dir(&folder).expect("a folder").count();
        assert_eq!(
            files,
            recorded.len() + 1,
            "{}: a file without a hash",
            folder.display()
        );
        models += 1;
    }
    assert_eq!(models, 4);
}
