//! Why a file is not read as GGUF.

use std::io;

/// A broken or foreign file. Names are cut to a length that can be shown.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GgufError {
    /// Reading failed.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// Another kind of file.
    #[error(
        "not a GGUF file: it begins with \"{}\", not with \"GGUF\"; download the file itself, not a page or a pointer to it",
        .0.escape_ascii()
    )]
    Magic([u8; 4]),
    /// Written by a machine of the other byte order.
    #[error("a big-endian GGUF file; convert it to little endian first")]
    BigEndian,
    /// A version that this build does not read.
    #[error(
        "GGUF version {0}; versions 2 and 3 are read; convert the model again with newer tools"
    )]
    Version(u32),
    /// The file ends early.
    #[error("the file ends at byte {file_bytes}, inside {part}; download it again")]
    Truncated {
        /// What was being read.
        part: &'static str,
        /// The file's size.
        file_bytes: u64,
    },
    /// Larger than anything that is meant.
    #[error("{part} is {found}, more than the {limit} that this build accepts")]
    TooLarge {
        /// What.
        part: &'static str,
        /// What the file says.
        found: u64,
        /// The most.
        limit: u64,
    },
    /// A name that is empty or not UTF-8.
    #[error("{part} {index} has no name in UTF-8")]
    Name {
        /// A key or a tensor.
        part: &'static str,
        /// Its place, from 0.
        index: u64,
    },
    /// The same key twice.
    #[error("the metadata has {0:?} twice")]
    DuplicateKey(String),
    /// A value of a type that GGUF does not have.
    #[error("{key:?} has type {found}, which GGUF does not have")]
    ValueType {
        /// Whose value.
        key: String,
        /// The type's number.
        found: u32,
    },
    /// An array in an array.
    #[error("{0:?} is an array of arrays; no known key is")]
    NestedArray(String),
    /// Neither 0 nor 1.
    #[error("{key:?} holds {found} where 0 or 1 was expected")]
    NotBoolean {
        /// Whose value.
        key: String,
        /// What it is.
        found: u8,
    },
    /// An alignment that no file can have.
    #[error("general.alignment must be a power of two up to {limit}")]
    Alignment {
        /// The most.
        limit: u64,
    },
    /// The same tensor twice.
    #[error("tensor {0:?} is there twice")]
    DuplicateTensor(String),
    /// Not 1 to 4 dimensions.
    #[error("tensor {tensor:?} has {found} dimensions; 1 to 4 are possible")]
    Dimensions {
        /// Which.
        tensor: String,
        /// How many.
        found: u32,
    },
    /// A type whose blocks are unknown.
    #[error("tensor {tensor:?} is of type {found}, which ggml does not have (any more)")]
    TensorType {
        /// Which.
        tensor: String,
        /// The type's number.
        found: u32,
    },
    /// A shape of nothing, of broken blocks, or of more bytes than can be counted.
    #[error("tensor {tensor:?} cannot have shape {shape:?} as {kind}")]
    Shape {
        /// Which.
        tensor: String,
        /// Rows first.
        shape: Vec<u64>,
        /// The type's name.
        kind: &'static str,
    },
    /// An offset that is no multiple of the alignment.
    #[error("tensor {tensor:?} is at offset {offset}, not a multiple of the alignment {alignment}")]
    Misaligned {
        /// Which.
        tensor: String,
        /// From the start of the data.
        offset: u64,
        /// In bytes.
        alignment: u64,
    },
    /// Its bytes are not in the file.
    #[error(
        "tensor {tensor:?} lies beyond the end of the file at byte {file_bytes}; download it again"
    )]
    OutOfBounds {
        /// Which.
        tensor: String,
        /// The file's size.
        file_bytes: u64,
    },
    /// Two tensors share bytes.
    #[error("tensors {first:?} and {second:?} overlap")]
    Overlap {
        /// The one that begins first.
        first: String,
        /// The other.
        second: String,
    },
}
