//! Reads a whole store again and compares it with its manifest.

use crate::progress::{Progress, Tracker};
use crate::store::{OpenStoreError, check_store_files, open_store};
use odmoe_formats::ByteCount;
use odmoe_formats::checksum::Xxh3Hasher;
use odmoe_formats::manifest::{FileIndex, Manifest};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

const PIECE_BYTES: u64 = 4 << 20;

/// What a verification found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VerifyReport {
    /// Tensors and objects whose checksum was computed.
    pub checked: usize,
    /// Their bytes.
    pub bytes: ByteCount,
    /// What is wrong; empty for a sound store.
    pub problems: Vec<Problem>,
}

/// One damaged or unreadable part of a store.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// The bytes are not those that were converted.
    #[error("{what} in {path}: checksum {found} where the manifest says {expected}")]
    Checksum {
        /// Which tensor or object.
        what: String,
        /// Its file.
        path: PathBuf,
        /// From the manifest.
        expected: String,
        /// Of the bytes on disk.
        found: String,
    },
    /// The bytes cannot be read.
    #[error("{what} in {path}: {reason}")]
    Unreadable {
        /// Which tensor or object.
        what: String,
        /// Its file.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// A file is missing or of another size.
    #[error("{0}")]
    File(String),
}

/// A verification that did not take place.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// It is no store, or its manifest is broken.
    #[error(transparent)]
    Open(#[from] OpenStoreError),
    /// The progress receiver said so.
    #[error("the verification was cancelled")]
    Cancelled,
}

impl From<crate::progress::Cancelled> for VerifyError {
    fn from(_: crate::progress::Cancelled) -> Self {
        Self::Cancelled
    }
}

/// A range of a file with the digest that it should have.
struct Part<'a> {
    file: FileIndex,
    offset: u64,
    bytes: u64,
    expected: &'a str,
    what: String,
}

/// Reads everything that has a checksum and compares. Damage is reported, not an error; it goes on after it.
pub fn verify_store(folder: &Path, progress: &dyn Progress) -> Result<VerifyReport, VerifyError> {
    let manifest = open_store(folder)?;
    let mut report = VerifyReport::default();
    if let Err(error) = check_store_files(folder, &manifest) {
        report.problems.push(Problem::File(error.to_string()));
    }
    let parts = parts(&manifest);
    let total = parts.iter().map(|part| part.bytes).sum();
    let mut tracker = Tracker::new(progress, total);
    tracker.step("checksums", total)?;
    let mut piece = Vec::new();
    for part in &parts {
        let path = folder.join(&manifest.file(part.file).path);
        let what = || part.what.clone();
        match digest(&path, part, &mut piece, &mut tracker)? {
            Ok(found) if found == part.expected => {}
            Ok(found) => {
                let expected = part.expected.into();
                report.problems.push(Problem::Checksum {
                    what: what(),
                    path,
                    expected,
                    found,
                });
            }
            Err(error) => {
                let reason = error.to_string();
                report.problems.push(Problem::Unreadable {
                    what: what(),
                    path,
                    reason,
                });
            }
        }
        report.checked += 1;
        report.bytes.0 += part.bytes;
    }
    Ok(report)
}

/// Everything with a digest, in the order of the disk.
fn parts(manifest: &Manifest) -> Vec<Part<'_>> {
    let resident = manifest.resident.iter().map(|(name, tensor)| Part {
        file: tensor.file,
        offset: tensor.offset,
        bytes: tensor.bytes,
        expected: &tensor.xxh3_128,
        what: format!("tensor {name}"),
    });
    let objects = manifest.objects.iter().map(|object| Part {
        file: object.file,
        offset: object.offset,
        bytes: object.bytes,
        expected: &object.xxh3_128,
        what: object.key.to_string(),
    });
    let mut parts: Vec<Part<'_>> = resident.chain(objects).collect();
    parts.sort_by_key(|part| (part.file, part.offset));
    parts
}

/// The outer error ends the verification, the inner one is the part's.
fn digest(
    path: &Path,
    part: &Part<'_>,
    piece: &mut Vec<u8>,
    tracker: &mut Tracker<'_>,
) -> Result<std::io::Result<String>, crate::progress::Cancelled> {
    let file = File::open(path);
    let mut hasher = Xxh3Hasher::new();
    let mut done = 0;
    while done < part.bytes {
        piece.resize(PIECE_BYTES.min(part.bytes - done) as usize, 0);
        let read = match &file {
            Ok(file) => file.read_exact_at(piece, part.offset + done),
            Err(error) => Err(std::io::Error::new(error.kind(), error.to_string())),
        };
        if let Err(error) = read {
            tracker.advance(part.bytes - done)?;
            return Ok(Err(error));
        }
        hasher.update(piece);
        done += piece.len() as u64;
        tracker.advance(piece.len() as u64)?;
    }
    Ok(Ok(hasher.finish().to_hex()))
}

#[cfg(test)]
mod tests;
