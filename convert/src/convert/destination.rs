//! The folder that a store is written to: what is there already, how much room there is, and the order in which
//! things happen so that a stop at any time leaves nothing that opens as a store.
//!
//! A marker file is there from before the first change until after the manifest's rename. A folder with a marker or
//! a manifest was made by a conversion, and its known files may be replaced; any other file is somebody else's.

use super::plan::{CHAT_TEMPLATE, GENERATION_CONFIG, TOKENIZER};
use super::{ConvertError, Preflight};
use crate::store_cache::FINGERPRINT_FILE;
use odmoe_formats::ByteCount;
use odmoe_formats::manifest::MANIFEST_FILE;
use std::fs::{self, File, TryLockError};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Says that a conversion is or was under way; locked while it is.
const MARKER_FILE: &str = ".odmoe-incomplete";
const PARTIAL_MANIFEST_FILE: &str = "manifest.json.partial";
const EXPERTS_FOLDER: &str = "experts";

/// A folder that may be written to.
pub(super) struct Destination {
    path: PathBuf,
    overwrite: bool,
    /// Files of a store or of a stopped conversion, to be removed.
    old: OldFiles,
}

#[derive(Default)]
struct OldFiles {
    files: Vec<PathBuf>,
    /// Deepest first.
    folders: Vec<PathBuf>,
    bytes: u64,
}

impl Destination {
    /// Looks at a destination without changing anything.
    pub fn inspect(path: &Path, overwrite: bool) -> Result<Self, ConvertError> {
        let metadata = match fs::metadata(path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let old = OldFiles::default();
                return Ok(Self {
                    path: path.into(),
                    overwrite,
                    old,
                });
            }
            Err(error) => return Err(ConvertError::io(path)(error)),
        };
        if !metadata.is_dir() {
            return Err(ConvertError::NotAFolder { path: path.into() });
        }
        let has_manifest = path.join(MANIFEST_FILE).exists();
        if has_manifest && !overwrite {
            return Err(ConvertError::StoreExists { path: path.into() });
        }
        let ours = has_manifest || path.join(MARKER_FILE).exists();
        let mut old = OldFiles::default();
        old.collect(path, Path::new(""), ours)?;
        Ok(Self {
            path: path.into(),
            overwrite,
            old,
        })
    }

    pub fn preflight(&self, needed: ByteCount) -> Result<Preflight, ConvertError> {
        let free = free_bytes(&self.path)?.saturating_add(self.old.bytes);
        Ok(Preflight {
            destination: self.path.clone(),
            needed,
            free: ByteCount(free),
        })
    }

    /// Takes the folder: from now on it does not open as a store, until [`StoreWriter::finish`].
    pub fn begin(self) -> Result<StoreWriter, ConvertError> {
        fs::create_dir_all(&self.path).map_err(ConvertError::io(&self.path))?;
        let writer = StoreWriter {
            marker: lock_marker(&self.path)?,
            path: self.path,
        };
        // Between the inspection and the lock another conversion may have come and gone.
        if writer.path.join(MANIFEST_FILE).exists() && !self.overwrite {
            remove_if_there(&writer.path.join(MARKER_FILE))?;
            return Err(ConvertError::StoreExists { path: writer.path });
        }
        let mut old = OldFiles::default();
        old.collect(&writer.path, Path::new(""), true)?;
        // The manifest goes first: what follows it must not be taken for a store.
        remove_if_there(&writer.path.join(MANIFEST_FILE))?;
        writer.sync_folder(Path::new(""))?;
        let is_marker = |file: &&PathBuf| file.file_name().is_some_and(|name| name == MARKER_FILE);
        for file in old.files.iter().filter(|file| !is_marker(file)) {
            remove_if_there(file)?;
        }
        for folder in &old.folders {
            fs::remove_dir(folder).map_err(ConvertError::io(folder))?;
        }
        Ok(writer)
    }
}

/// Makes and locks the marker, and makes sure that it is still the one in the folder: whoever held the lock before
/// may have removed it.
fn lock_marker(folder: &Path) -> Result<File, ConvertError> {
    let path = folder.join(MARKER_FILE);
    let marker = File::create(&path).map_err(ConvertError::io(&path))?;
    match marker.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            return Err(ConvertError::Busy {
                path: folder.into(),
            });
        }
        Err(TryLockError::Error(error)) => return Err(ConvertError::io(path)(error)),
    }
    let inode = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
    let locked = marker
        .metadata()
        .map(inode)
        .map_err(ConvertError::io(&path))?;
    match fs::metadata(&path).map(inode) {
        Ok(there) if there == locked => Ok(marker),
        _ => Err(ConvertError::Busy {
            path: folder.into(),
        }),
    }
}

impl OldFiles {
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
                self.folders.push(entry.path());
            } else {
                self.bytes += metadata.len();
                self.files.push(entry.path());
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
    const KNOWN: [&str; 7] = [
        MARKER_FILE,
        MANIFEST_FILE,
        PARTIAL_MANIFEST_FILE,
        FINGERPRINT_FILE,
        TOKENIZER,
        CHAT_TEMPLATE,
        GENERATION_CONFIG,
    ];
    let parts: Vec<String> = parts(relative);
    match parts.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [name] => KNOWN.contains(&name) || is_numbered(name, "base-", ".safetensors"),
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

/// Bytes that an ordinary user may still write where `path` is or will be.
fn free_bytes(path: &Path) -> Result<u64, ConvertError> {
    let full = std::path::absolute(path).map_err(ConvertError::io(path))?;
    let there = full
        .ancestors()
        .find(|ancestor| ancestor.exists())
        .unwrap_or(Path::new("/"));
    match rustix::fs::statvfs(there) {
        Ok(found) => Ok(found.f_bavail.saturating_mul(found.f_frsize)),
        Err(error) => Err(ConvertError::io(there)(error.into())),
    }
}

fn remove_if_there(path: &Path) -> Result<(), ConvertError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(ConvertError::io(path)(error)),
        _ => Ok(()),
    }
}

/// A folder that this conversion alone writes to.
pub(super) struct StoreWriter {
    path: PathBuf,
    /// Keeps the lock while it is open.
    marker: File,
}

impl StoreWriter {
    /// Makes a file, with the folders above it.
    pub fn create(&self, relative: &str) -> Result<(PathBuf, File), ConvertError> {
        let path = self.path.join(relative);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(ConvertError::io(folder))?;
        }
        let file = File::create(&path).map_err(ConvertError::io(&path))?;
        Ok((path, file))
    }

    /// Makes a small file and waits until it is on disk.
    pub fn write_whole(&self, relative: &str, contents: &[u8]) -> Result<(), ConvertError> {
        let (path, mut file) = self.create(relative)?;
        let written = file.write_all(contents).and_then(|()| file.sync_all());
        written.map_err(ConvertError::io(path))
    }

    /// Waits until files and the folders above them are on disk. Together, after they are all written: the first
    /// wait then does most of the work of the others.
    pub fn sync_files<'a>(
        &self,
        relative: impl IntoIterator<Item = &'a str>,
    ) -> Result<(), ConvertError> {
        let mut folders = std::collections::BTreeSet::new();
        for file in relative {
            let path = self.path.join(file);
            let synced = File::open(&path).and_then(|file| file.sync_all());
            synced.map_err(ConvertError::io(path))?;
            folders.extend(Path::new(file).ancestors().skip(1).map(Path::to_path_buf));
        }
        folders
            .iter()
            .try_for_each(|folder| self.sync_folder(folder))
    }

    fn sync_folder(&self, relative: &Path) -> Result<(), ConvertError> {
        let path = self.path.join(relative);
        let synced = File::open(&path).and_then(|folder| folder.sync_all());
        synced.map_err(ConvertError::io(path))
    }

    /// Puts the manifest in place. The folder is a store from the rename on.
    pub fn finish(self, manifest: &[u8]) -> Result<PathBuf, ConvertError> {
        self.write_whole(PARTIAL_MANIFEST_FILE, manifest)?;
        self.sync_folder(Path::new(""))?;
        let (from, to) = (
            self.path.join(PARTIAL_MANIFEST_FILE),
            self.path.join(MANIFEST_FILE),
        );
        fs::rename(from, &to).map_err(ConvertError::io(to))?;
        self.sync_folder(Path::new(""))?;
        self.sync_parent()?;
        remove_if_there(&self.path.join(MARKER_FILE))?;
        drop(self.marker);
        Ok(self.path)
    }

    /// The folder itself may be new.
    fn sync_parent(&self) -> Result<(), ConvertError> {
        let full = std::path::absolute(&self.path).map_err(ConvertError::io(&self.path))?;
        let parent = full.parent().unwrap_or(&full);
        let synced = File::open(parent).and_then(|folder| folder.sync_all());
        synced.map_err(ConvertError::io(parent))
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

    #[test]
    fn free_space_is_that_of_the_nearest_folder_that_exists() {
        let folder = std::env::temp_dir();
        assert!(free_bytes(&folder).unwrap() > 0);
        assert!(free_bytes(&folder.join("not/there/yet")).unwrap() > 0);
    }
}
