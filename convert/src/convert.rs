//! One conversion, from source to store: plan, check the destination, write, and the manifest last.

mod destination;
mod encode;
mod plan;
mod provenance;
mod write;

use crate::progress::{Cancelled, Progress, Tracker};
use crate::source::{ModelSource, SourceError};
use destination::Destination;
use odmoe_formats::architecture;
use odmoe_formats::manifest::{Manifest, ManifestError};
use odmoe_formats::safetensors::LayoutError;
use odmoe_formats::{BlockFormat, ByteCount};
use plan::Plan;
use std::path::{Path, PathBuf};

/// How matrices are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum WeightFormat {
    /// As the source has them.
    #[default]
    Source,
    /// Quantised to Q8_0: the experts', attention's, dense MLPs' and the embedding's and head's. Norms and routers
    /// never are, nor is a matrix whose rows are not whole blocks.
    Q8_0,
}

/// What a conversion is to do.
#[derive(Clone, Debug)]
pub struct ConvertOptions {
    /// How matrices are stored.
    pub weights: WeightFormat,
    /// The name that clients see; None takes the source's.
    pub name: Option<String>,
    /// Whether a store at the destination is replaced.
    pub overwrite: bool,
    /// Resident tensors are spread over files of at most this size, or of one tensor where that is larger.
    pub base_file_limit: ByteCount,
}

impl Default for ConvertOptions {
    fn default() -> Self {
        Self {
            weights: WeightFormat::Source,
            name: None,
            overwrite: false,
            base_file_limit: ByteCount(4 << 30),
        }
    }
}

/// What a conversion is about to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Preflight {
    /// Where the store goes.
    pub destination: PathBuf,
    /// Bytes that the store takes, with a margin for the file system.
    pub needed: ByteCount,
    /// Bytes that are free there, with those of what is about to be replaced.
    pub free: ByteCount,
}

/// What a conversion did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Where the store is.
    pub store: PathBuf,
    /// Bytes of all its files.
    pub store_bytes: ByteCount,
    /// Bytes of tensors that stay in memory.
    pub resident_bytes: ByteCount,
    /// Bytes of all routed experts.
    pub expert_bytes: ByteCount,
    /// Routed experts.
    pub experts: usize,
    /// Matrices that were to be quantised but stay as they are, for their rows are not whole blocks.
    pub kept_matrices: usize,
}

/// A conversion that did not happen. What it left behind does not open as a store, and the next one clears it away.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConvertError {
    /// The source is wrong or cannot be read.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// An architecture that the store format has no tensor names for.
    #[error(
        "architecture {found:?} is not supported; supported: {}",
        architecture::supported()
    )]
    Architecture {
        /// What the source says.
        found: String,
    },
    /// The model cannot be described by a manifest.
    #[error("the model does not fit the store format: {0}")]
    Manifest(#[from] ManifestError),
    /// A tensor cannot be laid out.
    #[error("the model does not fit the store format: {0}")]
    Layout(#[from] LayoutError),
    /// The destination is a file.
    #[error("{path} is not a folder; give another destination")]
    NotAFolder {
        /// The destination.
        path: PathBuf,
    },
    /// There is a store already.
    #[error(
        "{path} holds a store already; give another destination, or ask for it to be overwritten"
    )]
    StoreExists {
        /// The destination.
        path: PathBuf,
    },
    /// There are files that no conversion made.
    #[error("{path} is not empty: it holds {example:?}; give an empty or new folder")]
    ForeignFiles {
        /// The destination.
        path: PathBuf,
        /// One of them.
        example: String,
    },
    /// It does not fit.
    #[error(
        "{destination}: the store needs {needed} but {free} are free; make room or give another destination"
    )]
    NoSpace {
        /// The destination.
        destination: PathBuf,
        /// Bytes it takes.
        needed: ByteCount,
        /// Bytes there are.
        free: ByteCount,
    },
    /// Another process converts to the same place.
    #[error("{path}: another conversion is writing there; wait for it or give another destination")]
    Busy {
        /// The destination.
        path: PathBuf,
    },
    /// The system refused.
    #[error("{path}: {source}")]
    Io {
        /// Which file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A weight that cannot be quantised.
    #[error(
        "tensor {tensor:?} has a weight that Q8_0 cannot hold ({value}); convert without quantising"
    )]
    NotQuantisable {
        /// Which, in the source's words.
        tensor: String,
        /// The weight.
        value: f32,
    },
    /// The progress receiver said so.
    #[error("the conversion was cancelled")]
    Cancelled,
}

impl ConvertError {
    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }
}

impl From<Cancelled> for ConvertError {
    fn from(_: Cancelled) -> Self {
        Self::Cancelled
    }
}

/// What [`convert`] would need, found without writing. The errors are those that `convert` would begin with.
pub fn preflight(
    source: &dyn ModelSource,
    destination: &Path,
    options: &ConvertOptions,
) -> Result<Preflight, ConvertError> {
    let plan = Plan::new(source, options)?;
    let destination = Destination::inspect(destination, options.overwrite)?;
    destination.preflight(plan.needed())
}

/// Converts a model to a store.
///
/// Everything that can be known is checked before the first byte is written: the source's tensors, the manifest to
/// be, the destination, the free space. The manifest is written last, after every other file has reached the disk.
pub fn convert(
    source: &dyn ModelSource,
    destination: &Path,
    options: &ConvertOptions,
    progress: &dyn Progress,
) -> Result<Summary, ConvertError> {
    let plan = Plan::new(source, options)?;
    let destination = Destination::inspect(destination, options.overwrite)?;
    let preflight = destination.preflight(plan.needed())?;
    if preflight.needed > preflight.free {
        let Preflight {
            destination,
            needed,
            free,
        } = preflight;
        return Err(ConvertError::NoSpace {
            destination,
            needed,
            free,
        });
    }
    progress.planned(&preflight);

    let source_bytes: u64 = source.files().iter().map(|file| file.bytes).sum();
    let mut tracker = Tracker::new(progress, source_bytes + plan.store_bytes());
    let writer = destination.begin()?;
    let Plan {
        mut manifest,
        files,
        kept_matrices,
        ..
    } = plan;
    write::text_files(source, &manifest, &writer)?;
    write::tensor_files(source, &files, &mut manifest, &writer, &mut tracker)?;
    manifest.provenance.sources = provenance::hash_sources(source, &mut tracker)?;
    source.check_unchanged()?;
    let json = manifest.to_json();
    let store = writer.finish(&json)?;
    Ok(summary(store, &manifest, kept_matrices))
}

fn summary(store: PathBuf, manifest: &Manifest, kept_matrices: usize) -> Summary {
    Summary {
        store,
        store_bytes: ByteCount(manifest.files.iter().map(|file| file.bytes).sum()),
        resident_bytes: manifest.resident_bytes(),
        expert_bytes: manifest.object_bytes(),
        experts: manifest.objects.len(),
        kept_matrices,
    }
}

/// The format that a matrix of `columns` is stored in.
fn matrix_format(weights: WeightFormat, source: BlockFormat, columns: u64) -> BlockFormat {
    let whole = BlockFormat::Q8_0.row_bytes(columns).is_some();
    match weights {
        WeightFormat::Q8_0 if source.is_float() && whole => BlockFormat::Q8_0,
        _ => source,
    }
}

#[cfg(test)]
mod tests;
