//! Which files of a folder a conversion has made, or servers beside it, by their names.

use super::ConvertError;
use super::destination::MARKER_FILE;
use super::plan::{CHAT_TEMPLATE, GENERATION_CONFIG, TOKENIZER};
use super::store_writer::PARTIAL_MANIFEST_FILE;
use crate::store_cache::FINGERPRINT_FILE;
use odmoe_formats::manifest::MANIFEST_FILE;
use odmoe_formats::usage::USAGE_FILE;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

const EXPERTS_FOLDER: &str = "experts";

/// Files of a store or of a stopped conversion.
#[derive(Default)]
pub(super) struct OldFiles {
    /// Paths from the destination.
    pub files: Vec<PathBuf>,
    /// Deepest first.
    pub folders: Vec<PathBuf>,
    /// What they take of the disk.
    pub bytes: u64,
}

impl OldFiles {
    /// Gathers them. Where the folder is not `ours` any file at all is somebody else's, and an error.
    pub fn find(folder: &Path, ours: bool) -> Result<Self, ConvertError> {
        let mut old = Self::default();
        old.collect(folder, Path::new(""), ours)?;
        Ok(old)
    }

    /// Gathers the files of a conversion under `folder`; `within` is its path from the destination.
    fn collect(&mut self, folder: &Path, within: &Path, ours: bool) -> Result<(), ConvertError> {
        for entry in fs::read_dir(folder).map_err(ConvertError::io(folder))? {
            let entry = entry.map_err(ConvertError::io(folder))?;
            let relative = within.join(entry.file_name());
            // Of the entry itself: a link is nothing that a conversion makes.
            let metadata = entry.metadata().map_err(ConvertError::io(entry.path()))?;
            let known = match metadata.is_dir() {
                true => is_our_folder(&relative),
                false => metadata.is_file() && is_our_file(&relative),
            };
            if !ours || !known {
                let root = folder.ancestors().nth(within.components().count());
                let path = root.unwrap_or(folder).into();
                let example = relative.to_string_lossy().into_owned();
                return Err(ConvertError::ForeignFiles { path, example });
            }
            if metadata.is_dir() {
                self.collect(&entry.path(), &relative, ours)?;
                self.folders.push(relative);
            } else {
                // Not the length: a file that was not finished may have holes.
                self.bytes += metadata.blocks() * 512;
                self.files.push(relative);
            }
        }
        Ok(())
    }
}

fn is_our_folder(relative: &Path) -> bool {
    let parts: Vec<String> = parts(relative);
    match parts.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [EXPERTS_FOLDER] => true,
        [EXPERTS_FOLDER, layer] => is_numbered(layer, "layer-", ""),
        _ => false,
    }
}

fn is_our_file(relative: &Path) -> bool {
    const KNOWN: [&str; 8] = [
        MARKER_FILE,
        MANIFEST_FILE,
        PARTIAL_MANIFEST_FILE,
        FINGERPRINT_FILE,
        USAGE_FILE,
        TOKENIZER,
        CHAT_TEMPLATE,
        GENERATION_CONFIG,
    ];
    let parts: Vec<String> = parts(relative);
    match parts.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [name] => {
            KNOWN.contains(&name)
                || is_numbered(name, "base-", ".safetensors")
                || is_numbered(name, &format!("{USAGE_FILE}."), "")
        }
        [EXPERTS_FOLDER, layer, expert] => {
            is_numbered(layer, "layer-", "") && is_numbered(expert, "expert-", ".safetensors")
        }
        _ => false,
    }
}

fn parts(relative: &Path) -> Vec<String> {
    relative
        .iter()
        .map(|part| part.to_string_lossy().into_owned())
        .collect()
}

fn is_numbered(name: &str, prefix: &str, suffix: &str) -> bool {
    let number = name
        .strip_prefix(prefix)
        .and_then(|rest| rest.strip_suffix(suffix));
    number.is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()))
}

pub(super) fn remove_if_there(path: &Path) -> Result<(), ConvertError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(ConvertError::io(path)(error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_a_conversion_makes_are_ours() {
        for ours in [
            "manifest.json",
            "base-00001.safetensors",
            "experts/layer-000/expert-127.safetensors",
        ] {
            assert!(is_our_file(Path::new(ours)), "{ours}");
        }
        for foreign in [
            "model.safetensors",
            "base-.safetensors",
            "experts/notes",
            "experts/layer-1/expert-x.safetensors",
            "a/manifest.json",
        ] {
            assert!(!is_our_file(Path::new(foreign)), "{foreign}");
        }
        assert!(is_our_folder(Path::new("experts/layer-12")));
        assert!(!is_our_folder(Path::new("experts/other")));
    }
}
