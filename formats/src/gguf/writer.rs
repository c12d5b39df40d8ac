//! The first bytes of a file to be written, and where each tensor's bytes go. The caller streams the data.

use super::{Array, DEFAULT_ALIGNMENT_BYTES, GgmlType, MAGIC, Metadata, Value};
use crate::safetensors::{PlacedTensor, TensorSpec};
use crate::{BlockFormat, WeightLayout};
use std::collections::HashSet;

/// The version that is written.
const VERSION: u32 = 3;
/// Readers keep a tensor's name in 64 bytes with a zero at the end.
const MAX_NAME_BYTES: usize = 63;
/// More dimensions than any reader takes.
const MAX_DIMENSIONS: usize = 4;
/// The longest key that the specification allows.
const MAX_KEY_BYTES: usize = 65_535;
/// What a reader takes.
const MAX_HEADER_BYTES: usize = super::cursor::MAX_HEADER_BYTES as usize;
/// The key that moves the data section and every tensor in it to other multiples.
const ALIGNMENT_KEY: &str = "general.alignment";
/// Wider alignment than any page.
const MAX_ALIGNMENT_BYTES: u64 = 1 << 20;

/// A file to be written: the header first, then each tensor at its place, and zeros in between and up to the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GgufLayout {
    /// The file's first bytes, up to the data section.
    pub header: Vec<u8>,
    /// Every tensor, in the order given, which is also that of the bytes; offsets are from the file's start.
    pub tensors: Vec<PlacedTensor>,
    /// Size of the file.
    pub file_bytes: u64,
}

/// A file that cannot be laid out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GgufLayoutError {
    /// A key that is empty or too long.
    #[error("metadata key {0:?} is empty or longer than {MAX_KEY_BYTES} bytes")]
    Key(String),
    /// An alignment that readers refuse.
    #[error("{ALIGNMENT_KEY} must be a power of two from 8 to {MAX_ALIGNMENT_BYTES}, as a U32")]
    Alignment,
    /// Too much for one file.
    #[error("the header would be larger than {MAX_HEADER_BYTES} bytes; split the file")]
    HeaderTooLong,
    /// A name that is empty, too long, or used twice.
    #[error("tensor name {0:?} is empty, used twice or longer than {MAX_NAME_BYTES} bytes")]
    Name(String),
    /// Rows that are to lie in another order than one after another.
    #[error("tensor {name:?}: GGUF has no layout {layout}")]
    Order {
        /// Which.
        name: String,
        /// The order.
        layout: WeightLayout,
    },
    /// A shape that has no size, or more dimensions than the format has.
    #[error(
        "tensor {name:?}: shape {shape:?} of {format} has no size in bytes, or not 1 to {MAX_DIMENSIONS} dimensions"
    )]
    Size {
        /// Which.
        name: String,
        /// Its format.
        format: BlockFormat,
        /// Its shape, rows first.
        shape: Vec<u64>,
    },
}

impl GgufLayout {
    /// Lays out one file. Tensors start on multiples of 32 bytes, or of `general.alignment` where the metadata has it.
    /// The same metadata and tensors give the same bytes.
    ///
    /// A file may have no tensors: such files carry vocabularies.
    pub fn new(metadata: &Metadata, tensors: &[TensorSpec]) -> Result<Self, GgufLayoutError> {
        let alignment = alignment(metadata)?;
        check_names(tensors)?;
        check_orders(tensors)?;
        let (mut placed, data_bytes) = place(tensors, alignment)?;
        let mut header = Header::default();
        header.put(&MAGIC)?;
        header.put(&VERSION.to_le_bytes())?;
        header.count(tensors.len())?;
        header.count(metadata.iter().len())?;
        for (key, value) in metadata.iter() {
            if key.is_empty() || key.len() > MAX_KEY_BYTES {
                return Err(GgufLayoutError::Key(key.chars().take(64).collect()));
            }
            header.entry(key, value)?;
        }
        for (tensor, place) in tensors.iter().zip(&placed) {
            header.tensor(tensor, place.offset)?;
        }
        let header = header.padded(alignment)?;
        let data_start = header.len() as u64;
        for place in &mut placed {
            place.offset += data_start;
        }
        Ok(Self {
            header,
            tensors: placed,
            file_bytes: data_start + data_bytes,
        })
    }

    /// First byte of the data section: the header's length.
    pub fn data_start(&self) -> u64 {
        self.header.len() as u64
    }
}

fn alignment(metadata: &Metadata) -> Result<u64, GgufLayoutError> {
    match metadata.get(ALIGNMENT_KEY) {
        None => Ok(DEFAULT_ALIGNMENT_BYTES),
        Some(Value::U32(bytes)) => {
            let bytes = u64::from(*bytes);
            let allowed = (8..=MAX_ALIGNMENT_BYTES).contains(&bytes) && bytes.is_power_of_two();
            allowed.then_some(bytes).ok_or(GgufLayoutError::Alignment)
        }
        Some(_) => Err(GgufLayoutError::Alignment),
    }
}

fn check_names(tensors: &[TensorSpec]) -> Result<(), GgufLayoutError> {
    let mut seen = HashSet::new();
    for TensorSpec { name, .. } in tensors {
        if !(1..=MAX_NAME_BYTES).contains(&name.len()) || !seen.insert(name) {
            return Err(GgufLayoutError::Name(name.clone()));
        }
    }
    Ok(())
}

fn check_orders(tensors: &[TensorSpec]) -> Result<(), GgufLayoutError> {
    match tensors.iter().find(|tensor| !tensor.layout.is_row_major()) {
        None => Ok(()),
        Some(TensorSpec { name, layout, .. }) => Err(GgufLayoutError::Order {
            name: name.clone(),
            layout: *layout,
        }),
    }
}

/// Places from the data section's start, and the section's length, which ends on a multiple too.
fn place(
    tensors: &[TensorSpec],
    alignment: u64,
) -> Result<(Vec<PlacedTensor>, u64), GgufLayoutError> {
    let mut placed = Vec::with_capacity(tensors.len());
    let mut end = 0u64;
    for tensor in tensors {
        let no_size = || GgufLayoutError::Size {
            name: tensor.name.clone(),
            format: tensor.format,
            shape: tensor.shape.clone(),
        };
        let whole = tensor.shape.len() <= MAX_DIMENSIONS && !tensor.shape.contains(&0);
        let bytes = tensor.format.tensor_bytes(&tensor.shape);
        let bytes = bytes.filter(|_| whole).ok_or_else(no_size)?;
        placed.push(PlacedTensor { offset: end, bytes });
        let next = end.checked_add(bytes);
        let next = next.and_then(|next| next.checked_next_multiple_of(alignment));
        // Half the range is left for the header, and offsets are signed in some readers.
        end = next
            .filter(|next| *next <= i64::MAX as u64 / 2)
            .ok_or_else(no_size)?;
    }
    Ok((placed, end))
}

/// The header as it grows, never beyond [`MAX_HEADER_BYTES`].
#[derive(Default)]
struct Header(Vec<u8>);

type Written = Result<(), GgufLayoutError>;

impl Header {
    fn put(&mut self, bytes: &[u8]) -> Written {
        if bytes.len() > MAX_HEADER_BYTES - self.0.len() {
            return Err(GgufLayoutError::HeaderTooLong);
        }
        self.0.extend_from_slice(bytes);
        Ok(())
    }

    fn count(&mut self, count: usize) -> Written {
        self.put(&(count as u64).to_le_bytes())
    }

    fn string(&mut self, bytes: &[u8]) -> Written {
        self.count(bytes.len())?;
        self.put(bytes)
    }

    fn entry(&mut self, key: &str, value: &Value) -> Written {
        self.string(key.as_bytes())?;
        self.put(&value_type_id(value).to_le_bytes())?;
        match value {
            Value::U8(n) => self.put(&n.to_le_bytes()),
            Value::I8(n) => self.put(&n.to_le_bytes()),
            Value::U16(n) => self.put(&n.to_le_bytes()),
            Value::I16(n) => self.put(&n.to_le_bytes()),
            Value::U32(n) => self.put(&n.to_le_bytes()),
            Value::I32(n) => self.put(&n.to_le_bytes()),
            Value::F32(x) => self.put(&x.to_le_bytes()),
            Value::Bool(flag) => self.put(&[u8::from(*flag)]),
            Value::String(bytes) => self.string(bytes),
            Value::Array(array) => self.array(array),
            Value::U64(n) => self.put(&n.to_le_bytes()),
            Value::I64(n) => self.put(&n.to_le_bytes()),
            Value::F64(x) => self.put(&x.to_le_bytes()),
        }
    }

    fn array(&mut self, array: &Array) -> Written {
        match array {
            Array::U8(all) => self.elements(0, all, |n| n.to_le_bytes()),
            Array::I8(all) => self.elements(1, all, |n| n.to_le_bytes()),
            Array::U16(all) => self.elements(2, all, |n| n.to_le_bytes()),
            Array::I16(all) => self.elements(3, all, |n| n.to_le_bytes()),
            Array::U32(all) => self.elements(4, all, |n| n.to_le_bytes()),
            Array::I32(all) => self.elements(5, all, |n| n.to_le_bytes()),
            Array::F32(all) => self.elements(6, all, |x| x.to_le_bytes()),
            Array::Bool(all) => self.elements(7, all, |flag| [u8::from(*flag)]),
            Array::String(all) => {
                self.put(&8u32.to_le_bytes())?;
                self.count(all.len())?;
                all.iter().try_for_each(|bytes| self.string(bytes))
            }
            Array::U64(all) => self.elements(10, all, |n| n.to_le_bytes()),
            Array::I64(all) => self.elements(11, all, |n| n.to_le_bytes()),
            Array::F64(all) => self.elements(12, all, |x| x.to_le_bytes()),
        }
    }

    fn elements<T, const BYTES: usize>(
        &mut self,
        type_id: u32,
        all: &[T],
        bytes: impl Fn(&T) -> [u8; BYTES],
    ) -> Written {
        self.put(&type_id.to_le_bytes())?;
        self.count(all.len())?;
        all.iter().try_for_each(|element| self.put(&bytes(element)))
    }

    /// Name, dimensions with the elements of a row first, type, offset in the data section.
    fn tensor(&mut self, tensor: &TensorSpec, offset: u64) -> Written {
        self.string(tensor.name.as_bytes())?;
        let dimensions = tensor.shape.len() as u32;
        self.put(&dimensions.to_le_bytes())?;
        for size in tensor.shape.iter().rev() {
            self.put(&size.to_le_bytes())?;
        }
        self.put(&GgmlType::from(tensor.format).id().to_le_bytes())?;
        self.put(&offset.to_le_bytes())
    }

    fn padded(mut self, alignment: u64) -> Result<Vec<u8>, GgufLayoutError> {
        let filler = self.0.len().next_multiple_of(alignment as usize) - self.0.len();
        self.put(&vec![0; filler])?;
        Ok(self.0)
    }
}

/// The number that an entry has for its value's type.
const fn value_type_id(value: &Value) -> u32 {
    match value {
        Value::U8(_) => 0,
        Value::I8(_) => 1,
        Value::U16(_) => 2,
        Value::I16(_) => 3,
        Value::U32(_) => 4,
        Value::I32(_) => 5,
        Value::F32(_) => 6,
        Value::Bool(_) => 7,
        Value::String(_) => 8,
        Value::Array(_) => 9,
        Value::U64(_) => 10,
        Value::I64(_) => 11,
        Value::F64(_) => 12,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(name: &str, format: BlockFormat, shape: &[u64]) -> TensorSpec {
        TensorSpec {
            name: name.into(),
            format,
            shape: shape.to_vec(),
            layout: WeightLayout::RowMajor,
        }
    }

    /// Every byte of a small file, written out by hand from the specification.
    #[test]
    fn a_small_file_has_exactly_these_bytes() {
        let mut metadata = Metadata::default();
        metadata.insert("a", Value::U32(7));
        metadata.insert("b", Value::Array(Array::String(vec![b"x".to_vec()])));
        let tensors = [
            spec("t", BlockFormat::F32, &[2, 3]),
            spec("u", BlockFormat::Q8_0, &[32]),
        ];
        let layout = GgufLayout::new(&metadata, &tensors).unwrap();
        let mut expected = b"GGUF\x03\0\0\0".to_vec();
        let long = |n: u64| n.to_le_bytes().to_vec();
        let short = |n: u32| n.to_le_bytes().to_vec();
        let parts = [
            [long(2), long(2)].concat(),
            [long(1), b"a".to_vec(), short(4), short(7)].concat(),
            [long(1), b"b".to_vec(), short(9), short(8), long(1)].concat(),
            [long(1), b"x".to_vec()].concat(),
            [long(1), b"t".to_vec(), short(2), long(3), long(2)].concat(),
            [short(0), long(0)].concat(),
            [long(1), b"u".to_vec(), short(1), long(32)].concat(),
            [short(8), long(32)].concat(),
        ];
        expected.extend(parts.concat());
        expected.resize(expected.len().next_multiple_of(32), 0);
        assert_eq!(layout.header, expected);
        let start = layout.data_start();
        let places: Vec<(u64, u64)> = layout.tensors.iter().map(|t| (t.offset, t.bytes)).collect();
        assert_eq!(places, [(start, 24), (start + 32, 34)]);
        assert_eq!(layout.file_bytes, start + 96);
    }

    #[test]
    fn another_alignment_moves_header_and_tensors() {
        let mut metadata = Metadata::default();
        metadata.insert(ALIGNMENT_KEY, Value::U32(4096));
        let tensors = ["a", "b"].map(|name| spec(name, BlockFormat::F16, &[1, 8]));
        let layout = GgufLayout::new(&metadata, &tensors).unwrap();
        let offsets: Vec<u64> = layout.tensors.iter().map(|tensor| tensor.offset).collect();
        assert_eq!((layout.data_start(), offsets), (4096, vec![4096, 8192]));
        assert_eq!(layout.file_bytes, 3 * 4096);
    }

    #[test]
    fn what_no_reader_takes_is_refused() {
        use GgufLayoutError as E;
        let refuse = |metadata: &[(&str, Value)], tensors: &[TensorSpec]| {
            let mut all = Metadata::default();
            for (key, value) in metadata {
                all.insert(*key, value.clone());
            }
            GgufLayout::new(&all, tensors).unwrap_err()
        };
        for bad in [
            Value::U32(0),
            Value::U32(24),
            Value::U64(32),
            Value::U32(1 << 21),
        ] {
            assert_eq!(refuse(&[(ALIGNMENT_KEY, bad)], &[]), E::Alignment);
        }
        assert!(matches!(refuse(&[("", Value::U8(0))], &[]), E::Key(_)));
        let one = |name: &str| spec(name, BlockFormat::F32, &[1]);
        assert!(matches!(refuse(&[], &[one("")]), E::Name(_)));
        assert!(matches!(refuse(&[], &[one(&"n".repeat(64))]), E::Name(_)));
        assert!(matches!(refuse(&[], &[one("a"), one("a")]), E::Name(_)));
        let shapes: [&[u64]; 6] = [
            &[],
            &[0],
            &[2, 31],
            &[1, 1, 1, 1, 32],
            &[1 << 40, 1 << 40],
            &[1 << 33, 1 << 30],
        ];
        for shape in shapes {
            let found = refuse(&[], &[spec("t", BlockFormat::Q4_0, shape)]);
            assert!(matches!(found, E::Size { .. }), "{shape:?}");
        }
        let lanes = TensorSpec {
            layout: WeightLayout::Lanes16,
            ..spec("t", BlockFormat::Q4_0, &[16, 32])
        };
        assert!(matches!(refuse(&[], &[lanes]), E::Order { .. }));
    }

    #[test]
    fn a_file_of_metadata_alone_is_its_header() {
        let layout = GgufLayout::new(&Metadata::default(), &[]).unwrap();
        assert_eq!(layout.file_bytes, layout.data_start());
        assert_eq!(layout.data_start(), 32);
    }
}
