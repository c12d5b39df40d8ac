//! A store that lives in memory, for tests and tiny models.

use crate::api::{ReadError, ShardReader};
use odmoe_formats::manifest::FileIndex;

/// Reads files that are byte vectors.
pub struct MemoryReader {
    files: Vec<Vec<u8>>,
}

impl MemoryReader {
    /// Files in the order of the manifest's.
    pub fn new(files: Vec<Vec<u8>>) -> Self {
        Self { files }
    }
}

impl ShardReader for MemoryReader {
    fn read_at(&self, file: FileIndex, offset: u64, into: &mut [u8]) -> Result<(), ReadError> {
        let path = || format!("file {}", file.0);
        let Some(bytes) = self.files.get(file.0 as usize) else {
            return Err(ReadError::Io {
                path: path(),
                reason: "no such file".into(),
            });
        };
        let from = usize::try_from(offset)
            .unwrap_or(usize::MAX)
            .min(bytes.len());
        let got = (bytes.len() - from).min(into.len());
        into[..got].copy_from_slice(&bytes[from..from + got]);
        if got < into.len() {
            let (wanted, got) = (into.len() as u64, got as u64);
            return Err(ReadError::Short {
                path: path(),
                offset,
                wanted,
                got,
            });
        }
        Ok(())
    }

    fn source(&self, _file: FileIndex) -> &'static str {
        "memory"
    }
}
