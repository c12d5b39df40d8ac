//! GGUF, versions 2 and 3: metadata as typed values, and where each tensor lies.
//!
//! Layout: the magic, the version, the counts of tensors and of metadata entries; the entries; the tensors' names, shapes,
//! types and offsets; filler up to the alignment; the tensors' bytes. Everything is little endian. Dimensions are written
//! with the elements of a row first; here they are rows first, as everywhere else.

mod cursor;
mod error;
mod reader;
mod types;
mod value;
mod writer;

pub use error::GgufError;
pub use reader::{Gguf, TensorInfo};
pub use types::GgmlType;
pub use value::{Array, Metadata, Value, ValueError};
pub use writer::{GgufLayout, GgufLayoutError};

/// The first four bytes of a file.
pub const MAGIC: [u8; 4] = *b"GGUF";
/// Where the data section and each tensor in it start, unless `general.alignment` says otherwise.
pub const DEFAULT_ALIGNMENT_BYTES: u64 = 32;

#[cfg(test)]
mod tests;
