//! The store's face: what the engine calls, and what comes back.

use odmoe_backend::{Backend, Buffer, Event, Waker};
use odmoe_formats::manifest::{FileIndex, Manifest, PageableObject};
use odmoe_formats::{ByteCount, ExpertKey};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Positioned reads of the store's files. Implementations: direct or buffered files, and faulty storage in tests.
/// Called from several reader threads at once.
pub trait ShardReader: Send + Sync {
    /// Fills `into` from `offset` of a file. `into` is 4096-aligned with a length that is a multiple of 4096 when it
    /// is an expert's slot, and anything when it is a resident tensor.
    fn read_at(&self, file: FileIndex, offset: u64, into: &mut [u8]) -> Result<(), ReadError>;
}

/// A read that failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The file ended before the read did.
    #[error("{path}: ends after {got} of {wanted} bytes at offset {offset}; the shard was truncated or replaced, convert the model again")]
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
    #[error("{key}: checksum {found} where the manifest says {expected}; the shard is damaged, convert the model again")]
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
    /// In memory, used before.
    Hit,
    /// In memory by a prefetch, first use.
    PrefetchHit,
    /// A read was in flight.
    Coalesced,
    /// Nowhere: a read begins.
    Miss,
}

/// Why an expert left memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EvictionReason {
    /// A demand read needed the slot.
    Demand,
    /// A prefetch needed the slot.
    Prefetch,
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
    },
    /// A read ended badly.
    LoadFailed {
        /// Which.
        key: ExpertKey,
        /// How.
        kind: LoadFailureKind,
    },
    /// A prefetch read began.
    PrefetchIssued,
    /// A prefetched expert was used.
    PrefetchUsed,
    /// A prefetched expert left memory unused, or its read was cancelled.
    PrefetchWasted,
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
    /// Bytes of verified experts in memory.
    pub resident: ByteCount,
    /// Bytes of all slots.
    pub capacity: ByteCount,
    /// Bytes of experts with a pin.
    pub pinned: ByteCount,
    /// Reads under way.
    pub reads_in_flight: usize,
    /// Reads waiting for a reader or a slot.
    pub reads_queued: usize,
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
    /// Reader threads.
    pub readers: usize,
    /// Whether hints are followed.
    pub prefetch: bool,
    /// After this a demand read fails with [`LoadError::Timeout`].
    pub read_timeout: Duration,
}

/// A budget that cannot work.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Less than two of the largest experts.
    #[error("an expert cache of {budget} is too small: the least is {least}, two of the largest experts; raise --expert-cache")]
    BudgetTooSmall {
        /// What was given.
        budget: ByteCount,
        /// What it takes.
        least: ByteCount,
    },
    /// The backend has no room.
    #[error(transparent)]
    Allocate(#[from] odmoe_backend::AllocateError),
    /// No thread could be started.
    #[error("no reader thread: {0}")]
    Thread(String),
}

/// A set of experts that one lane waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
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

/// The objects that can be paged, by key.
#[derive(Clone, Debug)]
pub struct Catalog {
    objects: std::collections::HashMap<ExpertKey, PageableObject>,
}

impl Catalog {
    /// From a validated manifest.
    pub fn new(manifest: &Manifest) -> Self {
        Self { objects: manifest.objects.iter().map(|o| (o.key, o.clone())).collect() }
    }

    /// One object. Unknown keys are a bug of the caller.
    pub fn object(&self, key: ExpertKey) -> &PageableObject {
        &self.objects[&key]
    }

    /// How many objects.
    pub fn len(&self) -> usize {
        self.objects.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.objects.is_empty()
    }

    /// Every object.
    pub fn objects(&self) -> impl Iterator<Item = &PageableObject> {
        self.objects.values()
    }

    /// Bytes of all objects.
    pub fn total(&self) -> ByteCount {
        ByteCount(self.objects.values().map(|o| o.bytes).sum())
    }

    /// The least budget: two of the largest objects, in slots.
    pub fn least_budget(&self) -> ByteCount {
        todo!()
    }
}

/// The expert store. One thread, the engine's, owns it; nothing here blocks.
pub struct ExpertStore {}

#[allow(unused_variables)]
impl ExpertStore {
    /// Allocates every slot and starts the readers.
    pub fn new(
        catalog: Arc<Catalog>,
        backend: Arc<dyn Backend>,
        reader: Arc<dyn ShardReader>,
        config: StoreConfig,
        observer: Arc<dyn StoreObserver>,
        waker: Waker,
    ) -> Result<Self, StoreError> {
        todo!()
    }

    /// Asks for a set of distinct experts. Hits are ready at the next [`Self::take_landed`]; misses land as they are
    /// read. More experts than slots is allowed: they come in waves as pins are released. Never blocks.
    pub fn acquire(&mut self, keys: &[ExpertKey], phase: Phase, now: Instant) -> Ticket {
        todo!()
    }

    /// Takes in what readers and the backend finished, fails what is late, starts what can start.
    pub fn poll(&mut self, now: Instant) {
        todo!()
    }

    /// Moves what has landed for a ticket since the last call into `out`; returns how many are still to come. At
    /// zero the ticket is over.
    pub fn take_landed(&mut self, ticket: Ticket, out: &mut Vec<Landed>) -> usize {
        todo!()
    }

    /// Gives pins back; they end when `event` is reached, for the backend may still read the slots until then.
    pub fn release(&mut self, pins: Vec<Pin>, event: Event) {
        todo!()
    }

    /// Gives a ticket up. What landed and was not taken is unpinned; reads nobody else wants are cancelled.
    pub fn cancel(&mut self, ticket: Ticket) {
        todo!()
    }

    /// Says what will likely be wanted soon, most likely first. Replaces the last hint of the same `source` (a lane);
    /// what was not started of it is dropped. Only idle readers and cold slots are used.
    pub fn hint(&mut self, source: u32, keys: &[ExpertKey]) {
        todo!()
    }

    /// When [`Self::poll`] must be called even if nobody wakes the engine: the next read's time-out or probe.
    pub fn next_deadline(&self) -> Option<Instant> {
        todo!()
    }

    /// Gauges now.
    pub fn gauges(&self) -> StoreGauges {
        todo!()
    }

    /// Whether storage answers.
    pub fn health(&self) -> StoreHealth {
        todo!()
    }
}
