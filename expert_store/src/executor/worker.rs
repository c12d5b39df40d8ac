//! What a reader thread does: reads into slots, verifies, reports.

use super::queue::{Queue, Turn};
use super::{Checks, Ended, Job, Report, Target};
use crate::api::{LoadError, ReadError, ShardReader};
use crate::catalog::Catalog;
use crate::io::{AlignedBuffer, hash};
use crate::residency::{ReadId, ReadReport};
use odmoe_backend::{Capabilities, Waker};
use odmoe_formats::checksum::Xxh3Hasher;
use odmoe_formats::manifest::PageableObject;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Instant;

pub(super) struct Worker {
    pub queue: Arc<Queue>,
    pub catalog: Arc<Catalog>,
    pub reader: Arc<dyn ShardReader>,
    pub reports: Sender<Report>,
    pub waker: Waker,
    pub checks: Checks,
    /// Whose slots are filled; None: bytes stay as they are stored.
    pub laid_out_for: Option<Capabilities>,
}

impl Worker {
    pub fn run(self) {
        while let Some((job, turn)) = self.queue.next() {
            let report = match job {
                Job::Read { read, key, target } => {
                    self.read(read, self.catalog.object(key), target, turn)
                }
                Job::Probe { key } => {
                    let result = self.probe(self.catalog.object(key), turn);
                    Report::Probed {
                        result,
                        at: Instant::now(),
                    }
                }
            };
            if self.reports.send(report).is_err() {
                return;
            }
            (self.waker)();
        }
    }

    fn read(
        &self,
        read: ReadId,
        object: &PageableObject,
        mut target: Target,
        turn: Turn<'_>,
    ) -> Report {
        let start = Instant::now();
        // The receiver may be gone: then nobody needs to know.
        let _ = self.reports.send(Report::Started { read, at: start });
        let into = &mut target.bytes_mut()[..object.bytes as usize];
        let (result, reread) = self.fill(object, into, turn);
        let source = self.reader.source(object.file);
        let seconds = start.elapsed().as_secs_f64();
        if result.is_ok() {
            self.lay_out(object, into);
        }
        let result = result.map(|()| ReadReport {
            bytes: object.bytes,
            seconds,
            source,
        });
        let slot = target.finish();
        Report::Ended(Ended {
            read,
            key: object.key,
            slot,
            result,
            reread,
            at: Instant::now(),
        })
    }

    /// Lays verified tensors out row-major where the backend does not take the layout that they are stored in.
    fn lay_out(&self, object: &PageableObject, bytes: &mut [u8]) {
        let Some(capabilities) = &self.laid_out_for else {
            return;
        };
        let mut group = Vec::new();
        for tensor in object.tensors.values() {
            let stored = object.layout_of(tensor);
            if capabilities.layout_in_memory(stored) == stored {
                continue;
            }
            let columns = tensor.shape.last().copied().unwrap_or(0);
            let bytes = &mut bytes[tensor.offset as usize..][..tensor.bytes as usize];
            stored.into_rows(tensor.format, columns, bytes, &mut group);
        }
    }

    /// Reads and verifies; wrong bytes are read once more from a newly opened file, for memory and cables err and
    /// shards get repaired in place. Says whether that happened.
    fn fill(
        &self,
        object: &PageableObject,
        into: &mut [u8],
        turn: Turn<'_>,
    ) -> (Result<(), LoadError>, bool) {
        match self.fill_once(object, into, Some(turn)) {
            Err(LoadError::Checksum { .. }) => {
                self.reader.reopen(object.file);
                // Out of turn: so rare that storage has no harm from one read more.
                (self.fill_once(object, into, None), true)
            }
            result => (result, false),
        }
    }

    /// Storage has its next read before the last bytes of this one are verified.
    fn fill_once(
        &self,
        object: &PageableObject,
        into: &mut [u8],
        turn: Option<Turn<'_>>,
    ) -> Result<(), LoadError> {
        if self.checks == Checks::None {
            self.reader.read_at(object.file, object.offset, into)?;
            return Ok(());
        }
        let mut hasher = Xxh3Hasher::new();
        let seen = self
            .reader
            .read_showing(object.file, object.offset, into, &mut |bytes| {
                hash(&mut hasher, bytes);
            })?;
        drop(turn);
        hash(&mut hasher, &into[seen..]);
        let found = hasher.finish().to_hex();
        if found == object.xxh3_128 {
            return Ok(());
        }
        Err(LoadError::Checksum {
            key: object.key,
            expected: object.xxh3_128.clone(),
            found,
        })
    }

    /// Reads a whole object as a demand would, from a newly opened file.
    fn probe(&self, object: &PageableObject, turn: Turn<'_>) -> Result<(), LoadError> {
        let mut scratch = AlignedBuffer::zeroed(object.bytes as usize).map_err(|error| {
            LoadError::Read(ReadError::Io {
                path: object.key.to_string(),
                reason: format!("no memory to probe with: {error}"),
            })
        })?;
        self.reader.reopen(object.file);
        self.fill_once(object, scratch.bytes_mut(), Some(turn))
    }
}
