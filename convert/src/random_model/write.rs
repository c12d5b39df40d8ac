//! Writing: tensors streamed into files, with progress, under temporary names until all are there.

use super::gguf::{self, FileTensor, GgufOptions};
use super::place::{self, PartialFile};
use super::recipe::recipe;
use super::values::Tensor;
use super::{RandomModel, RandomModelError, text};
use crate::progress::{Cancelled, NoProgress, Progress, Tracker};
use crate::source::TensorId;
use odmoe_formats::gguf::{GgufLayout, Metadata, Value};
use odmoe_formats::safetensors::{SafetensorsLayout, TensorSpec};
use odmoe_formats::{BlockFormat, WeightLayout};
use serde_json::{Map, json};
use std::fs::{self, File};
use std::io::{self, BufWriter, ErrorKind, Write};
use std::path::{Path, PathBuf};

const BUFFER_BYTES: usize = 1 << 20;
/// The most parts that a name has digits for.
const MAX_PARTS: usize = 99_999;

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// Every file with weights.
    pub files: Vec<PathBuf>,
    /// Their bytes.
    pub bytes: u64,
    /// Elements of all tensors.
    pub parameters: u64,
}

/// How a model is written.
#[derive(Clone, Copy)]
pub struct WriteOptions<'a> {
    /// Files that tensors are spread over; 1 gives a single one.
    pub parts: usize,
    /// Whether a model that is there is replaced.
    pub overwrite: bool,
    /// Who is told.
    pub progress: &'a dyn Progress,
}

impl Default for WriteOptions<'_> {
    fn default() -> Self {
        Self {
            parts: 1,
            overwrite: false,
            progress: &NoProgress,
        }
    }
}

/// A file to be written: its header, its tensors, and zeros up to each and to the end.
struct PlannedFile<'a> {
    path: PathBuf,
    header: Vec<u8>,
    tensors: Vec<(&'a FileTensor, u64)>,
    bytes: u64,
}

impl RandomModel {
    /// Writes the model as a GGUF file, or as parts `NAME-00001-of-0000N.gguf`. Memory use does not grow with the model.
    /// Files get their names when all of them are written.
    pub fn write_gguf(
        &self,
        path: &Path,
        gguf: GgufOptions,
        options: WriteOptions<'_>,
    ) -> Result<Written, RandomModelError> {
        self.check()?;
        gguf::check(self)?;
        let tensors = gguf::tensors(self, gguf);
        let parts = split(&tensors, options.parts)?;
        let mut paths = vec![path.to_owned()];
        if parts.len() > 1 {
            let stem = path.file_stem().unwrap_or_default().to_string_lossy();
            let part = |number| format!("{stem}-{number:05}-of-{:05}.gguf", parts.len());
            paths = (1..=parts.len())
                .map(|n| path.with_file_name(part(n)))
                .collect();
        }
        if let Some(path) = paths
            .iter()
            .find(|path| path.exists() && !options.overwrite)
        {
            return Err(RandomModelError::Exists { path: path.clone() });
        }
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        let whole = gguf::metadata(self, &name, gguf.quantisation);
        let mut planned = Vec::new();
        for (number, (tensors_here, path)) in parts.iter().zip(paths).enumerate() {
            let metadata = part_metadata(&whole, number, parts.len(), tensors.len());
            let specs: Vec<TensorSpec> = tensors_here.iter().map(|t| t.spec.clone()).collect();
            let layout = GgufLayout::new(&metadata, &specs)?;
            let offsets = layout.tensors.iter().map(|place| place.offset);
            planned.push(PlannedFile {
                path,
                bytes: layout.file_bytes,
                tensors: tensors_here.iter().zip(offsets).collect(),
                header: layout.header,
            });
        }
        self.write_files(path, &planned, options.progress)
    }

    /// Writes the model as a Hugging Face folder, which is made where it is not there, in [`Self::format`] and spread
    /// over [`WriteOptions::parts`] files. Memory use does not grow with the model.
    pub fn write_hugging_face(
        &self,
        folder: &Path,
        options: WriteOptions<'_>,
    ) -> Result<Written, RandomModelError> {
        self.check()?;
        let tensors = self.checkpoint_tensors();
        let parts = split(&tensors, options.parts)?;
        let count = parts.len();
        let mut planned = Vec::new();
        let (mut weight_map, mut total_bytes) = (Map::new(), 0);
        for (number, tensors) in parts.into_iter().enumerate() {
            let name = match count {
                1 => "model.safetensors".to_owned(),
                _ => format!("model-{:05}-of-{count:05}.safetensors", number + 1),
            };
            let specs: Vec<TensorSpec> = tensors.iter().map(|t| t.spec.clone()).collect();
            let layout = SafetensorsLayout::packed(&specs, &[("format", "pt")])?;
            for (spec, place) in specs.iter().zip(&layout.tensors) {
                weight_map.insert(spec.name.clone(), name.clone().into());
                total_bytes += place.bytes;
            }
            let offsets = layout.tensors.iter().map(|place| place.offset);
            planned.push(PlannedFile {
                path: folder.join(&name),
                bytes: layout.file_bytes,
                tensors: tensors.iter().zip(offsets).collect(),
                header: layout.header,
            });
        }
        // What is there is touched only when there is room.
        let needed = planned.iter().map(|file| file.bytes).sum();
        place::preflight(folder, needed)?;
        place::prepare_folder(folder, options.overwrite)?;
        let written = self.write_files(folder, &planned, options.progress)?;
        if count > 1 {
            let index =
                json!({ "metadata": { "total_size": total_bytes }, "weight_map": weight_map });
            write_json(&folder.join("model.safetensors.index.json"), &index)?;
        }
        self.write_text_and_config(folder)?;
        Ok(written)
    }

    fn write_text_and_config(&self, folder: &Path) -> Result<(), RandomModelError> {
        let files = [
            ("tokenizer.json", text::tokenizer(self.vocab)),
            (
                "tokenizer_config.json",
                text::tokenizer_config(self.max_position),
            ),
            ("generation_config.json", text::generation_config()),
            // Last: without it the folder is no model.
            ("config.json", self.config_json()),
        ];
        files
            .iter()
            .try_for_each(|(name, contents)| write_json(&folder.join(name), contents))
    }

    fn checkpoint_tensors(&self) -> Vec<FileTensor> {
        let sparse = self.experts > 0;
        let tensor = |id: TensorId, shape: Vec<u64>| FileTensor {
            spec: TensorSpec {
                name: self.family.checkpoint_name(&id, sparse),
                format: self.format,
                shape: shape.clone(),
                layout: WeightLayout::RowMajor,
            },
            members: vec![(id, shape)],
        };
        let resident = self.resident().into_iter();
        let resident = resident.map(|wanted| tensor(TensorId::Resident(wanted.name), wanted.shape));
        resident
            .chain(self.experts().map(|(id, shape)| tensor(id, shape)))
            .collect()
    }

    fn write_files(
        &self,
        destination: &Path,
        files: &[PlannedFile<'_>],
        progress: &dyn Progress,
    ) -> Result<Written, RandomModelError> {
        let bytes = files.iter().map(|file| file.bytes).sum();
        progress.planned(&place::preflight(destination, bytes)?);
        let mut tracker = Tracker::new(progress, bytes);
        let written = files.iter().map(|file| self.write_file(file, &mut tracker));
        let partial: Result<Vec<PartialFile>, RandomModelError> = written.collect();
        // By now a failed one's files are gone, so what is free is what there was to begin with.
        let partial = partial.map_err(|error| explain_full_disk(error, destination, bytes))?;
        if let [_, _, ..] = files {
            // Parts of an older set beside new ones would open as one model.
            let mut paths = files.iter().map(|file| &file.path);
            paths.try_for_each(|path| place::remove_if_there(path))?;
        }
        partial.into_iter().try_for_each(PartialFile::place)?;
        let elements = |tensor: &FileTensor| tensor.spec.shape.iter().product::<u64>();
        let all = files.iter().flat_map(|file| &file.tensors);
        Ok(Written {
            files: files.iter().map(|file| file.path.clone()).collect(),
            bytes,
            parameters: all.map(|(tensor, _)| elements(tensor)).sum(),
        })
    }

    fn write_file(
        &self,
        planned: &PlannedFile<'_>,
        tracker: &mut Tracker<'_>,
    ) -> Result<PartialFile, RandomModelError> {
        let (partial, file) = PartialFile::create(&planned.path)?;
        let name = planned.path.file_name().unwrap_or_default();
        tracker.step(name.to_string_lossy(), planned.bytes)?;
        let mut output = Output {
            file: BufWriter::with_capacity(BUFFER_BYTES, file),
            written: 0,
            tracker,
        };
        let failed = |error| match error {
            PutError::Io(error) => RandomModelError::io(&planned.path)(error),
            PutError::Cancelled => RandomModelError::Cancelled,
        };
        output.put(&planned.header).map_err(failed)?;
        for (tensor, offset) in &planned.tensors {
            output.zeros_up_to(*offset).map_err(failed)?;
            for (id, shape) in &tensor.members {
                let written = self.write_tensor(id, shape, tensor.spec.format, &mut output);
                written.map_err(failed)?;
            }
        }
        output.zeros_up_to(planned.bytes).map_err(failed)?;
        let synced = output
            .file
            .into_inner()
            .map_err(io::IntoInnerError::into_error);
        let synced = synced.and_then(|file| file.sync_all());
        synced.map_err(RandomModelError::io(&planned.path))?;
        Ok(partial)
    }

    fn write_tensor(
        &self,
        id: &TensorId,
        shape: &[u64],
        format: BlockFormat,
        output: &mut Output<'_, '_>,
    ) -> Result<(), PutError> {
        let name = self.family.checkpoint_name(id, self.experts > 0);
        let tensor = Tensor {
            seed: self.seed,
            name: &name,
            recipe: &recipe(self, id, shape),
            format,
            shape,
        };
        tensor.write(&mut |bytes| output.put(bytes))
    }
}

enum PutError {
    Io(io::Error),
    Cancelled,
}

struct Output<'a, 'b> {
    file: BufWriter<File>,
    written: u64,
    tracker: &'a mut Tracker<'b>,
}

impl Output<'_, '_> {
    fn put(&mut self, bytes: &[u8]) -> Result<(), PutError> {
        self.file.write_all(bytes).map_err(PutError::Io)?;
        self.written += bytes.len() as u64;
        let told = self.tracker.advance(bytes.len() as u64);
        told.map_err(|Cancelled| PutError::Cancelled)
    }

    fn zeros_up_to(&mut self, offset: u64) -> Result<(), PutError> {
        let gap = offset
            .checked_sub(self.written)
            .expect("tensors are in order");
        self.put(&vec![0; gap as usize])
    }
}

/// An error that says that the disk is full, as one that says how much is missing where that can be seen: a quota
/// cannot.
fn explain_full_disk(error: RandomModelError, destination: &Path, needed: u64) -> RandomModelError {
    match &error {
        RandomModelError::Io { source, .. } if source.kind() == ErrorKind::StorageFull => {
            place::preflight(destination, needed).err().unwrap_or(error)
        }
        _ => error,
    }
}

/// Cuts a list of tensors into parts of about the same number of bytes, each with at least one tensor.
fn split(tensors: &[FileTensor], parts: usize) -> Result<Vec<&[FileTensor]>, RandomModelError> {
    if parts == 0 {
        return Err(RandomModelError::NoShards);
    }
    let parts = parts.min(tensors.len()).min(MAX_PARTS);
    let bytes = |tensor: &FileTensor| {
        let bytes = tensor.spec.format.tensor_bytes(&tensor.spec.shape);
        u128::from(bytes.unwrap_or(0))
    };
    let total: u128 = tensors.iter().map(bytes).sum();
    let mut all = Vec::with_capacity(parts);
    let (mut rest, mut done) = (tensors, 0u128);
    for part in 1..=parts {
        let goal = total * part as u128 / parts as u128;
        let most = rest.len() - (parts - part);
        let mut count = 0;
        while count < most && (count == 0 || part == parts || done + bytes(&rest[count]) <= goal) {
            done += bytes(&rest[count]);
            count += 1;
        }
        let (here, after) = rest.split_at(count);
        all.push(here);
        rest = after;
    }
    Ok(all)
}

/// Everything in the first part, and in each of several what ties them together.
fn part_metadata(whole: &Metadata, number: usize, parts: usize, tensors: usize) -> Metadata {
    let mut metadata = match number {
        0 => whole.clone(),
        _ => Metadata::default(),
    };
    if parts > 1 {
        metadata.insert("split.no", Value::U16(number as u16));
        metadata.insert("split.count", Value::U16(parts as u16));
        metadata.insert("split.tensors.count", Value::I32(tensors as i32));
    }
    metadata
}

fn write_json(path: &Path, value: &serde_json::Value) -> Result<(), RandomModelError> {
    let json = serde_json::to_vec_pretty(value).expect("a JSON value serialises");
    fs::write(path, json).map_err(RandomModelError::io(path))
}
