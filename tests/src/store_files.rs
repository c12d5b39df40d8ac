//! The files of a store, for tests that damage them.

use serde_json::Value;
use std::path::{Path, PathBuf};

/// A store on disk.
#[derive(Clone, Debug)]
pub struct StoreFolder {
    /// Where it is.
    pub path: PathBuf,
    manifest: Value,
}

impl StoreFolder {
    /// The one store somewhere below a folder.
    #[track_caller]
    pub fn find(below: &Path) -> Self {
        let mut found = Vec::new();
        find_manifests(below, &mut found);
        assert_eq!(
            found.len(),
            1,
            "stores below {}: {found:?}",
            below.display()
        );
        let path = found.remove(0);
        let text = std::fs::read_to_string(path.join("manifest.json")).expect("a manifest");
        Self {
            manifest: serde_json::from_str(&text).expect("a manifest of JSON"),
            path,
        }
    }

    /// The files of a layer's experts.
    pub fn expert_files(&self, layer: u64) -> Vec<PathBuf> {
        let objects = self.manifest["objects"].as_array().expect("objects");
        let of_layer = objects
            .iter()
            .filter(|object| object["key"]["layer"] == layer);
        let index = |object: &Value| object["file"].as_u64().expect("a file's index") as usize;
        of_layer
            .map(|object| self.path.join(self.file_name(index(object))))
            .collect()
    }

    /// Layers with experts.
    pub fn sparse_layers(&self) -> u64 {
        let objects = self.manifest["objects"].as_array().expect("objects");
        let layers = objects
            .iter()
            .filter_map(|object| object["key"]["layer"].as_u64());
        layers.max().expect("experts") + 1
    }

    /// Bytes of all experts.
    pub fn expert_bytes(&self) -> u64 {
        let objects = self.manifest["objects"].as_array().expect("objects");
        objects
            .iter()
            .filter_map(|object| object["bytes"].as_u64())
            .sum()
    }

    fn file_name(&self, index: usize) -> &str {
        self.manifest["files"][index]["path"]
            .as_str()
            .expect("a file's path")
    }
}

fn find_manifests(folder: &Path, into: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return;
    };
    for path in entries.flatten().map(|entry| entry.path()) {
        if path.is_dir() {
            find_manifests(&path, into);
        } else if path.file_name().is_some_and(|name| name == "manifest.json") {
            into.push(folder.to_path_buf());
        }
    }
}

/// Files put out of order; [`Self::repair`] brings back the bytes that they had.
pub struct Damage {
    originals: Vec<(PathBuf, Vec<u8>)>,
}

impl Damage {
    /// Cuts each file to half its length.
    pub fn truncate(files: &[PathBuf]) -> Self {
        Self::apply(files, |path, bytes| {
            std::fs::OpenOptions::new()
                .write(true)
                .open(path)
                .and_then(|file| file.set_len(bytes.len() as u64 / 2))
        })
    }

    /// Puts another file of the same length in each one's place.
    pub fn replace(files: &[PathBuf]) -> Self {
        Self::apply(files, |path, bytes| {
            let other: Vec<u8> = bytes.iter().map(|byte| byte ^ 0x55).collect();
            let beside = path.with_extension("other");
            std::fs::write(&beside, other)?;
            std::fs::rename(beside, path)
        })
    }

    /// Flips one bit in the middle of each file, in place.
    pub fn flip_one_bit(files: &[PathBuf]) -> Self {
        Self::apply(files, |path, bytes| {
            let mut changed = bytes.to_vec();
            changed[bytes.len() / 2] ^= 0x10;
            std::fs::write(path, changed)
        })
    }

    /// Removes each file.
    pub fn delete(files: &[PathBuf]) -> Self {
        Self::apply(files, |path, _| std::fs::remove_file(path))
    }

    fn apply(files: &[PathBuf], change: impl Fn(&Path, &[u8]) -> std::io::Result<()>) -> Self {
        let mut originals = Vec::new();
        for path in files {
            let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            change(path, &bytes).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            originals.push((path.clone(), bytes));
        }
        Self { originals }
    }

    /// Brings the bytes back, as new files.
    pub fn repair(self) {
        for (path, bytes) in self.originals {
            let beside = path.with_extension("repaired");
            std::fs::write(&beside, bytes).expect("a writable store");
            std::fs::rename(beside, path).expect("a writable store");
        }
    }
}
