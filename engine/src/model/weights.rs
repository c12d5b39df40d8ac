//! Resident weights: read once at start, verified, placed in the backend's memory.

use crate::api::{LoadProgress, StartError};
use odmoe_backend::{Backend, Buffer, StreamId, Weight};
use odmoe_expert_store::{LoadError, ReadError, ShardReader};
use odmoe_formats::checksum::Xxh3Hasher;
use odmoe_formats::manifest::{Manifest, ResidentTensor};
use odmoe_formats::{BlockFormat, ByteCount};
use std::collections::BTreeSet;

/// Bytes of one read while loading: large enough for a disk, small enough for a progress bar and for staging memory.
pub const READ_BYTES: usize = 8 << 20;

/// Loads tensors by name as a family asks for them, with the shape that the family expects.
pub struct WeightLoader<'a> {
    manifest: &'a Manifest,
    backend: &'a dyn Backend,
    reader: &'a dyn ShardReader,
    progress: LoadProgress<'a>,
    formats: Vec<BlockFormat>,
    done: u64,
    total: u64,
    loaded: BTreeSet<String>,
}

impl<'a> WeightLoader<'a> {
    /// A loader that has loaded nothing.
    pub fn new(
        manifest: &'a Manifest,
        backend: &'a dyn Backend,
        reader: &'a dyn ShardReader,
        progress: LoadProgress<'a>,
    ) -> Self {
        let total = manifest.resident.values().map(|tensor| tensor.bytes).sum();
        progress(ByteCount(0), ByteCount(total));
        let formats = backend.capabilities().formats;
        Self {
            manifest,
            backend,
            reader,
            progress,
            formats,
            done: 0,
            total,
            loaded: BTreeSet::new(),
        }
    }

    /// A matrix [rows, columns] in any format that the backend multiplies.
    pub fn matrix(
        &mut self,
        name: &str,
        rows: usize,
        columns: usize,
    ) -> Result<Weight, StartError> {
        let tensor = self.tensor(name, &[rows, columns])?;
        if !self.formats.contains(&tensor.format) {
            let format = tensor.format;
            return Err(StartError::Shape(format!(
                "{name} is {format:?}, which this backend cannot multiply"
            )));
        }
        self.weight(name, tensor, rows, columns)
    }

    /// A router or gate [rows, columns]: a float format, for a rounded router chooses other experts.
    pub fn float_matrix(
        &mut self,
        name: &str,
        rows: usize,
        columns: usize,
    ) -> Result<Weight, StartError> {
        let weight = self.matrix(name, rows, columns)?;
        if weight.format.block_elements() != 1 {
            return Err(StartError::Shape(format!(
                "{name} is {:?}, not a float format",
                weight.format
            )));
        }
        Ok(weight)
    }

    /// A vector [width] of F32, as a matrix of one row.
    pub fn vector(&mut self, name: &str, width: usize) -> Result<Weight, StartError> {
        let tensor = self.tensor(name, &[width])?;
        if tensor.format != BlockFormat::F32 {
            return Err(StartError::Shape(format!(
                "{name} is {:?}, not F32",
                tensor.format
            )));
        }
        self.weight(name, tensor, 1, width)
    }

    /// Ends loading. A tensor that no layer asked for means that the family would compute another model.
    pub fn finish(self) -> Result<(), StartError> {
        match self
            .manifest
            .resident
            .keys()
            .find(|name| !self.loaded.contains(*name))
        {
            Some(name) => {
                let family = &self.manifest.config.architecture;
                Err(StartError::Shape(format!("{family} has no tensor {name}")))
            }
            None => Ok(()),
        }
    }

    fn tensor(&self, name: &str, shape: &[usize]) -> Result<&'a ResidentTensor, StartError> {
        let Some(tensor) = self.manifest.resident.get(name) else {
            return Err(StartError::Shape(format!("{name} is missing")));
        };
        let expected: Vec<u64> = shape.iter().map(|&n| n as u64).collect();
        if tensor.shape != expected {
            let found = &tensor.shape;
            return Err(StartError::Shape(format!(
                "{name} has shape {found:?} in place of {expected:?}"
            )));
        }
        let rows: u64 = expected[..expected.len() - 1].iter().product();
        let row_bytes = tensor.format.row_bytes(expected[expected.len() - 1]);
        if row_bytes.and_then(|bytes| bytes.checked_mul(rows)) != Some(tensor.bytes) {
            let found = tensor.bytes;
            return Err(StartError::Shape(format!(
                "{name} has {found} bytes, which is not its shape"
            )));
        }
        Ok(tensor)
    }

    fn weight(
        &mut self,
        name: &str,
        tensor: &ResidentTensor,
        rows: usize,
        columns: usize,
    ) -> Result<Weight, StartError> {
        let buffer = self.backend.allocate(tensor.bytes as usize)?;
        let found = self.fill(tensor, &buffer)?;
        if found != tensor.xxh3_128 {
            return Err(StartError::Load(damaged(
                self.manifest,
                name,
                tensor,
                &found,
            )));
        }
        self.loaded.insert(name.to_owned());
        Ok(Weight {
            buffer,
            offset_bytes: 0,
            format: tensor.format,
            rows,
            columns,
        })
    }

    /// Reads a tensor into its buffer; returns the checksum of what was read.
    fn fill(&mut self, tensor: &ResidentTensor, buffer: &Buffer) -> Result<String, StartError> {
        let mut hasher = Xxh3Hasher::new();
        let bytes = tensor.bytes as usize;
        if let Some(mut window) = self.backend.host_window(buffer) {
            for (index, piece) in window.bytes_mut()[..bytes]
                .chunks_mut(READ_BYTES)
                .enumerate()
            {
                self.read(tensor, index * READ_BYTES, piece, &mut hasher)?;
            }
        } else {
            let mut staging = vec![0; bytes.min(READ_BYTES)];
            for offset in (0..bytes).step_by(READ_BYTES) {
                let piece = &mut staging[..READ_BYTES.min(bytes - offset)];
                self.read(tensor, offset, piece, &mut hasher)?;
                self.backend
                    .upload(StreamId::COMPUTE, piece, buffer, offset)?;
            }
        }
        Ok(hasher.finish().to_hex())
    }

    fn read(
        &mut self,
        tensor: &ResidentTensor,
        offset: usize,
        into: &mut [u8],
        hasher: &mut Xxh3Hasher,
    ) -> Result<(), StartError> {
        self.reader
            .read_at(tensor.file, tensor.offset + offset as u64, into)
            .map_err(|error| StartError::Load(LoadError::Read(error)))?;
        hasher.update(into);
        self.done += into.len() as u64;
        (self.progress)(ByteCount(self.done), ByteCount(self.total));
        Ok(())
    }
}

fn damaged(manifest: &Manifest, name: &str, tensor: &ResidentTensor, found: &str) -> LoadError {
    let path = manifest
        .files
        .get(tensor.file.0 as usize)
        .map_or_else(String::new, |file| file.path.clone());
    let expected = &tensor.xxh3_128;
    let reason = format!(
        "tensor {name}: checksum {found} where the manifest says {expected}; the file is damaged, convert the model again"
    );
    LoadError::Read(ReadError::Io { path, reason })
}
