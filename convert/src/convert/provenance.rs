//! SHA-256 of the source's files, in their own order, behind the threads that read tensors.

use super::ConvertError;
use super::frontier::Reached;
use super::journal::{Hashed, Record};
use super::pipeline::{Event, Pipeline};
use super::units::SourcePosition;
use crate::fingerprint::hex;
use crate::source::Advice;
use odmoe_formats::manifest::SourceFile;
use sha2::digest::common::hazmat::SerializableState;
use sha2::{Digest, Sha256};

const PIECE_BYTES: u64 = 4 << 20;
/// Between two records of the state lie at most this many bytes: what a stopped conversion hashes again.
const RECORD_BYTES: u64 = 256 << 20;

/// Hashes every file, going on where the journal says. Returns them as the manifest names them.
pub(super) fn hash_sources(pipeline: &Pipeline<'_>) -> Result<Vec<SourceFile>, ConvertError> {
    let mut behind = Behind {
        pipeline,
        // Nothing is known to have been read.
        reached: Reached::At((0, 0)),
        piece: Vec::new(),
    };
    let files = pipeline.source.files().iter().enumerate();
    files
        .map(|(index, file)| {
            Ok(SourceFile {
                name: file.name.clone(),
                bytes: file.bytes,
                sha256: behind.hash_file(index, file.bytes)?,
            })
        })
        .collect()
}

/// The hasher of a file, and how many bytes it has taken in.
struct FileHash {
    sha256: Sha256,
    offset: u64,
}

impl FileHash {
    /// As the journal has it, or from the start. Its lines carry checksums, so a state that does not fit is a bug of
    /// an older version at worst, and costs a second reading.
    fn restore(hashed: Option<&Hashed>, file_bytes: u64) -> Self {
        let restored = hashed.and_then(|hashed| {
            let state = unhex(&hashed.state)?;
            let sha256 = Sha256::deserialize(&state.as_slice().try_into().ok()?).ok()?;
            let offset = hashed.bytes;
            (offset <= file_bytes).then_some(Self { sha256, offset })
        });
        restored.unwrap_or_else(|| Self {
            sha256: Sha256::new(),
            offset: 0,
        })
    }

    fn record(&self, file: usize) -> Record {
        Record::Hashed {
            file,
            bytes: self.offset,
            state: hex(&self.sha256.serialize()),
        }
    }
}

fn unhex(digits: &str) -> Option<Vec<u8>> {
    let pairs = digits.as_bytes().chunks(2);
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    pairs.map(byte).collect()
}

struct Behind<'a> {
    pipeline: &'a Pipeline<'a>,
    reached: Reached,
    piece: Vec<u8>,
}

impl Behind<'_> {
    fn hash_file(&mut self, file: usize, bytes: u64) -> Result<String, ConvertError> {
        let pipeline = self.pipeline;
        let mut hash = FileHash::restore(pipeline.records.hashed.get(&file), bytes);
        pipeline.tell(Event::Hashed(hash.offset));
        let mut recorded = hash.offset;
        while hash.offset < bytes {
            let end = self.wait((file, hash.offset))?.unwrap_or(bytes).min(bytes);
            let piece_bytes = PIECE_BYTES.min(end - hash.offset);
            self.piece.resize(piece_bytes as usize, 0);
            let source = pipeline.source;
            source.read_file(file, hash.offset, &mut self.piece)?;
            hash.sha256.update(&self.piece);
            source.advise(file, hash.offset, piece_bytes, Advice::DoneWith);
            hash.offset += piece_bytes;
            pipeline.tell(Event::Hashed(piece_bytes));
            if hash.offset - recorded >= RECORD_BYTES || hash.offset == bytes {
                pipeline.record(hash.record(file))?;
                recorded = hash.offset;
            }
        }
        Ok(hex(&hash.sha256.finalize()))
    }

    /// Waits until bytes from `position` on may be read; returns where in the same file they end, None for its end.
    fn wait(&mut self, position: SourcePosition) -> Result<Option<u64>, ConvertError> {
        self.pipeline.check_going()?;
        if matches!(self.reached, Reached::At(reached) if reached <= position) {
            self.reached = self.pipeline.frontier.wait_behind(position);
        }
        match self.reached {
            Reached::At((file, offset)) if file == position.0 => Ok(Some(offset)),
            Reached::At(_) | Reached::End => Ok(None),
            Reached::Stopped => Err(ConvertError::Cancelled),
        }
    }
}
