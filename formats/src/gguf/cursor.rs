//! Values as they come from a reader. Nothing is set aside for what was claimed but not read.

use super::reader::{bounded, shown};
use super::{Array, GgufError, Value};
use std::io::{ErrorKind, Read};

/// The longest string, in bytes: a chat template or a list of merges as one text.
const MAX_STRING_BYTES: u64 = 16 << 20;
/// The most elements of an array: as many as the largest vocabulary that a configuration may have.
const MAX_ARRAY_ELEMENTS: u64 = 1 << 24;
/// The longest description of a file; those of today end below 32 MiB.
pub(super) const MAX_HEADER_BYTES: u64 = 128 << 20;
/// How much memory a claimed length gets at once.
const PIECE_BYTES: u64 = 64 << 10;

const STRING: u32 = 8;
const ARRAY: u32 = 9;
const VALUE: &str = "a metadata value";

/// A position in a file that is read from its start.
pub(super) struct Cursor<'a, R> {
    reader: &'a mut R,
    position: u64,
    file_bytes: u64,
}

impl<'a, R: Read> Cursor<'a, R> {
    pub fn new(reader: &'a mut R, file_bytes: u64) -> Self {
        Self {
            reader,
            position: 0,
            file_bytes,
        }
    }

    /// Bytes from the start of the file.
    pub fn position(&self) -> u64 {
        self.position
    }

    pub fn bytes<const N: usize>(&mut self, part: &'static str) -> Result<[u8; N], GgufError> {
        let mut bytes = [0; N];
        self.fill(&mut bytes, part)?;
        Ok(bytes)
    }

    pub fn u32(&mut self, part: &'static str) -> Result<u32, GgufError> {
        self.bytes(part).map(u32::from_le_bytes)
    }

    pub fn u64(&mut self, part: &'static str) -> Result<u64, GgufError> {
        self.bytes(part).map(u64::from_le_bytes)
    }

    /// A length, then as many bytes.
    pub fn string(&mut self, part: &'static str, limit: u64) -> Result<Vec<u8>, GgufError> {
        let length = self.u64(part)?;
        self.check_left(length, part)?;
        let length = bounded("the length of a string", length, limit)?;
        self.many(length, part)
    }

    /// A type, then a value of it.
    pub fn value(&mut self, key: &str) -> Result<Value, GgufError> {
        let found = self.u32(VALUE)?;
        Ok(match found {
            0 => Value::U8(self.bytes::<1>(VALUE)?[0]),
            1 => Value::I8(self.bytes(VALUE).map(i8::from_le_bytes)?),
            2 => Value::U16(self.bytes(VALUE).map(u16::from_le_bytes)?),
            3 => Value::I16(self.bytes(VALUE).map(i16::from_le_bytes)?),
            4 => Value::U32(self.u32(VALUE)?),
            5 => Value::I32(self.bytes(VALUE).map(i32::from_le_bytes)?),
            6 => Value::F32(self.bytes(VALUE).map(f32::from_le_bytes)?),
            7 => Value::Bool(boolean(key, self.bytes::<1>(VALUE)?[0])?),
            STRING => Value::String(self.string(VALUE, MAX_STRING_BYTES)?),
            ARRAY => Value::Array(self.array(key)?),
            10 => Value::U64(self.u64(VALUE)?),
            11 => Value::I64(self.bytes(VALUE).map(i64::from_le_bytes)?),
            12 => Value::F64(self.bytes(VALUE).map(f64::from_le_bytes)?),
            _ => return Err(unknown_type(key, found)),
        })
    }

    /// The elements' type, how many, then the elements.
    fn array(&mut self, key: &str) -> Result<Array, GgufError> {
        let found = self.u32(VALUE)?;
        if found == ARRAY {
            return Err(GgufError::NestedArray(shown(key)));
        }
        let count = self.u64(VALUE)?;
        let count = bounded("the length of an array", count, MAX_ARRAY_ELEMENTS)?;
        Ok(match found {
            0 => Array::U8(self.many(count, VALUE)?),
            1 => Array::I8(self.numbers(count, i8::from_le_bytes)?),
            2 => Array::U16(self.numbers(count, u16::from_le_bytes)?),
            3 => Array::I16(self.numbers(count, i16::from_le_bytes)?),
            4 => Array::U32(self.numbers(count, u32::from_le_bytes)?),
            5 => Array::I32(self.numbers(count, i32::from_le_bytes)?),
            6 => Array::F32(self.numbers(count, f32::from_le_bytes)?),
            7 => {
                let flags = self.many(count, VALUE)?;
                let flags = flags.into_iter().map(|flag| boolean(key, flag));
                Array::Bool(flags.collect::<Result<_, _>>()?)
            }
            STRING => {
                let mut strings = Vec::new();
                for _ in 0..count {
                    strings.push(self.string(VALUE, MAX_STRING_BYTES)?);
                }
                Array::String(strings)
            }
            10 => Array::U64(self.numbers(count, u64::from_le_bytes)?),
            11 => Array::I64(self.numbers(count, i64::from_le_bytes)?),
            12 => Array::F64(self.numbers(count, f64::from_le_bytes)?),
            _ => return Err(unknown_type(key, found)),
        })
    }

    fn numbers<const N: usize, T>(
        &mut self,
        count: u64,
        number: impl Fn([u8; N]) -> T,
    ) -> Result<Vec<T>, GgufError> {
        // The count is bounded, so this does not overflow.
        let bytes = self.many(count * N as u64, VALUE)?;
        let (chunks, _) = bytes.as_chunks::<N>();
        Ok(chunks.iter().map(|chunk| number(*chunk)).collect())
    }

    /// Exactly `length` bytes, taken in pieces so that memory follows what is there.
    fn many(&mut self, length: u64, part: &'static str) -> Result<Vec<u8>, GgufError> {
        self.check_left(length, part)?;
        let mut bytes = Vec::new();
        while (bytes.len() as u64) < length {
            let have = bytes.len();
            let piece = PIECE_BYTES.min(length - have as u64) as usize;
            bytes.resize(have + piece, 0);
            self.fill(&mut bytes[have..], part)?;
        }
        Ok(bytes)
    }

    fn check_left(&self, length: u64, part: &'static str) -> Result<(), GgufError> {
        match length <= self.file_bytes.saturating_sub(self.position) {
            true => Ok(()),
            false => Err(self.truncated(part)),
        }
    }

    fn truncated(&self, part: &'static str) -> GgufError {
        GgufError::Truncated {
            part,
            file_bytes: self.file_bytes,
        }
    }

    fn fill(&mut self, into: &mut [u8], part: &'static str) -> Result<(), GgufError> {
        self.check_left(into.len() as u64, part)?;
        let end = self.position + into.len() as u64;
        bounded("the length of the header", end, MAX_HEADER_BYTES)?;
        match self.reader.read_exact(into) {
            Ok(()) => {
                self.position = end;
                Ok(())
            }
            // Shorter than it was said to be.
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => Err(self.truncated(part)),
            Err(error) => Err(error.into()),
        }
    }
}

fn boolean(key: &str, found: u8) -> Result<bool, GgufError> {
    match found {
        0 => Ok(false),
        1 => Ok(true),
        found => Err(GgufError::NotBoolean {
            key: shown(key),
            found,
        }),
    }
}

fn unknown_type(key: &str, found: u32) -> GgufError {
    GgufError::ValueType {
        key: shown(key),
        found,
    }
}
