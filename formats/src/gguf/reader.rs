//! Reads a file's description, front to back, and checks it whole.

use super::cursor::Cursor;
use super::{DEFAULT_ALIGNMENT_BYTES, GgmlType, GgufError, MAGIC, Metadata, ValueError};
use crate::BlockFormat;
use std::collections::HashSet;
use std::io::Read;
use std::ops::Range;

/// The most entries of metadata.
const MAX_ENTRIES: u64 = 1 << 16;
/// The most tensors: one for each matrix of 1024 layers of 256 experts, and as many again.
const MAX_TENSORS: u64 = 1 << 21;
const MAX_KEY_BYTES: u64 = (1 << 16) - 1;
const MAX_NAME_BYTES: u64 = 1024;
const MAX_ALIGNMENT_BYTES: u64 = 1 << 20;
/// The number of dimensions that ggml has.
const MAX_DIMENSIONS: u32 = 4;

/// The description of one file: everything but the tensors' bytes.
#[derive(Clone, Debug, PartialEq)]
pub struct Gguf {
    /// 2 or 3; they differ in nothing that is read here.
    pub version: u32,
    /// What the start of the data and every tensor's offset are multiples of.
    pub alignment_bytes: u64,
    /// By key, in the order of the file.
    pub metadata: Metadata,
    /// In the order of the file. No two overlap, and all are inside the file.
    pub tensors: Vec<TensorInfo>,
    /// The first byte of the data, from the start of the file. Without tensors it may lie behind the end.
    pub data_start: u64,
}

/// One tensor of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Its name; no other tensor of the file has it.
    pub name: String,
    /// How its elements are stored.
    pub kind: GgmlType,
    /// 1 to 4 dimensions, rows first and the elements of a row last; none is 0.
    pub shape: Vec<u64>,
    /// Where its bytes lie, from the start of the file.
    pub range: Range<u64>,
}

impl TensorInfo {
    /// The format that this build can decode; None for the types that it cannot.
    pub fn block_format(&self) -> Option<BlockFormat> {
        self.kind.block_format()
    }
}

impl Gguf {
    /// Reads from the start of a file of `file_bytes`, in small pieces and no further than the tensors' descriptions.
    /// Memory use is a small multiple of what was read, whatever the file claims.
    pub fn read(reader: &mut impl Read, file_bytes: u64) -> Result<Self, GgufError> {
        let mut cursor = Cursor::new(reader, file_bytes);
        let version = read_version(&mut cursor)?;
        let tensors = bounded(
            "the number of tensors",
            cursor.u64("the header")?,
            MAX_TENSORS,
        )?;
        let entries = cursor.u64("the header")?;
        let entries = bounded("the number of metadata entries", entries, MAX_ENTRIES)?;
        let metadata = read_metadata(&mut cursor, entries)?;
        let alignment_bytes = alignment(&metadata)?;
        let raw = read_tensors(&mut cursor, tensors)?;
        // The header is far shorter than 2^63, and the alignment is small.
        let data_start = cursor.position().next_multiple_of(alignment_bytes);
        let place = |tensor: RawTensor| tensor.place(data_start, alignment_bytes, file_bytes);
        let tensors: Vec<TensorInfo> = raw.into_iter().map(place).collect::<Result<_, _>>()?;
        check_overlaps(&tensors)?;
        Ok(Self {
            version,
            alignment_bytes,
            metadata,
            tensors,
            data_start,
        })
    }
}

fn read_version(cursor: &mut Cursor<'_, impl Read>) -> Result<u32, GgufError> {
    let magic: [u8; 4] = cursor.bytes("the header")?;
    if magic != MAGIC {
        return Err(GgufError::Magic(magic));
    }
    match cursor.u32("the header")? {
        version @ (2 | 3) => Ok(version),
        swapped if swapped != 0 && swapped.trailing_zeros() >= 16 => Err(GgufError::BigEndian),
        other => Err(GgufError::Version(other)),
    }
}

pub(super) fn bounded(part: &'static str, found: u64, limit: u64) -> Result<u64, GgufError> {
    match found <= limit {
        true => Ok(found),
        false => Err(GgufError::TooLarge { part, found, limit }),
    }
}

fn read_metadata(cursor: &mut Cursor<'_, impl Read>, entries: u64) -> Result<Metadata, GgufError> {
    let mut metadata = Metadata::default();
    for index in 0..entries {
        let key = read_name(cursor, "key", index, MAX_KEY_BYTES)?;
        let value = cursor.value(&key)?;
        if metadata.get(&key).is_some() {
            return Err(GgufError::DuplicateKey(shown(&key)));
        }
        metadata.insert(key, value);
    }
    Ok(metadata)
}

fn read_name(
    cursor: &mut Cursor<'_, impl Read>,
    part: &'static str,
    index: u64,
    limit: u64,
) -> Result<String, GgufError> {
    let bytes = cursor.string(part, limit)?;
    let name = String::from_utf8(bytes)
        .ok()
        .filter(|name| !name.is_empty());
    name.ok_or(GgufError::Name { part, index })
}

/// A name as an error shows it.
pub(super) fn shown(name: &str) -> String {
    name.chars().take(128).collect()
}

fn alignment(metadata: &Metadata) -> Result<u64, GgufError> {
    let found = metadata.integer("general.alignment");
    let found = found.map(|found| found.unwrap_or(DEFAULT_ALIGNMENT_BYTES));
    let limit = MAX_ALIGNMENT_BYTES;
    match found {
        Ok(bytes) if bytes.is_power_of_two() && bytes <= limit => Ok(bytes),
        Ok(_) | Err(ValueError::Type { .. } | ValueError::Missing(_)) => {
            Err(GgufError::Alignment { limit })
        }
    }
}

/// A tensor whose place in the file is not known yet.
struct RawTensor {
    name: String,
    kind: GgmlType,
    shape: Vec<u64>,
    bytes: u64,
    offset: u64,
}

fn read_tensors(
    cursor: &mut Cursor<'_, impl Read>,
    count: u64,
) -> Result<Vec<RawTensor>, GgufError> {
    let mut tensors = Vec::new();
    let mut names = HashSet::new();
    for index in 0..count {
        let tensor = read_tensor(cursor, index)?;
        if !names.insert(tensor.name.clone()) {
            return Err(GgufError::DuplicateTensor(shown(&tensor.name)));
        }
        tensors.push(tensor);
    }
    Ok(tensors)
}

fn read_tensor(cursor: &mut Cursor<'_, impl Read>, index: u64) -> Result<RawTensor, GgufError> {
    const PART: &str = "a tensor's description";
    let name = read_name(cursor, "tensor", index, MAX_NAME_BYTES)?;
    let dimensions = cursor.u32(PART)?;
    if !(1..=MAX_DIMENSIONS).contains(&dimensions) {
        return Err(GgufError::Dimensions {
            tensor: shown(&name),
            found: dimensions,
        });
    }
    let mut shape = Vec::with_capacity(dimensions as usize);
    for _ in 0..dimensions {
        shape.push(cursor.u64(PART)?);
    }
    shape.reverse();
    let id = cursor.u32(PART)?;
    let Some(kind) = GgmlType::from_id(id) else {
        return Err(GgufError::TensorType {
            tensor: shown(&name),
            found: id,
        });
    };
    let sized = kind.tensor_bytes(&shape).filter(|_| !shape.contains(&0));
    let Some(bytes) = sized else {
        return Err(GgufError::Shape {
            tensor: shown(&name),
            shape,
            kind: kind.name(),
        });
    };
    let offset = cursor.u64(PART)?;
    Ok(RawTensor {
        name,
        kind,
        shape,
        bytes,
        offset,
    })
}

impl RawTensor {
    fn place(
        self,
        data_start: u64,
        alignment: u64,
        file_bytes: u64,
    ) -> Result<TensorInfo, GgufError> {
        if !self.offset.is_multiple_of(alignment) {
            return Err(GgufError::Misaligned {
                tensor: shown(&self.name),
                offset: self.offset,
                alignment,
            });
        }
        let start = data_start.checked_add(self.offset);
        let end = start.and_then(|start| start.checked_add(self.bytes));
        match (start, end) {
            (Some(start), Some(end)) if end <= file_bytes => Ok(TensorInfo {
                name: self.name,
                kind: self.kind,
                shape: self.shape,
                range: start..end,
            }),
            _ => Err(GgufError::OutOfBounds {
                tensor: shown(&self.name),
                file_bytes,
            }),
        }
    }
}

/// Gaps are harmless; shared bytes are not.
fn check_overlaps(tensors: &[TensorInfo]) -> Result<(), GgufError> {
    let mut in_order: Vec<&TensorInfo> = tensors.iter().collect();
    in_order.sort_by_key(|tensor| tensor.range.start);
    for pair in in_order.windows(2) {
        if pair[1].range.start < pair[0].range.end {
            return Err(GgufError::Overlap {
                first: shown(&pair[0].name),
                second: shown(&pair[1].name),
            });
        }
    }
    Ok(())
}
