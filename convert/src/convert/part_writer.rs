//! A part of a file that is written from front to back, with a hasher beside it.

use super::ConvertError;
use super::disk::Disk;
use odmoe_formats::checksum::{Xxh3, Xxh3Hasher};
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

/// After so many bytes the system is told to begin writing them, so that they do not pile up.
const WRITE_BEHIND_BYTES: u64 = 4 << 20;
/// Of one part at most so many bytes wait in memory to reach the disk.
const UNSYNCED_BYTES: u64 = 64 << 20;

pub(super) struct PartWriter<'a> {
    disk: &'a dyn Disk,
    file: Arc<File>,
    path: PathBuf,
    position: u64,
    /// Where the bytes begin that the system was not told to write yet.
    let_go: u64,
    /// Where the bytes begin that nobody has waited for yet.
    synced: u64,
    hasher: Xxh3Hasher,
}

impl<'a> PartWriter<'a> {
    /// Writes from `begin` on.
    pub fn new(disk: &'a dyn Disk, file: Arc<File>, path: PathBuf, begin: u64) -> Self {
        Self {
            disk,
            file,
            path,
            position: begin,
            let_go: begin,
            synced: begin,
            hasher: Xxh3Hasher::new(),
        }
    }

    pub fn position(&self) -> u64 {
        self.position
    }

    /// Writes bytes that the digest does not cover.
    pub fn write_header(&mut self, bytes: &[u8]) -> Result<(), ConvertError> {
        let written = self.disk.write_at(&self.file, bytes, self.position);
        written.map_err(ConvertError::io(&self.path))?;
        self.position += bytes.len() as u64;
        Ok(())
    }

    pub fn write(&mut self, bytes: &[u8]) -> Result<(), ConvertError> {
        self.hasher.update(bytes);
        self.write_header(bytes)?;
        if self.position - self.let_go >= WRITE_BEHIND_BYTES {
            self.begin_writing();
        }
        if self.position - self.synced >= UNSYNCED_BYTES {
            let synced = self.disk.sync(&self.file);
            synced.map_err(ConvertError::io(&self.path))?;
            let bytes = self.position - self.synced;
            self.disk.let_go(&self.file, self.synced, bytes);
            self.synced = self.position;
        }
        Ok(())
    }

    /// Writes zeros up to `offset`, less than a page away.
    pub fn fill_to(&mut self, offset: u64) -> Result<(), ConvertError> {
        const ZEROS: [u8; 4096] = [0; 4096];
        let filler = offset - self.position;
        if filler > 0 {
            self.write(&ZEROS[..filler as usize])?;
        }
        Ok(())
    }

    /// The digest of everything behind the header.
    pub fn finish(mut self) -> Xxh3 {
        self.begin_writing();
        self.hasher.finish()
    }

    fn begin_writing(&mut self) {
        let bytes = self.position - self.let_go;
        self.disk.let_go(&self.file, self.let_go, bytes);
        self.let_go = self.position;
    }
}
