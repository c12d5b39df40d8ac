//! Where the project's files are, and what its manifests say.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use toml::Table;

/// The folder of the root `Cargo.toml`: of the checkout that Cargo runs the test in, which need not be the one that it
/// was compiled in where checkouts share a target folder.
pub fn root() -> PathBuf {
    let tests = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    let tests = tests.unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")));
    tests
        .parent()
        .expect("the tests crate lies in the workspace")
        .to_path_buf()
}

/// One member of the workspace.
#[derive(Clone, Debug)]
pub struct Member {
    /// Its folder, relative to the root, `/` between parts.
    pub folder: String,
    /// Folders of the members that it uses.
    pub uses: BTreeSet<String>,
    /// Folders of the members that only its tests use.
    pub tests_use: BTreeSet<String>,
}

/// Every member of the workspace with its arrows, from the manifests.
pub fn members() -> Vec<Member> {
    let manifest = read_manifest(&root().join("Cargo.toml"));
    let workspace = manifest["workspace"].as_table().expect("[workspace]");
    let shared = workspace["dependencies"]
        .as_table()
        .expect("[workspace.dependencies]");
    let folder_of = |package: &str| -> Option<String> {
        let path = shared.get(package)?.as_table()?.get("path")?.as_str()?;
        Some(path.to_string())
    };
    let folders = workspace["members"].as_array().expect("members");
    let folders = folders
        .iter()
        .map(|folder| folder.as_str().expect("a member is a string"));
    folders
        .map(|folder| read_member(folder, &folder_of))
        .collect()
}

fn read_member(folder: &str, folder_of: &dyn Fn(&str) -> Option<String>) -> Member {
    let manifest = read_manifest(&root().join(folder).join("Cargo.toml"));
    let mut member = Member {
        folder: folder.to_string(),
        uses: BTreeSet::new(),
        tests_use: BTreeSet::new(),
    };
    // Dependencies of one platform are arrows like any other.
    let platforms = manifest
        .get("target")
        .and_then(|t| t.as_table())
        .into_iter()
        .flatten();
    let tables = platforms
        .filter_map(|(_, table)| table.as_table())
        .chain([&manifest]);
    for table in tables {
        for (section, is_test) in [
            ("dependencies", false),
            ("build-dependencies", false),
            ("dev-dependencies", true),
        ] {
            let names = table
                .get(section)
                .and_then(|s| s.as_table())
                .into_iter()
                .flatten();
            for (package, spec) in names {
                let own = spec.get("path").is_some() || package.starts_with("odmoe");
                let used = folder_of(package);
                assert!(
                    used.is_some() || !own,
                    "{folder}: {package} is not in [workspace.dependencies] with a path"
                );
                let arrows = if is_test {
                    &mut member.tests_use
                } else {
                    &mut member.uses
                };
                arrows.extend(used);
            }
        }
    }
    member.tests_use = &member.tests_use - &member.uses;
    member
}

fn read_manifest(path: &Path) -> Table {
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    text.parse()
        .unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Rust files of the workspace's members, by path relative to the root.
pub fn rust_files() -> Vec<PathBuf> {
    let mut files = Vec::new();
    for member in members() {
        for part in ["src", "tests", "benches", "examples"] {
            collect_rust_files(&root().join(&member.folder).join(part), &mut files);
        }
    }
    files.sort();
    files
}

fn collect_rust_files(folder: &Path, into: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return;
    };
    for path in entries.map(|entry| entry.expect("a readable folder").path()) {
        if path.is_dir() {
            collect_rust_files(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push(
                path.strip_prefix(root())
                    .expect("below the root")
                    .to_path_buf(),
            );
        }
    }
}

/// The text of the fenced blocks with this info string in a Markdown file, in order.
pub fn fenced_blocks(markdown: &str, info: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut open: Option<(bool, String)> = None;
    for line in markdown.lines() {
        if let Some(found) = line.strip_prefix("```") {
            match open.take() {
                None => open = Some((found.trim() == info, String::new())),
                Some((wanted, text)) if wanted => blocks.push(text),
                Some(_) => {}
            }
        } else if let Some((_, text)) = &mut open {
            text.push_str(line);
            text.push('\n');
        }
    }
    assert!(open.is_none(), "a fenced block is not closed");
    blocks
}
