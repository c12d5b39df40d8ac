//! SHA-256 of the source's files: a pass of its own, for the store is written in another order than they are stored.

use super::ConvertError;
use crate::fingerprint::hex;
use crate::progress::Tracker;
use crate::source::ModelSource;
use odmoe_formats::manifest::SourceFile;
use sha2::{Digest, Sha256};

const PIECE_BYTES: u64 = 4 << 20;

pub(super) fn hash_sources(
    source: &dyn ModelSource,
    tracker: &mut Tracker<'_>,
) -> Result<Vec<SourceFile>, ConvertError> {
    let files = source.files();
    tracker.step(
        "source checksums",
        files.iter().map(|file| file.bytes).sum(),
    )?;
    let mut piece = Vec::new();
    let mut hashed = Vec::with_capacity(files.len());
    for (index, file) in files.iter().enumerate() {
        let mut hasher = Sha256::new();
        let mut offset = 0;
        while offset < file.bytes {
            piece.resize(PIECE_BYTES.min(file.bytes - offset) as usize, 0);
            source.read_file(index, offset, &mut piece)?;
            hasher.update(&piece);
            offset += piece.len() as u64;
            tracker.advance(piece.len() as u64)?;
        }
        let sha256 = hex(&hasher.finalize());
        hashed.push(SourceFile {
            name: file.name.clone(),
            bytes: file.bytes,
            sha256,
        });
    }
    Ok(hashed)
}
