//! The folder that a store is written to: what is there already, how much room there is, and the order in which
//! things happen so that a stop at any time leaves nothing that opens as a store.
//!
//! A marker file is there from before the first change until after the manifest's rename; it holds the journal. A
//! folder with a marker or a manifest was made by a conversion, and its known files may be replaced; any other file is
//! somebody else's.

use super::disk::{Disk, Room};
use super::journal::{self, Found, Heading, Journal, Records};
use super::old_files::{OldFiles, remove_if_there};
use super::store_writer::{StoreWriter, make_folder};
use super::{ConvertError, Preflight};
use odmoe_formats::ByteCount;
use odmoe_formats::manifest::MANIFEST_FILE;
use std::collections::HashSet;
use std::fs::{self, File, TryLockError};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Says that a conversion is or was under way, and how far it had come; locked while it is.
pub(super) const MARKER_FILE: &str = ".odmoe-incomplete";

/// A folder that may be written to.
pub(super) struct Destination<'a> {
    path: PathBuf,
    overwrite: bool,
    heading: &'a Heading,
    /// What files of a store or of a stopped conversion take of the disk.
    old_bytes: u64,
    /// And how many they are, with folders.
    old_files: u64,
}

/// A folder that has been taken.
pub(super) struct Taken<'a> {
    pub writer: StoreWriter<'a>,
    pub journal: Journal,
    /// What is there already.
    pub records: Records,
    /// Why what was there could not be taken up.
    pub started_over: Option<&'static str>,
}

impl<'a> Destination<'a> {
    /// Looks at a destination without changing anything.
    pub fn inspect(
        path: &Path,
        overwrite: bool,
        heading: &'a Heading,
    ) -> Result<Self, ConvertError> {
        let mut destination = Self {
            path: path.into(),
            overwrite,
            heading,
            old_bytes: 0,
            old_files: 0,
        };
        match fs::metadata(path) {
            Ok(metadata) if metadata.is_dir() => {}
            Ok(_) => return Err(ConvertError::NotAFolder { path: path.into() }),
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(destination),
            Err(error) => return Err(ConvertError::io(path)(error)),
        }
        let marker = path.join(MARKER_FILE);
        destination.check_replaceable(&journal::read(&marker, heading)?)?;
        let ours = path.join(MANIFEST_FILE).exists() || marker.exists();
        let old = OldFiles::find(path, ours)?;
        destination.old_bytes = old.bytes;
        destination.old_files = (old.files.len() + old.folders.len()) as u64;
        Ok(destination)
    }

    /// A store may be replaced when that was asked for, or when it is the one that is to be made, of a conversion that
    /// was stopped after its last step.
    fn check_replaceable(&self, found: &Found) -> Result<(), ConvertError> {
        let has_manifest = self.path.join(MANIFEST_FILE).exists();
        if has_manifest && !self.overwrite && !matches!(found, Found::Same { .. }) {
            let path = self.path.clone();
            return Err(ConvertError::StoreExists { path });
        }
        Ok(())
    }

    /// What the conversion needs and what there is, with what files that will go or stay take.
    pub fn preflight(&self, needed: ByteCount, disk: &dyn Disk) -> Result<Preflight, ConvertError> {
        let free = room(&self.path, disk)?.bytes;
        Ok(Preflight {
            destination: self.path.clone(),
            needed,
            free: ByteCount(free.saturating_add(self.old_bytes)),
        })
    }

    /// Whether so many files and folders can be made.
    pub fn check_files(&self, needed: u64, disk: &dyn Disk) -> Result<(), ConvertError> {
        let Some(free) = room(&self.path, disk)?.files else {
            return Ok(());
        };
        let free = free.saturating_add(self.old_files);
        match needed <= free {
            true => Ok(()),
            false => Err(ConvertError::TooManyFiles {
                destination: self.path.clone(),
                needed,
                free,
            }),
        }
    }

    /// What a conversion that has begun takes of the disk, and what is free beside it, together.
    pub fn room_with_what_is_there(path: &Path, disk: &dyn Disk) -> Result<Room, ConvertError> {
        let there = OldFiles::find(path, true)?;
        let free = room(path, disk)?;
        Ok(Room {
            bytes: free.bytes.saturating_add(there.bytes),
            ..free
        })
    }

    /// Takes the folder: from now on it does not open as a store, until [`StoreWriter::finish`]. Of what an earlier
    /// attempt at the same conversion left, the files that are `planned` stay; everything else goes.
    pub fn begin(
        self,
        planned: &HashSet<&Path>,
        disk: &'a dyn Disk,
    ) -> Result<Taken<'a>, ConvertError> {
        make_folder(&self.path, disk)?;
        let marker = lock_marker(&self.path)?;
        let marker_path = self.path.join(MARKER_FILE);
        let found = journal::read(&marker_path, self.heading)?;
        // Between the inspection and the lock another conversion may have come and gone.
        if let Err(error) = self.check_replaceable(&found) {
            remove_if_there(&marker_path)?;
            return Err(error);
        }
        let file = marker.try_clone();
        let file = file.map_err(ConvertError::io(&marker_path))?;
        let writer = StoreWriter {
            path: self.path,
            disk,
            marker,
        };
        let is_planned = |file: &Path| planned.contains(file);
        let (records, journal, started_over) = match found {
            Found::Same {
                records,
                whole_bytes,
            } => {
                clear(&writer, is_planned)?;
                let journal = Journal::go_on(file, marker_path, whole_bytes)?;
                (records, journal, None)
            }
            other => {
                clear(&writer, |_| false)?;
                let journal = Journal::begin(file, marker_path, self.heading)?;
                let why = match other {
                    Found::Other(why) => Some(why),
                    _ => None,
                };
                (Records::default(), journal, why)
            }
        };
        writer.sync_folder(Path::new(""))?;
        Ok(Taken {
            writer,
            journal,
            records,
            started_over,
        })
    }
}

/// Removes everything but the marker and what is to be kept.
fn clear(writer: &StoreWriter<'_>, keep: impl Fn(&Path) -> bool) -> Result<(), ConvertError> {
    let old = OldFiles::find(&writer.path, true)?;
    // The manifest goes first: what follows it must not be taken for a store.
    remove_if_there(&writer.path_of(MANIFEST_FILE))?;
    writer.sync_folder(Path::new(""))?;
    let is_marker = |file: &Path| file == Path::new(MARKER_FILE);
    for file in old.files.iter().filter(|file| !is_marker(file)) {
        if !keep(file) {
            remove_if_there(&writer.path.join(file))?;
        }
    }
    for folder in &old.folders {
        let path = writer.path.join(folder);
        match fs::remove_dir(&path) {
            Err(error) if error.kind() != ErrorKind::DirectoryNotEmpty => {
                return Err(ConvertError::io(path)(error));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Makes and locks the marker, and makes sure that it is still the one in the folder: whoever held the lock before
/// may have removed it.
fn lock_marker(folder: &Path) -> Result<File, ConvertError> {
    let path = folder.join(MARKER_FILE);
    let mut options = File::options();
    // Not emptied: it is read once it is known to be nobody else's.
    let marker = options.read(true).write(true).create(true).truncate(false);
    let marker = marker.open(&path).map_err(ConvertError::io(&path))?;
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

/// What may still be written where `path` is or will be.
fn room(path: &Path, disk: &dyn Disk) -> Result<Room, ConvertError> {
    let full = std::path::absolute(path).map_err(ConvertError::io(path))?;
    let there = full
        .ancestors()
        .find(|ancestor| ancestor.exists())
        .unwrap_or(Path::new("/"));
    disk.room(there).map_err(ConvertError::io(there))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::convert::disk::SystemDisk;

    #[test]
    fn free_space_is_that_of_the_nearest_folder_that_exists() {
        let folder = std::env::temp_dir();
        let there = room(&folder, &SystemDisk).unwrap();
        assert!(there.bytes > 0 && there.files != Some(0));
        let new = room(&folder.join("not/there/yet"), &SystemDisk).unwrap();
        assert!(new.bytes > 0 && new.files.is_some() == there.files.is_some());
    }
}
