//! The trait that every backend implements.

use crate::buffer::{Buffer, Extent, HostWindow};
use crate::kv::{KvCache, KvSpec};
use crate::op::Op;
use odmoe_formats::{BlockFormat, ByteCount, WeightLayout};
use std::any::Any;
use std::ops::Range;
use std::sync::Arc;

/// A queue of work. Ops of one stream run in order; between streams only events order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StreamId(pub u32);

impl StreamId {
    /// Where the forward pass runs.
    pub const COMPUTE: Self = Self(0);
    /// Where uploads run beside it.
    pub const COPY: Self = Self(1);
}

/// A point in a stream, reached once everything enqueued before it is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Event(pub u64);

/// A host copy on its way.
#[derive(Debug)]
pub struct ReadBack {
    /// Reached when the copy is there.
    pub event: Event,
    /// The backend's own.
    pub inner: Box<dyn Any + Send>,
}

/// Called by a backend, from any thread, when an event or a read-back completes by itself.
pub type Waker = Arc<dyn Fn() + Send + Sync>;

/// Which parts of promise P1b a backend keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Invariance {
    /// Batch composition, chunk size and thread count never change a bit.
    pub batch: bool,
}

/// What a backend can do.
#[derive(Clone, Debug)]
pub struct Capabilities {
    /// `cpu`, `cuda`, `metal`; for logs and labels.
    pub name: &'static str,
    /// What it runs on and by which kernels, for the start-up lines: `AVX-512, 2 threads`.
    pub description: String,
    /// Whether reads from disk can land in its buffers directly ([`Backend::host_window`]).
    pub unified_memory: bool,
    /// See [`Invariance`].
    pub invariance: Invariance,
    /// Weight formats that its matrix products take.
    pub formats: Vec<BlockFormat>,
    /// In which order blocks of weights may lie; row-major is always among them.
    pub layouts: Vec<WeightLayout>,
}

impl Capabilities {
    /// In which layout weights of a store lie in memory: their own, or row-major where the backend does not take that.
    /// Whoever loads them lays them out so ([`WeightLayout::into_rows`]), once, rather than every product.
    pub fn layout_in_memory(&self, stored: WeightLayout) -> WeightLayout {
        match self.layouts.contains(&stored) {
            true => stored,
            false => WeightLayout::RowMajor,
        }
    }
}

/// What the largest op of a forward pass looks like, for [`scratch_bytes_max`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpShape {
    /// T at most.
    pub rows: usize,
    /// The widest activation that meets a weight matrix.
    pub width: usize,
    /// K times F: what a token's experts hold on the way.
    pub expert_state: usize,
    /// E plus D: router logits and rotary angles of a row.
    pub small: usize,
    /// Threads that compute.
    pub threads: usize,
}

/// The most memory that a backend may keep for itself beside the buffers that its caller allocates. Backends keep to it,
/// so that a memory sum can be given before one is chosen.
///
/// Two sets of activations in the forms that quantised products take (at most 5 bytes an element; an op over weights of
/// several formats needs several forms), the intermediate state of experts in passes of 2 Mi elements (at most 13 bytes
/// each), both again for the first 64 rows in an order that products of few tokens want (2 bytes), small per-row values,
/// and 256 KiB for each thread, 2 MiB at least.
pub const fn scratch_bytes_max(shape: OpShape) -> usize {
    const STATE_ELEMENTS_MAX: usize = 2 << 20;
    const THREAD: usize = 256 << 10;
    const THREADS_LEAST: usize = 2 << 20;
    const FEW_ROWS: usize = 64;
    let few_rows = if shape.rows < FEW_ROWS {
        shape.rows
    } else {
        FEW_ROWS
    };
    let few = few_rows * (2 * shape.width + shape.expert_state);
    let state = shape.rows * shape.expert_state;
    let state = if state < STATE_ELEMENTS_MAX {
        state
    } else {
        STATE_ELEMENTS_MAX
    };
    let threads = if shape.threads * THREAD > THREADS_LEAST {
        shape.threads * THREAD
    } else {
        THREADS_LEAST
    };
    shape.rows * shape.width * 10 + state * 13 + few * 2 + shape.rows * shape.small * 8 + threads
}

/// Memory that could not be had.
#[derive(Debug, thiserror::Error)]
#[error(
    "{backend}: no memory for {wanted} ({reason}); lower --expert-cache, --kv-cache or --memory-limit"
)]
pub struct AllocateError {
    /// Which backend.
    pub backend: &'static str,
    /// How much was asked for.
    pub wanted: ByteCount,
    /// What the system said.
    pub reason: String,
}

/// The device failed. The engine ends what it serves and says so; it does not go on half alive.
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    /// The device or its driver refused work.
    #[error("{backend}: {op} failed: {reason}")]
    Device {
        /// Which backend.
        backend: &'static str,
        /// The op's name.
        op: &'static str,
        /// What the driver said.
        reason: String,
    },
    /// An access without the upload or event that it needs: found by the checking backend, a bug of the caller.
    #[error("ordering: {0}")]
    Ordering(String),
}

/// A device with its memory and kernels.
///
/// One thread enqueues; host windows may be written and dropped on any thread. Wrong shapes are bugs and assert.
pub trait Backend: Send + Sync {
    /// What it can do.
    fn capabilities(&self) -> Capabilities;

    /// A large allocation for slots, at least 16 KiB aligned where the host can address it.
    fn allocate_extent(&self, bytes: usize) -> Result<Extent, AllocateError>;

    /// A slot in an extent. Panics where the range is out of bounds or overlaps a live slot.
    fn carve(&self, extent: &Extent, range: Range<usize>) -> Buffer;

    /// A buffer of its own, zeroed, aligned to 64 bytes.
    fn allocate(&self, bytes: usize) -> Result<Buffer, AllocateError>;

    /// KV storage, zeroed.
    fn allocate_kv(&self, spec: KvSpec) -> Result<KvCache, AllocateError>;

    /// From now on only blocks `0 .. blocks` of a cache are used. The memory of the others goes back to the system, where
    /// that can be done; it comes again as more blocks are used. No pending op uses them, and what they held is lost.
    fn use_kv_blocks(&self, cache: &KvCache, blocks: usize);

    /// Exclusive host access to a whole buffer, or None where the host cannot address it. Panics where an op that
    /// uses the buffer is pending or a window is open.
    fn host_window(&self, buffer: &Buffer) -> Option<HostWindow>;

    /// Copies host bytes into a buffer at an offset, in stream order. The bytes are taken before it returns.
    fn upload(
        &self,
        stream: StreamId,
        bytes: &[u8],
        into: &Buffer,
        offset: usize,
    ) -> Result<(), BackendError>;

    /// Runs an op, in stream order.
    fn enqueue(&self, stream: StreamId, op: Op) -> Result<(), BackendError>;

    /// Marks this point of a stream.
    fn record(&self, stream: StreamId) -> Result<Event, BackendError>;

    /// Makes what is enqueued on `stream` from now on wait for `event`.
    fn wait(&self, stream: StreamId, event: Event) -> Result<(), BackendError>;

    /// Whether an event has been reached. Never blocks.
    fn is_done(&self, event: Event) -> Result<bool, BackendError>;

    /// Starts a copy of a range of bytes to the host, in stream order.
    fn read_back(
        &self,
        stream: StreamId,
        from: &Buffer,
        range: Range<usize>,
    ) -> Result<ReadBack, BackendError>;

    /// The bytes of a read-back once its event is reached, else None. Never blocks. Taken once.
    fn take(&self, ticket: &mut ReadBack) -> Result<Option<Vec<u8>>, BackendError>;

    /// Sets whom to call when something completes by itself. A backend that runs ops at once never calls.
    fn set_waker(&self, waker: Waker);
}
