//! Where each tensor of a file to be written goes, so that reads are aligned.

use super::header::block_description;
use super::{
    BLOCKS_KEY_PREFIX, FILLER_PREFIX, MAX_DIMENSIONS, MAX_HEADER_BYTES, MAX_NAME_BYTES,
    MAX_TENSORS, PREFIX_BYTES,
};
use crate::manifest::{OBJECT_ALIGNMENT_BYTES, TENSOR_ALIGNMENT_BYTES};
use crate::{BlockFormat, WeightLayout};
use std::collections::HashSet;
use std::ops::Range;

/// A tensor to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorSpec {
    /// Its name.
    pub name: String,
    /// How it is stored.
    pub format: BlockFormat,
    /// Rows first, elements of a row last.
    pub shape: Vec<u64>,
    /// In which order its blocks lie.
    pub layout: WeightLayout,
}

/// Where a tensor goes, in bytes from the start of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlacedTensor {
    /// First byte.
    pub offset: u64,
    /// Length in bytes.
    pub bytes: u64,
}

/// A file to be written: the header first, then each tensor at its place, and zeros in between.
///
/// In a store's files the data starts and the file ends on a multiple of [`OBJECT_ALIGNMENT_BYTES`], and tensors start
/// on multiples of [`TENSOR_ALIGNMENT_BYTES`]. The format allows no gaps, so what alignment leaves open is covered by U8
/// filler tensors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SafetensorsLayout {
    /// The file's first bytes, up to the data.
    pub header: Vec<u8>,
    /// Every tensor, in the order given.
    pub tensors: Vec<PlacedTensor>,
    /// Size of the file.
    pub file_bytes: u64,
}

/// A file that cannot be laid out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LayoutError {
    /// Nothing to write.
    #[error("a tensor file needs at least one tensor")]
    Empty,
    /// Too much for one file.
    #[error("the header would be larger than any reader accepts; split the file")]
    HeaderTooLong,
    /// A name that is reserved, used twice, empty or too long.
    #[error("tensor name {0:?} is reserved, used twice, empty or too long")]
    Name(String),
    /// A shape that has no size: a dimension of 0, a row that is not whole blocks, or an overflow.
    #[error("tensor {name:?}: shape {shape:?} of {format} has no size in bytes")]
    Size {
        /// Which.
        name: String,
        /// Its format.
        format: BlockFormat,
        /// Its shape.
        shape: Vec<u64>,
    },
    /// An order of blocks that such a tensor cannot have.
    #[error("tensor {name:?}: shape {shape:?} of {format} has no layout {layout}")]
    Order {
        /// Which.
        name: String,
        /// The order.
        layout: WeightLayout,
        /// Its format.
        format: BlockFormat,
        /// Its shape.
        shape: Vec<u64>,
    },
}

/// Multiples that places are rounded up to, in bytes.
struct Alignment {
    header: u64,
    tensor: u64,
    end: u64,
}

impl SafetensorsLayout {
    /// Lays out a file of a store, with every tensor aligned. The same tensors give the same bytes.
    pub fn new(tensors: &[TensorSpec]) -> Result<Self, LayoutError> {
        let alignment = Alignment {
            header: OBJECT_ALIGNMENT_BYTES,
            tensor: TENSOR_ALIGNMENT_BYTES,
            end: OBJECT_ALIGNMENT_BYTES,
        };
        Self::aligned(tensors, &[], alignment)
    }

    /// Lays out a file as other programs write it: tensor after tensor without fillers, and the given pairs, whose
    /// keys must differ, in the metadata.
    pub fn packed(tensors: &[TensorSpec], metadata: &[(&str, &str)]) -> Result<Self, LayoutError> {
        Self::aligned(
            tensors,
            metadata,
            Alignment {
                header: 8,
                tensor: 1,
                end: 1,
            },
        )
    }

    fn aligned(
        tensors: &[TensorSpec],
        metadata: &[(&str, &str)],
        alignment: Alignment,
    ) -> Result<Self, LayoutError> {
        check_names(tensors)?;
        check_orders(tensors)?;
        let (placed, fillers, data_bytes) = place(tensors, &alignment)?;
        let json = header_json(tensors, metadata, &placed, &fillers);
        let header = padded_header(&json, alignment.header)?;
        let data_start = header.len() as u64;
        let placed = placed
            .into_iter()
            .map(|tensor| PlacedTensor {
                offset: data_start + tensor.start,
                bytes: tensor.end - tensor.start,
            })
            .collect();
        let file_bytes = data_start
            .checked_add(data_bytes)
            .ok_or(LayoutError::HeaderTooLong)?;
        Ok(Self {
            header,
            tensors: placed,
            file_bytes,
        })
    }

    /// First byte of the data: the header's length.
    pub fn data_start(&self) -> u64 {
        self.header.len() as u64
    }

    /// Bytes of the data.
    pub fn data_bytes(&self) -> u64 {
        self.file_bytes - self.data_start()
    }
}

fn check_names(tensors: &[TensorSpec]) -> Result<(), LayoutError> {
    if tensors.is_empty() {
        return Err(LayoutError::Empty);
    }
    // A filler between any two and at the end may double the count.
    if tensors.len() > MAX_TENSORS / 2 {
        return Err(LayoutError::HeaderTooLong);
    }
    let mut seen = HashSet::new();
    for tensor in tensors {
        let name = &tensor.name;
        let reserved = name.starts_with("__");
        let length = 1..=MAX_NAME_BYTES;
        if reserved || !length.contains(&name.len()) || !seen.insert(name) {
            return Err(LayoutError::Name(name.clone()));
        }
    }
    Ok(())
}

fn check_orders(tensors: &[TensorSpec]) -> Result<(), LayoutError> {
    let fits = |spec: &&TensorSpec| spec.layout.of_tensor(spec.format, &spec.shape) == spec.layout;
    match tensors.iter().find(|spec| !fits(spec)) {
        None => Ok(()),
        Some(spec) => Err(LayoutError::Order {
            name: spec.name.clone(),
            layout: spec.layout,
            format: spec.format,
            shape: spec.shape.clone(),
        }),
    }
}

type Places = Vec<Range<u64>>;

/// Ranges of tensors and of fillers from the data's start, and the data's length.
fn place(
    tensors: &[TensorSpec],
    alignment: &Alignment,
) -> Result<(Places, Places, u64), LayoutError> {
    let mut placed = Vec::with_capacity(tensors.len());
    let mut fillers = Vec::new();
    let mut end = 0u64;
    for tensor in tensors {
        let no_size = || LayoutError::Size {
            name: tensor.name.clone(),
            format: tensor.format,
            shape: tensor.shape.clone(),
        };
        let whole = tensor.shape.len() <= MAX_DIMENSIONS && !tensor.shape.contains(&0);
        let bytes = tensor.format.tensor_bytes(&tensor.shape).filter(|_| whole);
        let start = fill_to(end, alignment.tensor, &mut fillers).ok_or_else(no_size)?;
        end = bytes
            .and_then(|bytes| start.checked_add(bytes))
            .ok_or_else(no_size)?;
        placed.push(start..end);
    }
    let end = fill_to(end, alignment.end, &mut fillers).ok_or(LayoutError::HeaderTooLong)?;
    Ok((placed, fillers, end))
}

fn fill_to(from: u64, alignment: u64, fillers: &mut Places) -> Option<u64> {
    let to = from.checked_next_multiple_of(alignment)?;
    if to > from {
        fillers.push(from..to);
    }
    Some(to)
}

/// The JSON in the order of the bytes.
fn header_json(
    tensors: &[TensorSpec],
    metadata: &[(&str, &str)],
    placed: &Places,
    fillers: &Places,
) -> String {
    let mut entries: Vec<(u64, String)> = Vec::with_capacity(placed.len() + fillers.len());
    for (tensor, range) in tensors.iter().zip(placed) {
        let (dtype, shape) = match tensor.format {
            BlockFormat::F32 | BlockFormat::F16 | BlockFormat::BF16 => {
                (tensor.format.name(), tensor.shape.clone())
            }
            _ => ("U8", vec![range.end - range.start]),
        };
        entries.push((range.start, entry_json(&tensor.name, dtype, &shape, range)));
    }
    for (number, range) in fillers.iter().enumerate() {
        let name = format!("{FILLER_PREFIX}{number}");
        entries.push((
            range.start,
            entry_json(&name, "U8", &[range.end - range.start], range),
        ));
    }
    entries.sort();

    let metadata = metadata_json(tensors, metadata);
    let entries = entries.into_iter().map(|(_, entry)| entry);
    let members: Vec<String> = metadata.into_iter().chain(entries).collect();
    format!("{{{}}}", members.join(","))
}

/// Length, JSON, and spaces up to the data.
fn padded_header(json: &str, alignment: u64) -> Result<Vec<u8>, LayoutError> {
    let bytes = (PREFIX_BYTES + json.len() as u64).next_multiple_of(alignment);
    let json_bytes = bytes - PREFIX_BYTES;
    if json_bytes > MAX_HEADER_BYTES {
        return Err(LayoutError::HeaderTooLong);
    }
    let mut header = json_bytes.to_le_bytes().to_vec();
    header.extend_from_slice(json.as_bytes());
    header.resize(bytes as usize, b' ');
    Ok(header)
}

fn metadata_json(tensors: &[TensorSpec], metadata: &[(&str, &str)]) -> Option<String> {
    let given = metadata
        .iter()
        .map(|(key, value)| (key.to_string(), value.to_string()));
    let blocks = tensors
        .iter()
        .filter(|tensor| !tensor.format.is_float())
        .map(|tensor| {
            let description = block_description(tensor.format, &tensor.shape, tensor.layout);
            (format!("{BLOCKS_KEY_PREFIX}{}", tensor.name), description)
        });
    let pairs: Vec<String> = given
        .chain(blocks)
        .map(|(key, value)| format!("{}:{}", quoted(&key), quoted(&value)))
        .collect();
    (!pairs.is_empty()).then(|| format!("\"__metadata__\":{{{}}}", pairs.join(",")))
}

fn entry_json(name: &str, dtype: &str, shape: &[u64], range: &Range<u64>) -> String {
    let dimensions: Vec<String> = shape.iter().map(u64::to_string).collect();
    let (name, shape) = (quoted(name), dimensions.join(","));
    let (begin, end) = (range.start, range.end);
    format!(r#"{name}:{{"dtype":"{dtype}","shape":[{shape}],"data_offsets":[{begin},{end}]}}"#)
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
