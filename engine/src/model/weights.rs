//! Resident weights: read once at start, verified, placed in the backend's memory. A family asks for them by name and gets
//! their places; [`WeightLoader::finish`] fills these, several at once.

use crate::api::{LoadProgress, StartError};
use odmoe_backend::{Backend, Buffer, Capabilities, StreamId, Weight};
use odmoe_expert_store::{LoadError, ReadError, ShardReader};
use odmoe_formats::checksum::Xxh3Hasher;
use odmoe_formats::manifest::{Manifest, ResidentTensor};
use odmoe_formats::{BlockFormat, ByteCount};
use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

/// Bytes of one read while loading: large enough for a disk, small enough for a progress bar and for staging memory.
pub const READ_BYTES: usize = 8 << 20;

/// Finds tensors by name as a family asks for them, with the shape that the family expects, and loads them.
pub struct WeightLoader<'a> {
    manifest: &'a Manifest,
    backend: &'a dyn Backend,
    capabilities: Capabilities,
    asked: BTreeSet<&'a str>,
    places: Vec<Place<'a>>,
}

/// A tensor and the memory that it is to fill.
struct Place<'a> {
    name: &'a str,
    tensor: &'a ResidentTensor,
    buffer: Buffer,
}

impl<'a> WeightLoader<'a> {
    /// A loader that nothing was asked of.
    pub fn new(manifest: &'a Manifest, backend: &'a dyn Backend) -> Self {
        Self {
            manifest,
            backend,
            capabilities: backend.capabilities(),
            asked: BTreeSet::new(),
            places: Vec::new(),
        }
    }

    /// A matrix [rows, columns] in any format that the backend multiplies.
    pub fn matrix(
        &mut self,
        name: &str,
        rows: usize,
        columns: usize,
    ) -> Result<Weight, StartError> {
        let (name, tensor) = self.tensor(name, &[rows, columns])?;
        if !self.capabilities.formats.contains(&tensor.format) {
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
        let (name, tensor) = self.tensor(name, &[width])?;
        if tensor.format != BlockFormat::F32 {
            return Err(StartError::Shape(format!(
                "{name} is {:?}, not F32",
                tensor.format
            )));
        }
        self.weight(name, tensor, 1, width)
    }

    /// Reads what was asked for, `at_once` tensors at a time. A tensor that no layer asked for means that the family would
    /// compute another model.
    pub fn finish(
        mut self,
        reader: &dyn ShardReader,
        at_once: usize,
        progress: LoadProgress<'_>,
    ) -> Result<(), StartError> {
        let mut resident = self.manifest.resident.keys();
        if let Some(name) = resident.find(|name| !self.asked.contains(name.as_str())) {
            let family = &self.manifest.config.architecture;
            return Err(StartError::Shape(format!("{family} has no tensor {name}")));
        }
        // The largest are begun first, so that the threads end together. A device's stream takes one upload after another.
        self.places.sort_by_key(|place| place.tensor.bytes);
        let is_addressed = |place: &Place| self.backend.host_window(&place.buffer).is_some();
        let at_once = match self.places.last().is_some_and(is_addressed) {
            true => at_once,
            false => 1,
        };
        let loading = Loading {
            manifest: self.manifest,
            backend: self.backend,
            capabilities: self.capabilities,
            reader,
            progress,
            total: self.places.iter().map(|place| place.tensor.bytes).sum(),
            done: Mutex::new(0),
            left: Mutex::new(self.places),
        };
        (loading.progress)(ByteCount(0), ByteCount(loading.total));
        std::thread::scope(|scope| {
            let others: Vec<_> = (1..at_once)
                .map(|_| scope.spawn(|| loading.run()))
                .collect();
            let own = loading.run();
            let joined = others.into_iter().map(|other| {
                let ended = other.join();
                ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            });
            joined.fold(own, Result::and)
        })
    }

    fn tensor(
        &self,
        name: &str,
        shape: &[usize],
    ) -> Result<(&'a str, &'a ResidentTensor), StartError> {
        let Some((name, tensor)) = self.manifest.resident.get_key_value(name) else {
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
        Ok((name, tensor))
    }

    fn weight(
        &mut self,
        name: &'a str,
        tensor: &'a ResidentTensor,
        rows: usize,
        columns: usize,
    ) -> Result<Weight, StartError> {
        let buffer = self.backend.allocate(tensor.bytes as usize)?;
        self.asked.insert(name);
        self.places.push(Place {
            name,
            tensor,
            buffer: buffer.clone(),
        });
        Ok(Weight {
            buffer,
            offset_bytes: 0,
            format: tensor.format,
            layout: self.capabilities.layout_in_memory(tensor.layout),
            rows,
            columns,
        })
    }
}

/// Tensors on their way into memory, by several threads.
struct Loading<'a> {
    manifest: &'a Manifest,
    backend: &'a dyn Backend,
    capabilities: Capabilities,
    reader: &'a dyn ShardReader,
    progress: LoadProgress<'a>,
    total: u64,
    done: Mutex<u64>,
    /// Ascending by size; empty as soon as one has failed.
    left: Mutex<Vec<Place<'a>>>,
}

impl Loading<'_> {
    /// Loads what is left, one after another.
    fn run(&self) -> Result<(), StartError> {
        loop {
            let place = lock(&self.left).pop();
            let Some(place) = place else { return Ok(()) };
            if let Err(error) = self.load(&place) {
                lock(&self.left).clear();
                return Err(error);
            }
        }
    }

    fn load(&self, place: &Place<'_>) -> Result<(), StartError> {
        let found = self.fill(place.tensor, &place.buffer)?;
        if found == place.tensor.xxh3_128 {
            return Ok(());
        }
        let damaged = damaged(self.manifest, place.name, place.tensor, &found);
        Err(StartError::Load(damaged))
    }

    /// Reads a tensor into its buffer, in the layout that the backend takes; returns the checksum of what was read.
    fn fill(&self, tensor: &ResidentTensor, buffer: &Buffer) -> Result<String, StartError> {
        let mut hasher = Xxh3Hasher::new();
        let bytes = tensor.bytes as usize;
        let at_once = match self.is_laid_out_anew(tensor) {
            true => whole_groups_bytes(tensor),
            false => READ_BYTES,
        };
        if let Some(mut window) = self.backend.host_window(buffer) {
            for (index, piece) in window.bytes_mut()[..bytes].chunks_mut(at_once).enumerate() {
                self.read(tensor, index * at_once, piece, &mut hasher)?;
            }
        } else {
            let mut staging = vec![0; bytes.min(at_once)];
            for offset in (0..bytes).step_by(at_once) {
                let piece = &mut staging[..at_once.min(bytes - offset)];
                self.read(tensor, offset, piece, &mut hasher)?;
                self.backend
                    .upload(StreamId::COMPUTE, piece, buffer, offset)?;
            }
        }
        Ok(hasher.finish().to_hex())
    }

    fn read(
        &self,
        tensor: &ResidentTensor,
        offset: usize,
        into: &mut [u8],
        hasher: &mut Xxh3Hasher,
    ) -> Result<(), StartError> {
        self.reader
            .read_at(tensor.file, tensor.offset + offset as u64, into)
            .map_err(|error| StartError::Load(LoadError::Read(error)))?;
        hasher.update(into);
        if self.is_laid_out_anew(tensor) {
            let columns = tensor.shape.last().copied().unwrap_or(0);
            let (layout, mut group) = (tensor.layout, Vec::new());
            layout.into_rows(tensor.format, columns, into, &mut group);
        }
        let mut done = lock(&self.done);
        *done += into.len() as u64;
        // Told under the lock, so that it never goes back.
        (self.progress)(ByteCount(*done), ByteCount(self.total));
        Ok(())
    }

    fn is_laid_out_anew(&self, tensor: &ResidentTensor) -> bool {
        self.capabilities.layout_in_memory(tensor.layout) != tensor.layout
    }
}

/// About [`READ_BYTES`] of a tensor, in whole groups of rows: these can be laid out by themselves.
fn whole_groups_bytes(tensor: &ResidentTensor) -> usize {
    let columns = tensor.shape.last().copied().unwrap_or(0);
    let row_bytes = tensor.format.row_bytes(columns).unwrap_or(0) as usize;
    let group_bytes = (tensor.layout.rows_together() * row_bytes).max(1);
    (READ_BYTES / group_bytes).max(1) * group_bytes
}

/// A panic of another thread goes up by itself.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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

#[cfg(test)]
mod tests {
    use super::*;
    use odmoe_formats::WeightLayout;
    use odmoe_formats::manifest::FileIndex;

    #[test]
    fn what_is_laid_out_anew_is_read_in_whole_groups() {
        let bytes = |columns: u64| {
            whole_groups_bytes(&ResidentTensor {
                file: FileIndex(0),
                offset: 0,
                bytes: 0,
                shape: vec![1 << 20, columns],
                format: BlockFormat::Q4_K,
                layout: WeightLayout::Lanes16,
                xxh3_128: String::new(),
            })
        };
        // 1152 bytes a row: 455 groups of sixteen fit into 8 MiB.
        assert_eq!(bytes(2048), 455 * 16 * 1152);
        // A group that is longer by itself.
        assert_eq!(bytes(1 << 20), 16 * 4096 * 144);
    }
}
