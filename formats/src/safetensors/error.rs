//! What can be wrong with a safetensors header.

use super::{Dtype, MAX_DIMENSIONS, MAX_HEADER_BYTES, MAX_NAME_BYTES, MAX_TENSORS};
use crate::WeightLayout;

/// A header that is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SafetensorsError {
    /// Too short to hold a header's length.
    #[error(
        "the file has {file_bytes} bytes, fewer than the 8 of a safetensors length; download it again"
    )]
    NoLength {
        /// Size of the file.
        file_bytes: u64,
    },
    /// The header would end behind the file.
    #[error(
        "the header claims {header_bytes} bytes but the file has {file_bytes}; it is cut short or not safetensors"
    )]
    HeaderBeyondFile {
        /// What the header claims.
        header_bytes: u64,
        /// Size of the file.
        file_bytes: u64,
    },
    /// The header is absurdly long.
    #[error("the header claims {header_bytes} bytes, more than {MAX_HEADER_BYTES}")]
    HeaderTooLong {
        /// What the header claims.
        header_bytes: u64,
    },
    /// The caller read less than the header.
    #[error("{given} bytes were read of a header of {needed}")]
    Incomplete {
        /// Bytes given.
        given: u64,
        /// Bytes of length and header.
        needed: u64,
    },
    /// The header is no JSON of the right form.
    #[error("the header is not valid: {0}")]
    Json(String),
    /// Two tensors of one name.
    #[error("tensor {0:?} is listed twice")]
    DuplicateTensor(String),
    /// Two metadata entries of one name.
    #[error("metadata {0:?} is listed twice")]
    DuplicateMetadata(String),
    /// Absurdly many tensors.
    #[error("more than {MAX_TENSORS} tensors")]
    TooManyTensors,
    /// An absurdly long or empty name.
    #[error("a tensor name of {0} bytes; 1 to {MAX_NAME_BYTES} are accepted")]
    NameLength(usize),
    /// Absurdly many dimensions.
    #[error("tensor {tensor:?} has {dimensions} dimensions, more than {MAX_DIMENSIONS}")]
    TooManyDimensions {
        /// Which.
        tensor: String,
        /// How many.
        dimensions: usize,
    },
    /// A dtype that the format does not have.
    #[error("tensor {tensor:?} has the unknown dtype {dtype:?}")]
    UnknownDtype {
        /// Which.
        tensor: String,
        /// What it says.
        dtype: String,
    },
    /// A dtype that cannot be used as weights.
    #[error("tensor {tensor:?} has dtype {dtype}; F32, F16 and BF16 are supported")]
    UnsupportedDtype {
        /// Which.
        tensor: String,
        /// Its dtype.
        dtype: Dtype,
    },
    /// Rows that do not lie one after another.
    #[error(
        "tensor {tensor:?} has layout {layout}, which only a store's own manifest explains; give the model that the store \
         was made from"
    )]
    Layout {
        /// Which.
        tensor: String,
        /// Its layout.
        layout: WeightLayout,
    },
    /// The size overflows 64 bits, or is no whole number of bytes.
    #[error("tensor {tensor:?}: shape {shape:?} of {dtype} has no size in bytes")]
    NoSize {
        /// Which.
        tensor: String,
        /// Its shape.
        shape: Vec<u64>,
        /// Its dtype.
        dtype: Dtype,
    },
    /// Shape and offsets disagree.
    #[error("tensor {tensor:?}: its shape takes {expected} bytes but its offsets span {found}")]
    SizeMismatch {
        /// Which.
        tensor: String,
        /// From shape and dtype.
        expected: u64,
        /// From the offsets.
        found: u64,
    },
    /// Ends before it begins.
    #[error("tensor {tensor:?}: offsets [{begin}, {end}] run backwards")]
    BackwardOffsets {
        /// Which.
        tensor: String,
        /// First byte.
        begin: u64,
        /// Byte after the last.
        end: u64,
    },
    /// Ends behind the file.
    #[error(
        "tensor {tensor:?} ends at byte {end} of the data but there are {data_bytes}; the file is cut short"
    )]
    OutOfBounds {
        /// Which.
        tensor: String,
        /// Byte after its last.
        end: u64,
        /// Bytes of data in the file.
        data_bytes: u64,
    },
    /// Two tensors share bytes.
    #[error(
        "tensor {tensor:?} begins at byte {begin} of the data, inside the tensor before it, which ends at {previous_end}"
    )]
    Overlap {
        /// The later one.
        tensor: String,
        /// Where it begins.
        begin: u64,
        /// Where the one before it ends.
        previous_end: u64,
    },
    /// Bytes that belong to no tensor.
    #[error("bytes {begin} to {end} of the data belong to no tensor, which the format forbids")]
    Gap {
        /// First such byte.
        begin: u64,
        /// Byte after the last.
        end: u64,
    },
    /// Our own metadata about a tensor of blocks is wrong.
    #[error("tensor {tensor:?}: block description {found:?} does not fit it")]
    BadBlockDescription {
        /// Which.
        tensor: String,
        /// What the metadata says.
        found: String,
    },
}
