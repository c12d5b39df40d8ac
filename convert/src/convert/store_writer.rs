//! The folder of a conversion that is under way.

use super::ConvertError;
use super::destination::MARKER_FILE;
use super::disk::Disk;
use super::old_files::remove_if_there;
use odmoe_formats::manifest::MANIFEST_FILE;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

pub(super) const PARTIAL_MANIFEST_FILE: &str = "manifest.json.partial";

/// A folder that this conversion alone writes to.
pub(super) struct StoreWriter<'a> {
    pub path: PathBuf,
    pub disk: &'a dyn Disk,
    /// Keeps the lock while it is open.
    pub marker: File,
}

impl StoreWriter<'_> {
    pub fn path_of(&self, relative: &str) -> PathBuf {
        self.path.join(relative)
    }

    /// Makes a file, with the folders above it; one that is there already is emptied.
    pub fn create(&self, relative: &str) -> Result<(PathBuf, File), ConvertError> {
        self.open_with(relative, File::options().write(true).truncate(true))
    }

    /// Opens a file to read and to write, and makes it where it is not there.
    pub fn open(&self, relative: &str) -> Result<(PathBuf, File), ConvertError> {
        self.open_with(relative, File::options().read(true).write(true))
    }

    fn open_with(
        &self,
        relative: &str,
        options: &mut fs::OpenOptions,
    ) -> Result<(PathBuf, File), ConvertError> {
        let path = self.path_of(relative);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(ConvertError::io(folder))?;
        }
        let file = options.create(true).open(&path);
        let file = file.map_err(ConvertError::io(&path))?;
        Ok((path, file))
    }

    /// Makes a small file and waits until it is on disk.
    pub fn write_whole(&self, relative: &str, contents: &[u8]) -> Result<(), ConvertError> {
        let (path, file) = self.create(relative)?;
        let written = self.disk.write_at(&file, contents, 0);
        written.map_err(ConvertError::io(path))?;
        self.sync_file(&file, relative)
    }

    /// Waits until a file is on disk.
    pub fn sync_file(&self, file: &File, relative: &str) -> Result<(), ConvertError> {
        let synced = self.disk.sync(file);
        synced.map_err(ConvertError::io(self.path_of(relative)))
    }

    /// Waits until the names in a folder are on disk.
    pub fn sync_folder(&self, relative: &Path) -> Result<(), ConvertError> {
        let path = self.path.join(relative);
        let synced = self.disk.sync_folder(&path);
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
        remove_if_there(&self.path.join(MARKER_FILE))?;
        drop(self.marker);
        Ok(self.path)
    }
}

/// Makes a folder with those above it, and waits until its name and the names of all others that are new are on disk.
pub(super) fn make_folder(folder: &Path, disk: &dyn Disk) -> Result<(), ConvertError> {
    let full = std::path::absolute(folder).map_err(ConvertError::io(folder))?;
    let new = full
        .ancestors()
        .take_while(|ancestor| **ancestor == *full || !ancestor.exists());
    let parents: Vec<&Path> = new.filter_map(Path::parent).collect();
    fs::create_dir_all(&full).map_err(ConvertError::io(folder))?;
    for parent in parents {
        disk.sync_folder(parent).map_err(ConvertError::io(parent))?;
    }
    Ok(())
}
