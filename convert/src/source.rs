//! Where a model comes from: the face that every checkpoint format has for the converter.

use crate::fingerprint::Fingerprint;
use odmoe_formats::gguf::{GgufError, ValueError};
use odmoe_formats::model_config::{ConfigError, ModelConfig};
use odmoe_formats::names::ExpertRole;
use odmoe_formats::safetensors::SafetensorsError;
use odmoe_formats::{BlockFormat, ByteCount, ExpertKey};
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

/// A model to be converted. Opening one reads its configuration, text files and tensor headers; weights are read
/// only by [`Self::read_tensor`] and [`Self::read_file`], in pieces that the caller chooses.
pub trait ModelSource: Send + Sync {
    /// Everything but the weights.
    fn metadata(&self) -> &ModelMetadata;

    /// Every tensor, in no particular order. An id comes at most once.
    fn tensors(&self) -> &[SourceTensor];

    /// Fills `into` with the bytes of tensor `index` of [`Self::tensors`] from `offset` within the tensor. Panics
    /// where the range is not inside the tensor.
    fn read_tensor(&self, index: usize, offset: u64, into: &mut [u8]) -> Result<(), SourceError>;

    /// The files that the model was read from, for provenance.
    fn files(&self) -> &[SourceFileInfo];

    /// Fills `into` with the bytes of file `index` of [`Self::files`] from `offset`.
    fn read_file(&self, index: usize, offset: u64, into: &mut [u8]) -> Result<(), SourceError>;

    /// Where the first of a tensor's bytes lies: the index of its file, and the offset in it. None where the source
    /// cannot say; converting then reads more than once what it could have read only once.
    fn tensor_start(&self, index: usize) -> Option<(usize, u64)> {
        let _ = index;
        None
    }

    /// Tells the system what will become of bytes of file `index`. Changes no result; a range that is not in the file
    /// does no harm.
    fn advise(&self, index: usize, offset: u64, bytes: u64, advice: Advice) {
        let _ = (index, offset, bytes, advice);
    }

    /// Tells this model from every other, as it was when it was opened, by no more than a sample of its weights.
    fn fingerprint(&self) -> Fingerprint;

    /// Whether the files are still those that were opened, by their sizes and times.
    fn check_unchanged(&self) -> Result<(), SourceError>;
}

/// What will become of bytes that a source has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advice {
    /// They will be read soon.
    NeededSoon,
    /// They will not be read again, and need not stay in memory.
    DoneWith,
}

/// Gives advice about a range of a file, where the system takes any.
pub(crate) fn advise_file(file: &std::fs::File, offset: u64, bytes: u64, advice: Advice) {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    if let Some(bytes) = std::num::NonZeroU64::new(bytes) {
        let advice = match advice {
            Advice::NeededSoon => rustix::fs::Advice::WillNeed,
            // Of pages that are not on disk yet it begins the writing.
            Advice::DoneWith => rustix::fs::Advice::DontNeed,
        };
        // A file system that takes no advice does without.
        let _ = rustix::fs::fadvise(file, offset, Some(bytes), advice);
    }
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    let _ = (file, offset, bytes, advice);
}

/// Everything about a model but its weights.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelMetadata {
    /// A name for clients, unless the operator gives another.
    pub suggested_name: String,
    /// Architecture and hyper-parameters; checked.
    pub config: ModelConfig,
    /// The text side.
    pub text: TextContents,
}

/// Contents of the text files.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TextContents {
    /// `tokenizer.json` in Hugging Face's format.
    pub tokenizer: Option<Vec<u8>>,
    /// The Jinja chat template.
    pub chat_template: Option<String>,
    /// `generation_config.json`.
    pub generation_config: Option<Vec<u8>>,
    /// Text of special tokens by name: `bos_token`, `eos_token`, `pad_token`, `unk_token`.
    pub special_tokens: BTreeMap<String, String>,
    /// Token ids that end an answer.
    pub end_of_sequence_ids: Vec<u32>,
}

/// What a tensor is, whatever its source calls it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TensorId {
    /// A canonical name of [`odmoe_formats::names`].
    Resident(String),
    /// A tensor of a routed expert.
    Expert(ExpertKey, ExpertRole),
}

impl fmt::Display for TensorId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Resident(name) => f.write_str(name),
            Self::Expert(key, role) => write!(f, "{key} {role}"),
        }
    }
}

/// One tensor of a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceTensor {
    /// What it is.
    pub id: TensorId,
    /// What the source calls it, for messages.
    pub source_name: String,
    /// How it is stored there.
    pub format: BlockFormat,
    /// Rows first, elements of a row last. Its size in bytes is known not to overflow.
    pub shape: Vec<u64>,
}

impl SourceTensor {
    /// Elements in all.
    pub fn elements(&self) -> u64 {
        self.shape.iter().product()
    }
}

/// A file that a model was read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceFileInfo {
    /// Its name without folders.
    pub name: String,
    /// Its size.
    pub bytes: u64,
}

/// A model that cannot be opened or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// Neither a folder nor a file of a known kind.
    #[error(
        "{path}: not a model that can be converted; give a GGUF file or a Hugging Face folder with config.json and \
         safetensors"
    )]
    UnknownKind {
        /// What was given.
        path: PathBuf,
    },
    /// What a conversion makes.
    #[error("{path}: this is a store already; serve it as it is")]
    Store {
        /// What was given.
        path: PathBuf,
    },
    /// The system refused.
    #[error("{path}: {source}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file that a model must have.
    #[error("{folder}: {file} is missing; {advice}")]
    MissingFile {
        /// Where it was looked for.
        folder: PathBuf,
        /// Its name.
        file: &'static str,
        /// What to do.
        advice: &'static str,
    },
    /// A text file that is absurdly long.
    #[error("{path}: {found} where at most {limit} are accepted")]
    FileTooLong {
        /// Which file.
        path: PathBuf,
        /// Its size.
        found: ByteCount,
        /// The most.
        limit: ByteCount,
    },
    /// A file that is not what its name says.
    #[error("{path}: {reason}")]
    Malformed {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A field of the configuration that is missing or of another type.
    #[error("{path}: {field:?} must be {expected}")]
    Field {
        /// Which file.
        path: PathBuf,
        /// Which field.
        field: String,
        /// What it should be.
        expected: &'static str,
    },
    /// A model family that this build does not know.
    #[error("{path}: model_type {found:?} is not supported; supported: {supported}")]
    Family {
        /// Which file.
        path: PathBuf,
        /// What it says.
        found: String,
        /// What there is.
        supported: &'static str,
    },
    /// An architecture that this build does not know.
    #[error("{path}: architecture {found:?} is not supported; supported: {supported}")]
    Architecture {
        /// Which file.
        path: PathBuf,
        /// What it says.
        found: String,
        /// What there is.
        supported: String,
    },
    /// A tensor type that this build cannot decode.
    #[error("{path}: tensor {tensor} is {found}; supported: {supported}")]
    TensorType {
        /// Which file.
        path: PathBuf,
        /// Which tensor.
        tensor: String,
        /// ggml's name of its type.
        found: &'static str,
        /// What there is.
        supported: String,
    },
    /// Metadata that is missing or of another type.
    #[error("{path}: {source}")]
    Metadata {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        source: ValueError,
    },
    /// A broken GGUF file.
    #[error("{path}: {source}")]
    Gguf {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        source: GgufError,
    },
    /// A tokenizer that cannot be taken over from a GGUF file.
    #[error("{path}: {source}")]
    GgufTokenizer {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: crate::gguf::tokenizer::ImportError,
    },
    /// A folder that does not tell which model is meant.
    #[error("{folder}: there are several models in it; give one of them: {names}")]
    SeveralModels {
        /// What was given.
        folder: PathBuf,
        /// A file of each, or of the first of them.
        names: String,
    },
    /// A model in several files of which some are not there.
    #[error(
        "{folder}: the model is in several files and {count} are missing: {names}; download them"
    )]
    MissingParts {
        /// Where they were looked for.
        folder: PathBuf,
        /// How many.
        count: usize,
        /// Their names, or the first of them.
        names: String,
    },
    /// A variation of the architecture that would change results.
    #[error("{path}: {feature} is not supported and would change results")]
    Feature {
        /// Which file.
        path: PathBuf,
        /// What is not supported.
        feature: String,
    },
    /// A configuration that no model can have.
    #[error("{path}: {source}")]
    Config {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        source: ConfigError,
    },
    /// A broken tensor file.
    #[error("{path}: {source}")]
    Safetensors {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        source: SafetensorsError,
    },
    /// A tensor that the index places in a file that has none of that name.
    #[error(
        "tensor {tensor:?} is not in {file}, where the index places it; download the file again"
    )]
    NotInFile {
        /// Which.
        tensor: String,
        /// Where it should be.
        file: String,
    },
    /// A tensor that the configuration does not call for.
    #[error("tensor {0:?} is no part of this architecture; leaving it out would change results")]
    UnknownTensor(String),
    /// Two tensors that are the same one.
    #[error("tensor {0} is there twice")]
    DuplicateTensor(TensorId),
    /// A tensor that the configuration calls for.
    #[error("tensor {id} is missing; shape {shape:?} was expected")]
    MissingTensor {
        /// Which.
        id: TensorId,
        /// Its shape, from the configuration.
        shape: Vec<u64>,
    },
    /// A tensor of another shape than the configuration calls for.
    #[error("tensor {source_name:?} has shape {found:?}; the configuration calls for {expected:?}")]
    Shape {
        /// Which, in the source's words.
        source_name: String,
        /// From the configuration.
        expected: Vec<u64>,
        /// From the file.
        found: Vec<u64>,
    },
    /// A token id behind the vocabulary.
    #[error("{path}: eos_token_id {id} is not below vocab_size {vocab_size}")]
    EndOfSequence {
        /// Which file.
        path: PathBuf,
        /// The id.
        id: u64,
        /// Rows of the embedding.
        vocab_size: u32,
    },
    /// A file that was replaced or written to after the model was opened.
    #[error(
        "{path} changed while it was being converted; wait until it is complete and convert again"
    )]
    Changed {
        /// Which.
        path: PathBuf,
    },
}

/// Text of a file as an error shows it: as much as tells which is meant, for a file may claim megabytes.
pub(crate) fn shown(text: &str) -> String {
    const SHOWN_CHARS: usize = 96;
    match text.char_indices().nth(SHOWN_CHARS) {
        None => text.into(),
        Some((end, _)) => format!("{}...", &text[..end]),
    }
}

/// Opens a model by its path, whatever its kind.
pub fn open_source(path: &Path) -> Result<Box<dyn ModelSource>, SourceError> {
    if crate::is_store(path) {
        return Err(SourceError::Store { path: path.into() });
    }
    if path.is_dir() {
        return Ok(match crate::gguf::model_of_folder(path)? {
            Some(file) => Box::new(crate::gguf::GgufModel::open(&file)?),
            None => Box::new(crate::hugging_face::HuggingFaceFolder::open(path)?),
        });
    }
    // Named here so that a mistyped path says "no such file", not "unknown kind".
    let found = std::fs::metadata(path);
    found.map_err(|source| SourceError::Io {
        path: path.into(),
        source,
    })?;
    if crate::gguf::is_gguf(path) {
        return Ok(Box::new(crate::gguf::GgufModel::open(path)?));
    }
    Err(SourceError::UnknownKind { path: path.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_text_is_cut_between_characters() {
        assert_eq!(shown("attn_q"), "attn_q");
        let whole = "ü".repeat(96);
        assert_eq!(shown(&whole), whole);
        assert_eq!(shown(&(whole.clone() + "ü")), whole + "...");
    }
}
