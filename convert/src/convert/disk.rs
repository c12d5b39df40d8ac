//! The calls by which a store reaches its disk. Tests put a disk that fills up in their place.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

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

    /// Lets the system begin to write a range, without waiting, and forget what of it is written already: a store is
    /// larger than memory, and the pages would push out others that are of more use.
    fn let_go(&self, file: &File, offset: u64, bytes: u64) {
        crate::source::advise_file(file, offset, bytes, crate::source::Advice::DoneWith);
    }
}

/// The system's own.
pub(super) struct SystemDisk;

impl Disk for SystemDisk {}
