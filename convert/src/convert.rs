//! One conversion, from source to store: plan, check the destination, write, and the manifest last.

mod base_files;
mod destination;
mod disk;
mod encode;
mod frontier;
mod journal;
mod keeper;
mod old_files;
mod part_writer;
mod pipeline;
mod plan;
mod provenance;
mod steps;
mod store_writer;
mod text_files;
mod units;
mod worker;

use crate::progress::{Cancelled, Earlier, Progress};
use crate::source::{ModelSource, SourceError};
use crate::store_cache::{self, FINGERPRINT_FILE};
use crate::verify::{VerifyError, verify_store};
use destination::{Destination, Taken};
use disk::{Disk, SystemDisk};
use journal::{Heading, Records};
use odmoe_formats::architecture;
use odmoe_formats::manifest::{FORMAT_VERSION, FORMAT_VERSION_ROW_MAJOR, Manifest, ManifestError};
use odmoe_formats::safetensors::LayoutError;
use odmoe_formats::{ByteCount, WeightLayout};
use pipeline::{Begun, Outcome};
use plan::{FileOwner, Plan};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use text_files::TextFile;
use units::Work;

/// To be raised when conversion gives other bytes for the same source and options.
pub(crate) const CONVERSION_REVISION: u32 = 1;
/// As a manifest names it.
const CONVERTER: &str = concat!("odmoe ", env!("CARGO_PKG_VERSION"));

/// How matrices are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum WeightFormat {
    /// As the source has them.
    #[default]
    Source,
    /// Quantised to Q8_0: the experts', attention's, dense MLPs' and the embedding's and head's. Norms and routers
    /// never are, nor is a matrix whose rows are not whole blocks, nor one that is in blocks of any kind already:
    /// quantising twice loses twice.
    Q8_0,
}

impl WeightFormat {
    /// Its name in journals and keys.
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Q8_0 => "q8_0",
        }
    }
}

/// What a conversion is to do.
#[derive(Clone, Debug)]
pub struct ConvertOptions {
    /// How matrices are stored.
    pub weights: WeightFormat,
    /// In which order their blocks lie, as far as they can lie so.
    pub layout: WeightLayout,
    /// The name that clients see; None takes the source's.
    pub name: Option<String>,
    /// Whether a store at the destination is replaced.
    pub overwrite: bool,
    /// Resident tensors are spread over files of at most this size, or of one tensor where that is larger.
    pub base_file_limit: ByteCount,
}

impl ConvertOptions {
    /// The name that the store of a source will have.
    pub(crate) fn name_of<'a>(&'a self, source: &'a dyn ModelSource) -> &'a str {
        let suggested = &source.metadata().suggested_name;
        self.name.as_ref().unwrap_or(suggested)
    }

    /// The layout that the store of a source may have: what is not in blocks is row-major whatever is asked for, and then
    /// the store is one and the same.
    pub(crate) fn layout_of(&self, source: &dyn ModelSource) -> WeightLayout {
        let in_blocks = self.weights != WeightFormat::Source
            || source
                .tensors()
                .iter()
                .any(|tensor| !tensor.format.is_float());
        match in_blocks {
            true => self.layout,
            false => WeightLayout::RowMajor,
        }
    }
}

/// The version of the format that has a layout.
pub(crate) const fn version_of(layout: WeightLayout) -> u32 {
    match layout {
        WeightLayout::RowMajor => FORMAT_VERSION_ROW_MAJOR,
        _ => FORMAT_VERSION,
    }
}

impl Default for ConvertOptions {
    fn default() -> Self {
        Self {
            weights: WeightFormat::Source,
            layout: WeightLayout::RowMajor,
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
    /// Bytes of its tensor files.
    pub store_bytes: ByteCount,
    /// Bytes of them that an earlier conversion had written.
    pub reused_bytes: ByteCount,
    /// Bytes of tensors that stay in memory.
    pub resident_bytes: ByteCount,
    /// Bytes of all routed experts.
    pub expert_bytes: ByteCount,
    /// Routed experts.
    pub experts: usize,
    /// Matrices that were to be quantised but stay as they are, for their rows are not whole blocks.
    pub kept_matrices: usize,
    /// Matrices that were to be quantised but stay as they are, for the source has them in other blocks already.
    pub quantised_already: usize,
}

/// A conversion that did not happen. What it left behind does not open as a store; the same conversion goes on from
/// there, any other clears it away.
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
        "{destination}: the store needs {needed} but {free} are free; {} are missing: make room or give another destination",
        ByteCount(needed.0.saturating_sub(free.0))
    )]
    NoSpace {
        /// The destination.
        destination: PathBuf,
        /// Bytes it takes.
        needed: ByteCount,
        /// Bytes there are.
        free: ByteCount,
    },
    /// The disk filled up while it was written to.
    #[error(
        "{destination}: the disk is full, {missing} more must be free there; make room and convert again: it goes on \
         where it stopped"
    )]
    DiskFull {
        /// The destination.
        destination: PathBuf,
        /// Bytes that are missing, with a margin for the file system.
        missing: ByteCount,
    },
    /// There are too few inodes.
    #[error(
        "{destination}: the store needs {needed} files and folders but the file system has room for {free}; give \
         another destination"
    )]
    TooManyFiles {
        /// The destination.
        destination: PathBuf,
        /// How many it is made of.
        needed: u64,
        /// How many can be made.
        free: u64,
    },
    /// The system took no more although the disk has room.
    #[error("{destination}: {limit}; make room and convert again: it goes on where it stopped")]
    LimitReached {
        /// The destination.
        destination: PathBuf,
        /// Which limit, as a sentence.
        limit: &'static str,
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

/// What [`convert`] would need, found without writing. The errors are those that `convert` would begin with;
/// where it would find its own store it still says that there is one.
pub fn preflight(
    source: &dyn ModelSource,
    destination: &Path,
    options: &ConvertOptions,
) -> Result<Preflight, ConvertError> {
    let plan = Plan::new(source, options)?;
    let heading = Heading::new(source, options);
    let destination = Destination::inspect(destination, options.overwrite, &heading)?;
    destination.preflight(plan.needed(), &SystemDisk)
}

/// The manifest of the store that [`convert`] would make, with zeros for digests: which tensors there must be is checked,
/// and that each has its shape.
pub fn planned_manifest(
    source: &dyn ModelSource,
    options: &ConvertOptions,
) -> Result<Manifest, ConvertError> {
    Plan::new(source, options).map(|plan| plan.manifest)
}

/// Converts a model to a store.
///
/// Everything that can be known is checked before the first byte is written: the source's tensors, the manifest to
/// be, the destination, the free space. The manifest is written last, after every other file has reached the disk.
///
/// What an earlier attempt of the same source with the same options left at the destination is taken up: its finished
/// parts are read again and compared with the digests that it recorded. Anything else is removed. A whole store of the
/// same source and options is read again in the same way, and left as it is.
pub fn convert(
    source: &dyn ModelSource,
    destination: &Path,
    options: &ConvertOptions,
    progress: &dyn Progress,
) -> Result<Summary, ConvertError> {
    let key = store_cache::key(source, options);
    let fingerprint = store_cache::fingerprint_file(key);
    let what = Conversion {
        source,
        options,
        more_files: &[(FINGERPRINT_FILE, &fingerprint)],
        disk: &SystemDisk,
    };
    what.run(destination, progress)
}

/// What is converted, how, and by which disk.
struct Conversion<'a> {
    source: &'a dyn ModelSource,
    options: &'a ConvertOptions,
    more_files: &'a [TextFile<'a>],
    disk: &'a dyn Disk,
}

impl Conversion<'_> {
    fn run(&self, destination: &Path, progress: &dyn Progress) -> Result<Summary, ConvertError> {
        let plan = Plan::new(self.source, self.options)?;
        let needed = plan.needed();
        let heading = Heading::new(self.source, self.options);
        let place = match Destination::inspect(destination, self.options.overwrite, &heading) {
            Err(ConvertError::StoreExists { path }) => {
                return match self.is_made_already(destination, &plan, progress)? {
                    true => Ok(summary(&plan, path, ByteCount(plan.store_bytes()))),
                    false => Err(ConvertError::StoreExists { path }),
                };
            }
            place => place?,
        };
        let preflight = place.preflight(needed, self.disk)?;
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
        place.check_files(plan.needed_files(), self.disk)?;
        progress.planned(&preflight);
        let written = self.write(plan, place, progress);
        written.map_err(|error| self.explain_full_disk(error, destination, needed))
    }

    /// Whether the destination is the very store that is to be made: a process may have been stopped after its last
    /// step and before it could say so. A damaged one is not.
    fn is_made_already(
        &self,
        destination: &Path,
        plan: &Plan,
        progress: &dyn Progress,
    ) -> Result<bool, ConvertError> {
        let key = store_cache::key(self.source, self.options);
        if !store_cache::is_complete(destination, key) {
            return Ok(false);
        }
        progress.earlier(&Earlier::Resumed {
            already_there: ByteCount(plan.store_bytes()),
        });
        match verify_store(destination, progress) {
            Err(VerifyError::Cancelled) => Err(ConvertError::Cancelled),
            verified => Ok(verified.is_ok_and(|report| report.problems.is_empty())),
        }
    }

    fn write(
        &self,
        plan: Plan,
        place: Destination<'_>,
        progress: &dyn Progress,
    ) -> Result<Summary, ConvertError> {
        let text: Vec<TextFile<'_>> = text_files::text_files(self.source, &plan)
            .chain(self.more_files.iter().copied())
            .collect();
        let tensor_files = plan.manifest.files.iter().map(|file| file.path.as_str());
        let planned = text.iter().map(|(name, _)| *name).chain(tensor_files);
        let planned = planned.map(Path::new).collect();
        let Taken {
            writer,
            journal,
            records,
            started_over,
        } = place.begin(&planned, self.disk)?;
        let work = Work::new(self.source, &plan);
        tell_of_earlier(progress, &work, &records, started_over);
        for (name, contents) in text {
            writer.write_whole(name, contents)?;
        }
        let begun = Begun {
            source: self.source,
            plan: &plan,
            work: &work,
            writer: &writer,
            records: &records,
        };
        let outcome = pipeline::run(&begun, journal, progress)?;
        self.source.check_unchanged()?;
        let reused_bytes = ByteCount(outcome.reused_bytes);
        let manifest = complete_manifest(&plan, &work, outcome);
        let store = writer.finish(&manifest.to_json())?;
        Ok(summary(&plan, store, reused_bytes))
    }

    /// An error that says that the disk is full, as one that says how much is missing, or what else there is too
    /// little of.
    fn explain_full_disk(
        &self,
        error: ConvertError,
        destination: &Path,
        needed: ByteCount,
    ) -> ConvertError {
        let ConvertError::Io { path, source } = error else {
            return error;
        };
        let is_quota = source.kind() == ErrorKind::QuotaExceeded;
        let room = Destination::room_with_what_is_there(destination, self.disk);
        let (true, Ok(room)) = (is_quota || source.kind() == ErrorKind::StorageFull, room) else {
            return ConvertError::Io { path, source };
        };
        let missing = ByteCount(needed.0.saturating_sub(room.bytes));
        let destination = destination.into();
        let limit = match missing {
            ByteCount(1..) => {
                return ConvertError::DiskFull {
                    destination,
                    missing,
                };
            }
            _ if is_quota => "the quota of the disk is used up",
            _ if room.files == Some(0) => "the file system can hold no more files",
            // Of a quota that does not say so, or room that was made meanwhile: the margin is part of what is needed.
            _ => {
                "the system took no more, though the disk has room: a quota, or it was full for a time"
            }
        };
        ConvertError::LimitReached { destination, limit }
    }
}

fn summary(plan: &Plan, store: PathBuf, reused_bytes: ByteCount) -> Summary {
    let manifest = &plan.manifest;
    Summary {
        store,
        store_bytes: ByteCount(plan.store_bytes()),
        reused_bytes,
        resident_bytes: manifest.resident_bytes(),
        expert_bytes: manifest.object_bytes(),
        experts: manifest.objects.len(),
        kept_matrices: plan.kept_matrices,
        quantised_already: plan.quantised_already,
    }
}

fn tell_of_earlier(
    progress: &dyn Progress,
    work: &Work,
    records: &Records,
    started_over: Option<&'static str>,
) {
    let recorded = work.units.iter();
    let recorded = recorded.filter(|unit| records.parts.contains_key(&unit.name));
    let already_there = ByteCount(recorded.map(|unit| unit.bytes).sum());
    if let Some(reason) = started_over {
        progress.earlier(&Earlier::StartedOver { reason });
    } else if already_there.0 > 0 {
        progress.earlier(&Earlier::Resumed { already_there });
    }
}

/// The planned manifest with its digests.
fn complete_manifest(plan: &Plan, work: &Work, outcome: Outcome) -> Manifest {
    let mut manifest = plan.manifest.clone();
    for (unit, digest) in work.units.iter().zip(outcome.digests) {
        let xxh3_128 = digest.to_hex();
        match plan.files[unit.file].owner {
            FileOwner::Object(object) => manifest.objects[object].xxh3_128 = xxh3_128,
            FileOwner::Base => {
                let resident = manifest.resident.get_mut(&unit.name);
                resident.expect("planned with the file").xxh3_128 = xxh3_128;
            }
        }
    }
    manifest.provenance.sources = outcome.sources;
    manifest
}

#[cfg(test)]
mod tests;
