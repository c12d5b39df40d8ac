//! Reading a header: what each tensor is and where it lies, checked against the real size of the file.

use super::json::{self, RawTensor};
use super::{
    BLOCKS_KEY_PREFIX, Dtype, MAX_DIMENSIONS, MAX_HEADER_BYTES, PREFIX_BYTES, SafetensorsError,
};
use crate::{BlockFormat, WeightLayout};
use serde::Deserialize;
use serde::de::value::{Error as DtypeError, StrDeserializer};
use std::collections::BTreeMap;
use std::ops::Range;

/// How a tensor's bytes are to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// Weights: a float dtype, or U8 that our metadata describes.
    Blocks(BlockFormat, WeightLayout),
    /// Anything else that the format knows.
    Other(Dtype),
}

/// One tensor of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorEntry {
    /// Its name.
    pub name: String,
    /// How it is stored.
    pub encoding: Encoding,
    /// Rows first, elements of a row last; the logical shape of a tensor of blocks.
    pub shape: Vec<u64>,
    /// Where it lies, in bytes from the start of the file.
    pub range: Range<u64>,
}

impl TensorEntry {
    /// The format of a tensor that is to serve as weights, row after row.
    pub fn block_format(&self) -> Result<BlockFormat, SafetensorsError> {
        match self.encoding {
            Encoding::Blocks(format, WeightLayout::RowMajor) => Ok(format),
            Encoding::Blocks(_, layout) => Err(SafetensorsError::Layout {
                tensor: self.name.clone(),
                layout,
            }),
            Encoding::Other(dtype) => Err(SafetensorsError::UnsupportedDtype {
                tensor: self.name.clone(),
                dtype,
            }),
        }
    }
}

/// A checked header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SafetensorsHeader {
    /// The string pairs under `__metadata__`.
    pub metadata: BTreeMap<String, String>,
    /// Every tensor in the order of its bytes. Together they cover the data without gap or overlap.
    pub tensors: Vec<TensorEntry>,
    /// First byte of the data.
    pub data_start: u64,
}

/// How many bytes of a file to read for [`SafetensorsHeader::parse`], the first 8 included, from those 8 bytes and
/// the file's size.
pub fn header_length(first_8: &[u8], file_bytes: u64) -> Result<u64, SafetensorsError> {
    let Some(prefix) = first_8
        .first_chunk::<8>()
        .filter(|_| file_bytes >= PREFIX_BYTES)
    else {
        return Err(SafetensorsError::NoLength { file_bytes });
    };
    let header_bytes = u64::from_le_bytes(*prefix);
    if header_bytes > file_bytes - PREFIX_BYTES {
        return Err(SafetensorsError::HeaderBeyondFile {
            header_bytes,
            file_bytes,
        });
    }
    if header_bytes > MAX_HEADER_BYTES {
        return Err(SafetensorsError::HeaderTooLong { header_bytes });
    }
    Ok(PREFIX_BYTES + header_bytes)
}

impl SafetensorsHeader {
    /// Parses and checks a header. `prefix` is the file's beginning, at least [`header_length`] bytes of it;
    /// `file_bytes` is the real size of the file. Memory use is a small multiple of the header.
    pub fn parse(prefix: &[u8], file_bytes: u64) -> Result<Self, SafetensorsError> {
        let data_start = header_length(prefix, file_bytes)?;
        let given = prefix.len() as u64;
        if given < data_start {
            return Err(SafetensorsError::Incomplete {
                given,
                needed: data_start,
            });
        }
        let raw = json::parse(&prefix[PREFIX_BYTES as usize..data_start as usize])?;
        let data_bytes = file_bytes - data_start;
        let mut tensors = Vec::with_capacity(raw.tensors.len());
        for (name, tensor) in raw.tensors {
            let described = raw.metadata.get(&format!("{BLOCKS_KEY_PREFIX}{name}"));
            tensors.push(check_tensor(
                name, tensor, described, data_start, data_bytes,
            )?);
        }
        tensors.sort_by_key(|tensor| (tensor.range.start, tensor.range.end));
        check_coverage(&tensors, data_start, file_bytes)?;
        Ok(Self {
            metadata: raw.metadata,
            tensors,
            data_start,
        })
    }
}

fn check_tensor(
    name: String,
    raw: RawTensor,
    described: Option<&String>,
    data_start: u64,
    data_bytes: u64,
) -> Result<TensorEntry, SafetensorsError> {
    let dimensions = raw.shape.len();
    if dimensions > MAX_DIMENSIONS {
        return Err(SafetensorsError::TooManyDimensions {
            tensor: name,
            dimensions,
        });
    }
    let Ok(dtype) = Dtype::deserialize(StrDeserializer::<DtypeError>::new(&raw.dtype)) else {
        let dtype = raw.dtype.chars().take(64).collect();
        return Err(SafetensorsError::UnknownDtype {
            tensor: name,
            dtype,
        });
    };
    let Some(expected) = dtype_bytes(dtype, &raw.shape) else {
        return Err(SafetensorsError::NoSize {
            tensor: name,
            shape: raw.shape,
            dtype,
        });
    };
    let (begin, end) = raw.data_offsets;
    let Some(found) = end.checked_sub(begin) else {
        return Err(SafetensorsError::BackwardOffsets {
            tensor: name,
            begin,
            end,
        });
    };
    if end > data_bytes {
        return Err(SafetensorsError::OutOfBounds {
            tensor: name,
            end,
            data_bytes,
        });
    }
    if found != expected {
        return Err(SafetensorsError::SizeMismatch {
            tensor: name,
            expected,
            found,
        });
    }
    let (encoding, shape) = match (dtype, described) {
        (Dtype::U8, Some(text)) => match parse_block_description(text, found) {
            Some((encoding, shape)) => (encoding, shape),
            None => {
                let found = text.chars().take(128).collect();
                return Err(SafetensorsError::BadBlockDescription {
                    tensor: name,
                    found,
                });
            }
        },
        _ => (dtype_encoding(dtype), raw.shape),
    };
    // `end` is within the file, so neither sum overflows.
    Ok(TensorEntry {
        name,
        encoding,
        shape,
        range: data_start + begin..data_start + end,
    })
}

fn dtype_bytes(dtype: Dtype, shape: &[u64]) -> Option<u64> {
    let elements = shape
        .iter()
        .try_fold(1u64, |product, size| product.checked_mul(*size))?;
    let bits = elements.checked_mul(dtype.bitsize() as u64)?;
    bits.is_multiple_of(8).then_some(bits / 8)
}

fn dtype_encoding(dtype: Dtype) -> Encoding {
    let format = match dtype {
        Dtype::F32 => BlockFormat::F32,
        Dtype::F16 => BlockFormat::F16,
        Dtype::BF16 => BlockFormat::BF16,
        other => return Encoding::Other(other),
    };
    Encoding::Blocks(format, WeightLayout::RowMajor)
}

/// Inverse of [`block_description`], for a tensor of `bytes`.
fn parse_block_description(text: &str, bytes: u64) -> Option<(Encoding, Vec<u64>)> {
    let (format, rest) = text.split_once(' ')?;
    let format = BlockFormat::from_name(format)?;
    let (dimensions, layout) = match rest.split_once(' ') {
        None => (rest, WeightLayout::RowMajor),
        Some((dimensions, name)) => (dimensions, named_layout(name)?),
    };
    let mut shape = Vec::new();
    for dimension in dimensions.split('x') {
        if shape.len() == MAX_DIMENSIONS || !dimension.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        shape.push(dimension.parse().ok()?);
    }
    let fits =
        format.tensor_bytes(&shape) == Some(bytes) && layout.of_tensor(format, &shape) == layout;
    fits.then_some((Encoding::Blocks(format, layout), shape))
}

/// A layout that descriptions name: row-major goes without saying.
fn named_layout(name: &str) -> Option<WeightLayout> {
    WeightLayout::from_name(name).filter(|layout| !layout.is_row_major())
}

/// The metadata value that describes a tensor of blocks: `Q8_0 128x256`, or `Q8_0 128x256 lanes-16-1`.
pub(super) fn block_description(
    format: BlockFormat,
    shape: &[u64],
    layout: WeightLayout,
) -> String {
    let dimensions: Vec<String> = shape.iter().map(u64::to_string).collect();
    let described = format!("{format} {}", dimensions.join("x"));
    match layout {
        WeightLayout::RowMajor => described,
        other => format!("{described} {other}"),
    }
}

/// `tensors` in the order of their bytes must touch each other and both ends of the data.
fn check_coverage(
    tensors: &[TensorEntry],
    data_start: u64,
    file_bytes: u64,
) -> Result<(), SafetensorsError> {
    let mut covered = data_start;
    for tensor in tensors {
        if tensor.range.start < covered {
            return Err(SafetensorsError::Overlap {
                tensor: tensor.name.clone(),
                begin: tensor.range.start - data_start,
                previous_end: covered - data_start,
            });
        }
        check_no_gap(covered, tensor.range.start, data_start)?;
        covered = tensor.range.end;
    }
    check_no_gap(covered, file_bytes, data_start)
}

fn check_no_gap(covered: u64, next: u64, data_start: u64) -> Result<(), SafetensorsError> {
    if covered == next {
        return Ok(());
    }
    Err(SafetensorsError::Gap {
        begin: covered - data_start,
        end: next - data_start,
    })
}
