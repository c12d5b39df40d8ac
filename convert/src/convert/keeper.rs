//! Makes sure that what was written is on disk, and then records it: many parts at once, for a wait costs much the
//! same for one as for many.

use super::ConvertError;
use super::journal::{Journal, Record};
use super::store_writer::StoreWriter;
use odmoe_formats::checksum::Xxh3;
use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::Receiver;

/// A batch ends at whichever comes first. The bytes bound the pages that are not on disk yet, the parts the open files
/// and, where parts are small, what a kill throws away.
const BATCH_BYTES: u64 = 64 << 20;
const BATCH_PARTS: usize = 64;

/// A part whose bytes the system has taken.
pub(super) struct WrittenPart {
    pub name: String,
    pub digest: Xxh3,
    pub file: Arc<File>,
    /// The file's path in the store.
    pub path: String,
    /// Where in the file it lies.
    pub offset: u64,
    pub bytes: u64,
}

/// What comes to the keeper.
pub(super) enum ToKeep {
    Part(WrittenPart),
    /// To be recorded with the next parts.
    Record(Record),
    /// Nothing more comes.
    End,
}

/// Takes in what was written until the end.
pub(super) fn run(
    writer: &StoreWriter<'_>,
    mut journal: Journal,
    received: &Receiver<ToKeep>,
) -> Result<(), ConvertError> {
    let mut batch = Batch::default();
    loop {
        match received.recv().unwrap_or(ToKeep::End) {
            ToKeep::Part(part) => batch.parts.push(part),
            ToKeep::Record(record) => batch.records.push(record),
            ToKeep::End => return batch.keep(writer, &mut journal),
        }
        if batch.is_full() {
            std::mem::take(&mut batch).keep(writer, &mut journal)?;
        }
    }
}

#[derive(Default)]
struct Batch {
    parts: Vec<WrittenPart>,
    records: Vec<Record>,
}

impl Batch {
    fn is_full(&self) -> bool {
        let bytes = self.parts.iter().map(|part| part.bytes);
        self.parts.len() >= BATCH_PARTS || bytes.sum::<u64>() >= BATCH_BYTES
    }

    fn keep(mut self, writer: &StoreWriter<'_>, journal: &mut Journal) -> Result<(), ConvertError> {
        let mut synced = BTreeSet::new();
        let mut folders: BTreeSet<PathBuf> = BTreeSet::new();
        for part in &self.parts {
            // The parts of the base share files.
            if synced.insert(&part.path) {
                writer.sync_file(&part.file, &part.path)?;
                let above = Path::new(&part.path).ancestors().skip(1);
                folders.extend(above.map(Path::to_path_buf));
            }
        }
        for folder in &folders {
            writer.sync_folder(folder)?;
        }
        for part in &self.parts {
            self.records.push(Record::Part {
                name: part.name.clone(),
                xxh3_128: part.digest.to_hex(),
            });
            writer.disk.let_go(&part.file, part.offset, part.bytes);
        }
        journal.append(&self.records)
    }
}
