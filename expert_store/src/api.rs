//! The store's face: what the engine calls, and what comes back.

use crate::residency::eviction::Eviction;
use odmoe_backend::Buffer;
use odmoe_formats::manifest::FileIndex;
use odmoe_formats::{ByteCount, ExpertKey};
use std::collections::HashSet;
use std::time::Duration;

/// Positioned reads of the store's files. Implementations: direct or buffered files, and faulty storage in tests.
/// Called from several reader threads at once.
pub trait ShardReader: Send + Sync {
    /// Fills `into` from `offset` of a file. `into` is 4096-aligned with a length that is a multiple of 4096 when it
    /// is an expert's slot, and anything when it is a resident tensor.
    fn read_at(&self, file: FileIndex, offset: u64, into: &mut [u8]) -> Result<(), ReadError>;

    /// As [`Self::read_at`], and shows bytes as soon as they are there, so that a checksum is all but done when the
    /// read is: `seen` gets them in order, each once, from the first on. Returns how many it got: any number, for the
    /// caller looks at the rest itself, when storage already has its next read. What is shown of a read that fails means
    /// nothing.
    fn read_showing(
        &self,
        file: FileIndex,
        offset: u64,
        into: &mut [u8],
        _seen: &mut dyn FnMut(&[u8]),
    ) -> Result<usize, ReadError> {
        self.read_at(file, offset, into)?;
        Ok(0)
    }

    /// How bytes of a file come: `direct`, `buffered`, `memory`; a metric's label.
    fn source(&self, _file: FileIndex) -> &'static str {
        "buffered"
    }

    /// Lets go of what is held open for a file, so that the next read sees a shard that was put in its place.
    fn reopen(&self, _file: FileIndex) {}
}

/// A read that failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The file ended before the read did.
    #[error(
        "{path}: ends after {got} of {wanted} bytes at offset {offset}; the shard was truncated or replaced, convert the model again"
    )]
    Short {
        /// The file.
        path: String,
        /// Where the read began.
        offset: u64,
        /// Bytes wanted.
        wanted: u64,
        /// Bytes there were.
        got: u64,
    },
    /// The system refused.
    #[error("{path}: {reason}")]
    Io {
        /// The file.
        path: String,
        /// What the system said.
        reason: String,
    },
}

/// Why an expert could not be had. `Display` says what to do next.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// The read failed.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The bytes are not those that were converted.
    #[error(
        "{key}: checksum {found} where the manifest says {expected}; the shard is damaged, convert the model again"
    )]
    Checksum {
        /// Which object.
        key: ExpertKey,
        /// From the manifest.
        expected: String,
        /// Of the bytes read.
        found: String,
    },
    /// The read did not end in time; its slot stays taken until it does.
    #[error("{key}: no answer from storage within {waited:?}")]
    Timeout {
        /// Which object.
        key: ExpertKey,
        /// How long it was waited for.
        waited: Duration,
    },
    /// The backend refused the upload.
    #[error("{key}: upload failed: {reason}")]
    Upload {
        /// Which object.
        key: ExpertKey,
        /// What the backend said.
        reason: String,
    },
}

/// The kinds of `odmoe_expert_load_failures_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LoadFailureKind {
    /// The bytes were wrong.
    Checksum,
    /// The system refused.
    Io,
    /// The file was too short.
    ShortRead,
    /// No answer in time.
    Timeout,
}

impl LoadError {
    /// The metric's label.
    pub fn kind(&self) -> LoadFailureKind {
        match self {
            Self::Read(ReadError::Short { .. }) => LoadFailureKind::ShortRead,
            Self::Read(ReadError::Io { .. }) | Self::Upload { .. } => LoadFailureKind::Io,
            Self::Checksum { .. } => LoadFailureKind::Checksum,
            Self::Timeout { .. } => LoadFailureKind::Timeout,
        }
    }
}

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// A prompt chunk.
    Prefill,
    /// Generated tokens.
    Decode,
}

/// What a lookup found; exclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LookupResult {
    /// In memory (of any tier), used before.
    Hit,
    /// In memory by a prefetch, first use.
    PrefetchHit,
    /// A read was in flight.
    Coalesced,
    /// Nowhere: a read begins.
    Miss,
}

/// Why a lookup found nothing; exclusive, and where several hold, the first in this order is said: late, cold, early,
/// capacity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MissCause {
    /// It had not been in memory since the start.
    Cold,
    /// It left because the slots do not suffice: even if the least recently used of all had left each time, it would
    /// be gone.
    Capacity,
    /// It left, and need not have: read ahead and gone before its first use, or gone although fewer bytes than all
    /// slots were used since its last use (a prefetch, prefill's half, sizes of slots, the policy).
    EvictedEarly,
    /// A read begun ahead of demand was not over.
    ArrivedLate,
}

/// Why an expert left memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EvictionReason {
    /// A demand read needed the slot.
    Demand,
    /// A prefetch needed the slot.
    Prefetch,
    /// The budget fell.
    Budget,
}

/// Everything countable that happens in the store, as plain data.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum StoreEvent {
    /// A demand lookup.
    Lookup {
        /// Who asked.
        phase: Phase,
        /// What was found.
        result: LookupResult,
        /// What was asked for.
        key: ExpertKey,
    },
    /// Why the lookup before this event was [`LookupResult::Miss`] or [`LookupResult::Coalesced`]. Who joins a read
    /// that another demand began shares its cause.
    Missed {
        /// Who asked.
        phase: Phase,
        /// Why.
        cause: MissCause,
        /// What was asked for.
        key: ExpertKey,
    },
    /// An expert left memory.
    Evicted {
        /// Why.
        reason: EvictionReason,
        /// Which.
        key: ExpertKey,
    },
    /// A read ended well, verified.
    Loaded {
        /// Which.
        key: ExpertKey,
        /// Bytes read.
        bytes: u64,
        /// From its start to the end of its verification.
        seconds: f64,
        /// Whether it was read ahead of demand.
        prefetch: bool,
        /// How the bytes came; see [`ShardReader::source`].
        source: &'static str,
    },
    /// The bytes did not match their checksum and were read once more; what came of that is told by `Loaded` or
    /// `LoadFailed`.
    Reread {
        /// Which.
        key: ExpertKey,
    },
    /// A read ended badly.
    LoadFailed {
        /// Which.
        key: ExpertKey,
        /// How.
        kind: LoadFailureKind,
    },
    /// A read began of what an earlier run used most, or of what is to stay in memory.
    WarmUpIssued,
    /// A prefetch read began.
    PrefetchIssued,
    /// A prefetched expert was used.
    PrefetchUsed {
        /// Its length.
        bytes: u64,
    },
    /// A prefetched expert left memory unused, or its read was cancelled.
    PrefetchWasted {
        /// Its length.
        bytes: u64,
    },
    /// A caller said what it would likely ask for.
    Hinted {
        /// For which kind of demand.
        phase: Phase,
        /// Of the layer whose turn is next, most likely first; at least one. What a hint names beyond it is left out.
        keys: Vec<ExpertKey>,
    },
    /// A demand came that a hint had foreseen.
    Foreseen {
        /// Who asked.
        phase: Phase,
        /// Experts asked for that would not have been in memory without the hint.
        missed: usize,
        /// Of them, those that it named.
        foreseen: usize,
    },
}

/// Receives [`StoreEvent`]s, on the engine's thread. Must be quick.
pub trait StoreObserver: Send + Sync {
    /// One event.
    fn record(&self, event: &StoreEvent);
}

/// Ignores everything.
pub struct NoObserver;
impl StoreObserver for NoObserver {
    fn record(&self, _event: &StoreEvent) {}
}

/// Gauges of the store at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreGauges {
    /// Bytes of verified experts in memory, all tiers.
    pub resident: ByteCount,
    /// Bytes of all slots that there are, all tiers.
    pub capacity: ByteCount,
    /// Bytes of all slots that there are to be, all tiers: what `capacity` goes towards after a change of budget.
    pub budget: ByteCount,
    /// Bytes of experts with a pin, all tiers.
    pub pinned: ByteCount,
    /// Bytes of experts that are in memory to stay, all tiers; see [`StoreConfig::keep`].
    pub kept: ByteCount,
    /// Reads under way.
    pub reads_in_flight: usize,
    /// Reads waiting for a reader or a slot.
    pub reads_queued: usize,
    /// Readers inside a read that timed out and has not returned: the others go on without them.
    pub readers_stuck: usize,
}

/// Whether reads succeed. `Failing` turns `/ready` off until a read succeeds again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreHealth {
    /// The last reads succeeded, or failed for their own reasons (a damaged shard among good ones).
    Healthy,
    /// Storage does not answer; the store goes on trying.
    Failing {
        /// The last error.
        last_error: String,
    },
}

/// How the store works.
#[derive(Clone, Debug)]
pub struct StoreConfig {
    /// Bytes for expert slots. At least two of the largest experts.
    pub budget: ByteCount,
    /// Reads that storage has at once.
    pub readers: usize,
    /// Whether hints are followed.
    pub prefetch: bool,
    /// Who leaves when a slot is needed.
    pub eviction: Eviction,
    /// A read that storage has not answered for this long fails with [`LoadError::Timeout`]. Time that a demand
    /// spends waiting for its turn does not count while other reads begin and end.
    pub read_timeout: Duration,
    /// Bytes of the host tier, where the backend's memory is apart from the host's; None: as much as `budget`.
    /// Unused with unified memory.
    pub host_budget: Option<ByteCount>,
    /// Heat that objects have from an earlier run, as [`ExpertStore::usage`](crate::ExpertStore::usage) told it. The hottest
    /// are loaded while nobody waits. Unknown keys are ignored.
    pub warm_up: Vec<(ExpertKey, f64)>,
    /// Objects that are loaded before all others and stay. The store's catalog is one that is
    /// [`keeping`](crate::Catalog::keeping) these, so that its budgets have room for them.
    pub keep: HashSet<ExpertKey>,
}

impl Default for StoreConfig {
    /// 256 MiB, four readers, prefetch on, the default policy, 30 s, nothing known.
    fn default() -> Self {
        Self {
            budget: ByteCount(256 << 20),
            readers: 4,
            prefetch: true,
            eviction: Eviction::default(),
            read_timeout: Duration::from_secs(30),
            host_budget: None,
            warm_up: Vec::new(),
            keep: HashSet::new(),
        }
    }
}

/// A budget that cannot work.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Less than two of the largest experts.
    #[error(
        "an expert cache of {budget} is too small: the least is {least}, two of the largest experts{}; raise --expert-cache{}",
        if *kept > 0 { format!(" beside {kept} pinned ones") } else { String::new() },
        if *kept > 0 { " or pin fewer" } else { "" }
    )]
    BudgetTooSmall {
        /// What was given.
        budget: ByteCount,
        /// What it takes.
        least: ByteCount,
        /// Objects that are to stay in memory.
        kept: usize,
    },
    /// The backend has no room.
    #[error(transparent)]
    Allocate(#[from] odmoe_backend::AllocateError),
    /// No thread could be started.
    #[error("no reader thread: {0}")]
    Thread(String),
}

/// A set of experts that one lane waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// Holds one expert in place. A value, not a scope: it goes back by [`ExpertStore::release`].
#[derive(Debug, PartialEq, Eq, Hash)]
#[must_use = "a pin that is not released holds its slot for ever"]
pub struct Pin(pub(crate) u64);

/// What a ticket got.
#[derive(Debug)]
pub enum Landed {
    /// The expert is in memory, verified, and stays until its pin is released.
    Ready {
        /// Which.
        key: ExpertKey,
        /// Its bytes, as the manifest's object describes them.
        slot: Buffer,
        /// To be released once the work that reads the slot is enqueued.
        pin: Pin,
    },
    /// It cannot be had; the ticket will not get it any more.
    Failed {
        /// Which.
        key: ExpertKey,
        /// Why.
        error: LoadError,
    },
}
