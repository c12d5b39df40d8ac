//! Residency decides without a clock, a file or a thread; this reads its source to see that it stays so.

use std::path::Path;

/// What would let in time, storage or concurrency.
const FORBIDDEN: [&str; 12] = [
    "Instant",
    "SystemTime",
    "std::fs",
    "std::io",
    "std::thread",
    "std::sync",
    "std::env",
    "Backend",
    "Mutex",
    "Atomic",
    "rand::",
    "unsafe ",
];

fn check(dir: &Path) -> usize {
    let mut files = 0;
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files += check(&path);
            continue;
        }
        let source = std::fs::read_to_string(&path).unwrap();
        let code = source
            .lines()
            .filter(|line| !line.trim_start().starts_with("//"));
        for (number, line) in code.enumerate() {
            let found = FORBIDDEN.iter().find(|word| line.contains(**word));
            assert!(
                found.is_none(),
                "{}: line of code {number} says {found:?}: {line}",
                path.display()
            );
        }
        files += 1;
    }
    files
}

#[test]
fn residency_is_pure() {
    let files = check(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src/residency"));
    assert!(files > 10, "found {files} files only");
}
