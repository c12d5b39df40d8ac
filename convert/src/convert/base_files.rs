//! The files of the base, whose tensors are written in any order.

use super::ConvertError;
use super::pipeline::Begun;
use super::store_writer::StoreWriter;
use odmoe_formats::safetensors::SafetensorsLayout;
use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

const ZEROS: [u8; 4096] = [0; 4096];

/// All of them, by their index among the planned files.
pub(super) struct BaseFiles {
    files: BTreeMap<usize, BaseFile>,
}

/// One of them, open.
pub(super) struct BaseFile {
    pub file: Arc<File>,
    pub path: PathBuf,
    pub layout: SafetensorsLayout,
}

impl BaseFiles {
    /// Makes or opens them, and writes what lies between tensors: headers and fillers.
    pub fn make(
        begun: &Begun<'_>,
        indices: impl Iterator<Item = usize>,
    ) -> Result<Self, ConvertError> {
        let mut files = BTreeMap::new();
        for index in indices {
            let layout = begun.plan.files[index].layout(begun.source)?;
            let relative = &begun.plan.manifest.files[index].path;
            let (path, file) = begun.writer.open(relative)?;
            let base = BaseFile {
                file: Arc::new(file),
                path,
                layout,
            };
            base.write_frame(begun.writer)?;
            files.insert(index, base);
        }
        Ok(Self { files })
    }

    pub fn get(&self, index: usize) -> Option<&BaseFile> {
        self.files.get(&index)
    }

    /// Bytes of headers and fillers.
    pub fn frame_bytes(&self) -> u64 {
        let frame = |base: &BaseFile| {
            let tensors = base.layout.tensors.iter().map(|tensor| tensor.bytes);
            base.layout.file_bytes - tensors.sum::<u64>()
        };
        self.files.values().map(frame).sum()
    }
}

impl BaseFile {
    fn write_frame(&self, writer: &StoreWriter<'_>) -> Result<(), ConvertError> {
        let write = |bytes: &[u8], offset| {
            let written = writer.disk.write_at(&self.file, bytes, offset);
            written.map_err(ConvertError::io(&self.path))
        };
        let cut = self.file.set_len(self.layout.file_bytes);
        cut.map_err(ConvertError::io(&self.path))?;
        write(&self.layout.header, 0)?;
        let mut end = self.layout.data_start();
        let ends = self.layout.tensors.iter();
        let ends = ends.map(|tensor| (tensor.offset, tensor.offset + tensor.bytes));
        for (begin, next_end) in ends.chain([(self.layout.file_bytes, 0)]) {
            write(&ZEROS[..(begin - end) as usize], end)?;
            end = next_end;
        }
        Ok(())
    }
}
