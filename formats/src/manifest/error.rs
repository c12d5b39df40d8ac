//! What can be wrong with a manifest.

use super::{
    FORMAT_VERSION, FORMAT_VERSION_ROW_MAJOR, MAX_MANIFEST_BYTES, OBJECT_ALIGNMENT_BYTES,
    TENSOR_ALIGNMENT_BYTES,
};
use crate::model_config::ConfigError;
use crate::{BlockFormat, ExpertKey, WeightLayout};

/// A manifest that is refused.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// Absurdly long.
    #[error("the manifest has {bytes} bytes, more than the {MAX_MANIFEST_BYTES} that are accepted")]
    TooLong {
        /// Its length.
        bytes: u64,
    },
    /// No JSON of the right form, or a key that comes twice.
    #[error("the manifest is not valid: {0}; convert the model again")]
    Json(String),
    /// Written by another version.
    #[error(
        "the store has format version {found}, this build reads {FORMAT_VERSION_ROW_MAJOR} and {FORMAT_VERSION}; convert the model again"
    )]
    Version {
        /// What it says.
        found: u64,
    },
    /// The configuration is implausible.
    #[error("configuration: {0}")]
    Config(#[from] ConfigError),
    /// A list that is longer than any real one.
    #[error("{found} {what}, more than the {limit} that are accepted")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many.
        found: usize,
        /// The most.
        limit: usize,
    },
    /// A name that is empty, too long or has control characters.
    #[error("{what} {found:?} is empty, too long or has control characters")]
    Text {
        /// Of what.
        what: &'static str,
        /// The text, shortened.
        found: String,
    },
    /// A path that leads out of the store, or is none.
    #[error("path {0:?} is not a plain relative path inside the store")]
    Path(String),
    /// Two files of one path.
    #[error("file {0:?} is listed twice")]
    DuplicateFile(String),
    /// Files whose sizes no disk has and no sum holds.
    #[error(
        "the files together have more than {limit} bytes; the manifest is damaged, convert the model again"
    )]
    TooLarge {
        /// The most.
        limit: u64,
    },
    /// A file that is not in the list.
    #[error("{owner}: file {index} of {files}")]
    FileIndex {
        /// Whose.
        owner: String,
        /// The index.
        index: u32,
        /// How many files there are.
        files: usize,
    },
    /// Behind the end of the file, or of the object.
    #[error("{owner}: {bytes} bytes at {offset} do not lie inside {within}")]
    OutOfBounds {
        /// Whose.
        owner: String,
        /// First byte.
        offset: u64,
        /// Length.
        bytes: u64,
        /// Size of what they must lie in.
        within: u64,
    },
    /// Bytes with two owners.
    #[error("{first} and {second} share bytes")]
    Overlap {
        /// One.
        first: String,
        /// The other.
        second: String,
    },
    /// An object whose bounds are not on a page.
    #[error(
        "{owner}: offset {offset} or length {bytes} is not a multiple of {OBJECT_ALIGNMENT_BYTES}, or is empty"
    )]
    ObjectAlignment {
        /// Whose.
        owner: String,
        /// First byte.
        offset: u64,
        /// Length.
        bytes: u64,
    },
    /// A tensor inside an object that starts at an odd place.
    #[error("{owner}: offset {offset} is not a multiple of {TENSOR_ALIGNMENT_BYTES}")]
    TensorAlignment {
        /// Whose.
        owner: String,
        /// First byte.
        offset: u64,
    },
    /// Shape and length disagree.
    #[error("{owner}: shape {shape:?} of {format} does not take {bytes} bytes")]
    Size {
        /// Whose.
        owner: String,
        /// Its shape.
        shape: Vec<u64>,
        /// Its format.
        format: BlockFormat,
        /// Its length.
        bytes: u64,
    },
    /// Not what the configuration calls for.
    #[error("{owner}: shape {found:?} where the configuration calls for {expected:?}")]
    Shape {
        /// Whose.
        owner: String,
        /// From the configuration.
        expected: Vec<u64>,
        /// From the manifest.
        found: Vec<u64>,
    },
    /// A format that such a tensor may not have.
    #[error("{owner}: a tensor of its kind is never stored as {format}")]
    Format {
        /// Whose.
        owner: String,
        /// Its format.
        format: BlockFormat,
    },
    /// A digest that is none.
    #[error("{owner}: {found:?} is not {digits} lower-case hex digits")]
    Digest {
        /// Whose.
        owner: String,
        /// The text, shortened.
        found: String,
        /// How many digits it takes.
        digits: usize,
    },
    /// Bytes in an order that such a tensor cannot have.
    #[error("{owner}: shape {shape:?} of {format} has no layout {layout}; convert the model again")]
    Layout {
        /// Whose.
        owner: String,
        /// What it says.
        layout: WeightLayout,
        /// Its format.
        format: BlockFormat,
        /// Its shape.
        shape: Vec<u64>,
    },
    /// Bytes in an order that the version does not have.
    #[error(
        "{owner}: layout {layout} in a store of format version {FORMAT_VERSION_ROW_MAJOR}; convert the model again"
    )]
    LayoutVersion {
        /// Whose.
        owner: String,
        /// What it says.
        layout: WeightLayout,
    },
    /// One object twice.
    #[error("{0} is listed twice")]
    DuplicateObject(ExpertKey),
    /// An object of a layer or place that the configuration does not have.
    #[error("{0} is listed but the configuration has no such expert")]
    UnexpectedObject(ExpertKey),
    /// Not as many objects as experts.
    #[error("{found} experts are listed where the configuration calls for {expected}")]
    ObjectCount {
        /// From the configuration.
        expected: u64,
        /// From the manifest.
        found: u64,
    },
    /// A tensor that the configuration calls for.
    #[error("{0} is missing; convert the model again")]
    MissingTensor(String),
    /// A tensor that the configuration does not know.
    #[error("{0} is listed but the configuration has no such tensor")]
    UnexpectedTensor(String),
    /// A token id behind the vocabulary.
    #[error("end-of-sequence id {id} is not below the vocabulary's size {vocab_size}")]
    TokenId {
        /// The id.
        id: u32,
        /// Rows of the embedding.
        vocab_size: u32,
    },
}
