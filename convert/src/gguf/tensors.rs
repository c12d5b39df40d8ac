//! The tensors of a model's files by canonical id, and how each is read.

use super::names::{Meaning, meaning};
use super::parts::{PartTensor, Parts};
use super::rotary::PairedRows;
use crate::source::{SourceError, SourceTensor, TensorId, shown};
use crate::source_folder::SourceFolder;
use odmoe_formats::architecture::LLAMA;
use odmoe_formats::gguf::TensorInfo;
use odmoe_formats::model_config::ModelConfig;
use odmoe_formats::names::{ExpertRole, LayerTensor};
use odmoe_formats::{BlockFormat, ExpertKey};
use std::collections::HashSet;

/// Where a tensor's bytes are.
pub(super) struct Place {
    /// Index of the file among the folder's.
    file: usize,
    /// First byte, from the start of the file.
    start: u64,
    bytes: u64,
    /// Where the file's rows are in another order.
    paired: Option<PairedRows>,
}

pub(super) struct Tensors {
    pub tensors: Vec<SourceTensor>,
    /// One for each tensor.
    pub places: Vec<Place>,
}

pub(super) fn read(parts: &Parts, config: &ModelConfig) -> Result<Tensors, SourceError> {
    let mut collected = Collected {
        parts,
        config,
        tensors: Vec::new(),
        places: Vec::new(),
        ids: HashSet::new(),
    };
    for tensor in &parts.tensors {
        collected.take(tensor)?;
    }
    Ok(Tensors {
        tensors: collected.tensors,
        places: collected.places,
    })
}

struct Collected<'a> {
    parts: &'a Parts,
    config: &'a ModelConfig,
    tensors: Vec<SourceTensor>,
    places: Vec<Place>,
    ids: HashSet<TensorId>,
}

impl Collected<'_> {
    fn take(&mut self, tensor: &PartTensor) -> Result<(), SourceError> {
        let info = &tensor.info;
        let (layers, experts) = (self.config.num_hidden_layers, self.config.num_experts());
        match meaning(&info.name, layers, experts) {
            Some(Meaning::Ignored) => Ok(()),
            // Taken into the configuration, where the family has them.
            Some(Meaning::RopeDivisors) if self.config.architecture == LLAMA => Ok(()),
            Some(Meaning::Stacked(layer, role)) => self.take_stacked(tensor, layer, role),
            Some(Meaning::One(id)) => self.take_one(tensor, id),
            Some(Meaning::RopeDivisors) | None => {
                Err(SourceError::UnknownTensor(shown(&info.name)))
            }
        }
    }

    fn take_one(&mut self, tensor: &PartTensor, id: TensorId) -> Result<(), SourceError> {
        let info = &tensor.info;
        let format = self.format(tensor)?;
        let mut shape = info.shape.clone();
        if shape.len() == 1 && is_one_of(&id, &[LayerTensor::SharedExpertGate]) {
            shape.insert(0, 1);
        }
        let paired = self.paired(&id, format, info)?;
        let place = Place {
            file: tensor.file,
            start: info.range.start,
            bytes: info.range.end - info.range.start,
            paired,
        };
        self.add(id, info.name.clone(), format, shape, place)
    }

    /// One tensor for each expert's slice.
    fn take_stacked(
        &mut self,
        tensor: &PartTensor,
        layer: u32,
        role: ExpertRole,
    ) -> Result<(), SourceError> {
        let info = &tensor.info;
        let format = self.format(tensor)?;
        let moe = self.config.moe.as_ref();
        let Some(moe) = moe.filter(|_| self.config.is_sparse(layer)) else {
            return Err(SourceError::UnknownTensor(shown(&info.name)));
        };
        let one = role.shape(self.config.hidden_size, moe.moe_intermediate_size);
        let expected = vec![moe.num_experts.into(), one[0], one[1]];
        if info.shape != expected {
            return Err(SourceError::Shape {
                source_name: shown(&info.name),
                expected,
                found: info.shape.clone(),
            });
        }
        let bytes = (info.range.end - info.range.start) / u64::from(moe.num_experts);
        for index in 0..moe.num_experts {
            let id = TensorId::Expert(ExpertKey::routed(layer, index), role);
            let place = Place {
                file: tensor.file,
                start: info.range.start + u64::from(index) * bytes,
                bytes,
                paired: None,
            };
            let name = format!("{}[{index}]", info.name);
            self.add(id, name, format, one.to_vec(), place)?;
        }
        Ok(())
    }

    fn add(
        &mut self,
        id: TensorId,
        source_name: String,
        format: BlockFormat,
        shape: Vec<u64>,
        place: Place,
    ) -> Result<(), SourceError> {
        if !self.ids.insert(id.clone()) {
            return Err(SourceError::DuplicateTensor(id));
        }
        self.tensors.push(SourceTensor {
            id,
            source_name,
            format,
            shape,
        });
        self.places.push(place);
        Ok(())
    }

    fn format(&self, tensor: &PartTensor) -> Result<BlockFormat, SourceError> {
        let (folder, info) = (&self.parts.folder, &tensor.info);
        info.block_format().ok_or_else(|| SourceError::TensorType {
            path: folder.file_path(&folder.infos()[tensor.file].name),
            tensor: shown(&info.name),
            found: info.kind.name(),
            supported: BlockFormat::ALL.map(BlockFormat::name).join(", "),
        })
    }

    /// The order of the rows of what is turned by rotary embedding, in files of families that keep pairs together.
    fn paired(
        &self,
        id: &TensorId,
        format: BlockFormat,
        info: &TensorInfo,
    ) -> Result<Option<PairedRows>, SourceError> {
        use LayerTensor as T;
        let is_bias = is_one_of(id, &[T::QBias, T::KBias]);
        let turned = is_bias || is_one_of(id, &[T::QProj, T::KProj]);
        if self.config.architecture != LLAMA || !turned {
            return Ok(None);
        }
        let head_rows = u64::from(self.config.head_dim);
        let rows = info.shape[0];
        if !rows.is_multiple_of(head_rows) {
            return Err(SourceError::Malformed {
                path: self.parts.path.clone(),
                reason: format!(
                    "{} has {rows} rows, not whole heads of {head_rows}",
                    shown(&info.name)
                ),
            });
        }
        if is_bias && !format.is_float() {
            return Err(SourceError::Feature {
                path: self.parts.path.clone(),
                feature: format!("{} in {format}", shown(&info.name)),
            });
        }
        let row_bytes = (info.range.end - info.range.start) / rows;
        Ok(Some(PairedRows {
            row_bytes,
            head_rows,
        }))
    }
}

/// Whether a tensor is one of these of some layer.
fn is_one_of(id: &TensorId, tensors: &[LayerTensor]) -> bool {
    let TensorId::Resident(name) = id else {
        return false;
    };
    let last = name.rsplit('.').next();
    tensors.iter().any(|tensor| last == Some(tensor.name()))
}

impl Place {
    /// Index of the file among the folder's, and the first byte in it.
    pub fn start(&self) -> (usize, u64) {
        (self.file, self.start)
    }

    /// Fills `into` from `offset` within the tensor, in the order of the store. Panics outside of the tensor.
    pub fn read(
        &self,
        folder: &SourceFolder,
        offset: u64,
        into: &mut [u8],
    ) -> Result<(), SourceError> {
        let end = offset.checked_add(into.len() as u64);
        assert!(end.is_some_and(|end| end <= self.bytes));
        match self.paired {
            None => folder.read_at(self.file, self.start + offset, into),
            Some(paired) => self.read_paired(folder, paired, offset, into),
        }
    }

    fn read_paired(
        &self,
        folder: &SourceFolder,
        paired: PairedRows,
        mut offset: u64,
        mut into: &mut [u8],
    ) -> Result<(), SourceError> {
        let mut span = Vec::new();
        while !into.is_empty() {
            let piece = paired.piece(offset, into.len() as u64);
            let start = self.start + piece.span.start;
            let span_bytes = (piece.span.end - piece.span.start) as usize;
            let (taken, rest) = match piece.rows {
                1 => {
                    let (now, rest) = into.split_at_mut(span_bytes);
                    folder.read_at(self.file, start, now)?;
                    (span_bytes, rest)
                }
                rows => {
                    span.resize(span_bytes, 0);
                    folder.read_at(self.file, start, &mut span)?;
                    let row_bytes = paired.row_bytes as usize;
                    let (now, rest) = into.split_at_mut(rows as usize * row_bytes);
                    let from = span.chunks(row_bytes).step_by(2);
                    for (to, from) in now.chunks_mut(row_bytes).zip(from) {
                        to.copy_from_slice(from);
                    }
                    (rows as usize * row_bytes, rest)
                }
            };
            offset += taken as u64;
            into = rest;
        }
        Ok(())
    }
}
