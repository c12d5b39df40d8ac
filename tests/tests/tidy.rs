//! Rules about the code itself.

use odmoe_tests::workspace::{members, root, rust_files};

/// A longer file is more than one idea.
const FILE_LINES_MAX: usize = 700;

#[test]
fn files_are_short() {
    let long: Vec<String> = rust_files()
        .into_iter()
        .filter_map(|path| {
            let lines = std::fs::read_to_string(root().join(&path))
                .expect("UTF-8")
                .lines()
                .count();
            (lines > FILE_LINES_MAX).then(|| format!("{}: {lines} lines", path.display()))
        })
        .collect();
    assert!(
        long.is_empty(),
        "split at a seam of ideas, at most {FILE_LINES_MAX} lines: {long:#?}"
    );
}

/// `unsafe` has addresses: the backends, the store's reads, and the allocator that a test counts with. Every other crate
/// root forbids it.
#[test]
fn unsafe_lives_where_it_may() {
    let may = [
        "backends/cpu/",
        "backends/checking/",
        "expert_store/src/io",
        "tests/tests/fuzz_corpus/allocator.rs",
    ];
    for path in rust_files() {
        let name = path.to_string_lossy();
        if may.iter().any(|allowed| name.starts_with(allowed)) {
            continue;
        }
        let text = std::fs::read_to_string(root().join(&path)).expect("UTF-8");
        let code = text
            .lines()
            .filter(|line| !line.trim_start().starts_with("//"));
        for line in code {
            let found = ["unsafe {", "unsafe fn", "unsafe impl"]
                .iter()
                .any(|form| line.contains(form));
            assert!(
                !found || name.ends_with("tidy.rs"),
                "{name}: {line}: unsafe only in {may:?}"
            );
        }
    }
}

#[test]
fn crate_roots_forbid_unsafe() {
    for member in members() {
        // These have modules with `unsafe`; the backends' interface has none.
        if ["backends/cpu", "backends/checking", "expert_store"].contains(&member.folder.as_str()) {
            continue;
        }
        for name in ["lib.rs", "main.rs"] {
            let path = root().join(&member.folder).join("src").join(name);
            if let Ok(text) = std::fs::read_to_string(&path) {
                assert!(
                    text.contains("#![forbid(unsafe_code)]"),
                    "{}: forbid unsafe code",
                    path.display()
                );
            }
        }
    }
}

#[test]
fn nothing_is_left_undone_or_skipped() {
    let marks = [
        concat!("to", "do!("),
        concat!("unimple", "mented!("),
        concat!("#[igno", "re"),
    ];
    for path in rust_files() {
        let text = std::fs::read_to_string(root().join(&path)).expect("UTF-8");
        for mark in marks {
            assert!(!text.contains(mark), "{}: {mark}", path.display());
        }
    }
}
