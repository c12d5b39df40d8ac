//! Scheduler, KV bookkeeping and sampler decide without a clock, a file, a thread or chance from outside: the same
//! calls always end the same. This reads their source to see that it stays so.

use std::path::Path;

/// What would let in time, storage, concurrency or chance. Instants and sharing come in as values only: `Instant` and
/// `Arc` are allowed. Maps that hash start from a random state, and so have no order that can be repeated.
const FORBIDDEN: [&str; 19] = [
    "Instant::now",
    ".elapsed(",
    "SystemTime",
    "std::fs",
    "std::io",
    "std::net",
    "std::env",
    "std::process",
    "std::thread",
    "Backend",
    "Mutex",
    "RwLock",
    "Condvar",
    "Atomic",
    "rand::",
    "HashMap",
    "HashSet",
    "RandomState",
    "unsafe ",
];

/// The first forbidden word of a source, with its line.
fn impurity(source: &str) -> Option<(&'static str, &str)> {
    let code = source
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"));
    code.into_iter().find_map(|line| {
        let word = FORBIDDEN.iter().find(|word| line.contains(**word))?;
        Some((*word, line))
    })
}

/// Checks every file but the module's own tests; returns how many it read.
fn check(dir: &Path) -> usize {
    let mut files = 0;
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files += check(&path);
            continue;
        }
        if path.ends_with("tests.rs") {
            continue;
        }
        let source = std::fs::read_to_string(&path).unwrap();
        if let Some((word, line)) = impurity(&source) {
            panic!("{} says {word}: {line}", path.display());
        }
        files += 1;
    }
    files
}

#[test]
fn bookkeeping_and_sampling_are_pure() {
    for (module, least) in [("scheduler", 7), ("kv_cache", 3), ("sampler", 6)] {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("src")
            .join(module);
        let files = check(&dir);
        assert!(files >= least, "{module}: found {files} files only");
    }
}

#[test]
fn an_impure_line_is_found() {
    assert_eq!(impurity("use std::time::Instant;\n// Instant::now()"), None);
    let found = impurity("let a = 1;\nlet now = Instant::now();");
    assert_eq!(found, Some(("Instant::now", "let now = Instant::now();")));
}
