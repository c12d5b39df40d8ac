//! Where a model is written: what is there, how much room there is, and renaming into place.

use super::RandomModelError;
use crate::Preflight;
use odmoe_formats::ByteCount;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// Files of a Hugging Face folder that are replaced; the first makes it a model.
const MODEL_FILES: [&str; 5] = [
    "config.json",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "generation_config.json",
];

/// Compares what is needed with what is free.
pub(super) fn preflight(path: &Path, needed: u64) -> Result<Preflight, RandomModelError> {
    let full = std::path::absolute(path).map_err(RandomModelError::io(path))?;
    let there = full.ancestors().find(|folder| folder.is_dir());
    let there = there.unwrap_or(Path::new("/"));
    let found = rustix::fs::statvfs(there);
    let found = found.map_err(|error| RandomModelError::io(there)(error.into()))?;
    let free = ByteCount(found.f_bavail.saturating_mul(found.f_frsize));
    let needed = ByteCount(needed);
    if needed > free {
        return Err(RandomModelError::NoRoom {
            path: path.into(),
            needed,
            free,
            missing: ByteCount(needed.0 - free.0),
        });
    }
    Ok(Preflight {
        destination: path.into(),
        needed,
        free,
    })
}

/// Makes a folder that is a model no more, where it was one.
pub(super) fn prepare_folder(folder: &Path, overwrite: bool) -> Result<(), RandomModelError> {
    fs::create_dir_all(folder).map_err(RandomModelError::io(folder))?;
    let mut entries = fs::read_dir(folder).map_err(RandomModelError::io(folder))?;
    if entries.next().is_none() {
        return Ok(());
    }
    if !overwrite {
        return Err(RandomModelError::Exists {
            path: folder.into(),
        });
    }
    for name in MODEL_FILES {
        remove_if_there(&folder.join(name))?;
    }
    for entry in fs::read_dir(folder).map_err(RandomModelError::io(folder))? {
        let entry = entry.map_err(RandomModelError::io(folder))?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("model") && name.ends_with(".safetensors") {
            remove_if_there(&entry.path())?;
        }
    }
    Ok(())
}

pub(super) fn remove_if_there(path: &Path) -> Result<(), RandomModelError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(RandomModelError::io(path)(error)),
        _ => Ok(()),
    }
}

/// A file under a temporary name beside its own, which is removed unless it is put into place.
pub(super) struct PartialFile {
    path: PathBuf,
    temporary: PathBuf,
    placed: bool,
}

impl PartialFile {
    pub fn create(path: &Path) -> Result<(Self, File), RandomModelError> {
        if let Some(folder) = path
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty())
        {
            fs::create_dir_all(folder).map_err(RandomModelError::io(folder))?;
        }
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(".partial");
        let temporary = path.with_file_name(name);
        let file = File::create(&temporary).map_err(RandomModelError::io(&temporary))?;
        let partial = Self {
            path: path.into(),
            temporary,
            placed: false,
        };
        Ok((partial, file))
    }

    /// Renames it; its bytes are on disk already.
    pub fn place(mut self) -> Result<(), RandomModelError> {
        let renamed = fs::rename(&self.temporary, &self.path);
        renamed.map_err(RandomModelError::io(&self.path))?;
        self.placed = true;
        Ok(())
    }
}

impl Drop for PartialFile {
    fn drop(&mut self) {
        if !self.placed {
            // What cannot be removed is left under a name that no one opens.
            let _ = fs::remove_file(&self.temporary);
        }
    }
}
