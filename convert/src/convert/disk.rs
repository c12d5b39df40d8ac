//! The calls by which a store reaches its disk. Tests put a disk that fills up in their place.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// What an ordinary user may still add to a file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Room {
    pub bytes: u64,
    /// Files and folders; None where the file system has no limit of its own.
    pub files: Option<u64>,
}

pub(super) trait Disk: Sync {
    /// Writes all of `bytes` at `offset`.
    fn write_at(&self, file: &File, bytes: &[u8], offset: u64) -> std::io::Result<()> {
        file.write_all_at(bytes, offset)
    }

    /// Waits until a file's bytes are on disk.
    fn sync(&self, file: &File) -> std::io::Result<()> {
        file.sync_data()
    }

    /// Waits until the names in a folder are on disk.
    fn sync_folder(&self, folder: &Path) -> std::io::Result<()> {
        File::open(folder)?.sync_all()
    }

    /// What is free where a folder lies.
    fn room(&self, folder: &Path) -> std::io::Result<Room> {
        let found = rustix::fs::statvfs(folder)?;
        Ok(Room {
            bytes: found.f_bavail.saturating_mul(found.f_frsize),
            files: (found.f_files > 0).then_some(found.f_favail),
        })
    }

    /// Lets the system begin to write a range, without waiting, and forget what of it is written already: a store is
    /// larger than memory, and the pages would push out others that are of more use.
    fn let_go(&self, file: &File, offset: u64, bytes: u64) {
        crate::source::advise_file(file, offset, bytes, crate::source::Advice::DoneWith);
    }
}

/// The system's own.
pub(super) struct SystemDisk;

impl Disk for SystemDisk {}
