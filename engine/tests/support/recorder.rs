//! A backend and an observer that write down what happens.

use odmoe_backend::{
    AllocateError, Backend, BackendError, Buffer, Capabilities, Event, Extent, HostWindow, KvCache,
    KvSpec, Op, ReadBack, StreamId, Waker,
};
use odmoe_engine::{EngineEvent, EngineObserver};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

/// Something that happened.
#[derive(Clone, Debug)]
pub enum Entry {
    /// An op was enqueued.
    Op(Op),
    /// The engine said something.
    Event(EngineEvent),
}

/// Entries in order, with their times.
#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<Vec<(Instant, Entry)>>>);

impl Log {
    pub fn push(&self, entry: Entry) {
        self.0.lock().unwrap().push((Instant::now(), entry));
    }

    pub fn entries(&self) -> Vec<(Instant, Entry)> {
        self.0.lock().unwrap().clone()
    }

    pub fn clear(&self) {
        self.0.lock().unwrap().clear();
    }

    pub fn events(&self) -> Vec<EngineEvent> {
        let entries = self.0.lock().unwrap();
        entries
            .iter()
            .filter_map(|(_, entry)| {
                if let Entry::Event(e) = entry {
                    Some(e.clone())
                } else {
                    None
                }
            })
            .collect()
    }
}

impl EngineObserver for Log {
    fn record(&self, event: &EngineEvent) {
        self.push(Entry::Event(event.clone()));
    }
}

/// What a test may do to an op before it runs.
type OpHook = Arc<dyn Fn(&Op) -> Result<(), BackendError> + Send + Sync>;

/// Passes everything on, calling a hook for each op first and counting what is allocated.
pub struct HookedBackend {
    inner: Arc<dyn Backend>,
    hook: OpHook,
    /// Bytes allocated in all.
    pub allocated: AtomicU64,
}

impl HookedBackend {
    pub fn new(
        inner: Arc<dyn Backend>,
        hook: impl Fn(&Op) -> Result<(), BackendError> + Send + Sync + 'static,
    ) -> Self {
        Self {
            inner,
            hook: Arc::new(hook),
            allocated: AtomicU64::new(0),
        }
    }

    fn count(&self, bytes: usize) {
        self.allocated.fetch_add(bytes as u64, Ordering::SeqCst);
    }
}

impl Backend for HookedBackend {
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    fn allocate_extent(&self, bytes: usize) -> Result<Extent, AllocateError> {
        self.count(bytes);
        self.inner.allocate_extent(bytes)
    }

    fn carve(&self, extent: &Extent, range: Range<usize>) -> Buffer {
        self.inner.carve(extent, range)
    }

    fn allocate(&self, bytes: usize) -> Result<Buffer, AllocateError> {
        self.count(bytes);
        self.inner.allocate(bytes)
    }

    fn allocate_kv(&self, spec: KvSpec) -> Result<KvCache, AllocateError> {
        self.count(spec.bytes());
        self.inner.allocate_kv(spec)
    }

    fn use_kv_blocks(&self, cache: &KvCache, blocks: usize) {
        self.inner.use_kv_blocks(cache, blocks);
    }

    fn host_window(&self, buffer: &Buffer) -> Option<HostWindow> {
        self.inner.host_window(buffer)
    }

    fn upload(
        &self,
        stream: StreamId,
        bytes: &[u8],
        into: &Buffer,
        offset: usize,
    ) -> Result<(), BackendError> {
        self.inner.upload(stream, bytes, into, offset)
    }

    fn enqueue(&self, stream: StreamId, op: Op) -> Result<(), BackendError> {
        (self.hook)(&op)?;
        self.inner.enqueue(stream, op)
    }

    fn record(&self, stream: StreamId) -> Result<Event, BackendError> {
        self.inner.record(stream)
    }

    fn wait(&self, stream: StreamId, event: Event) -> Result<(), BackendError> {
        self.inner.wait(stream, event)
    }

    fn is_done(&self, event: Event) -> Result<bool, BackendError> {
        self.inner.is_done(event)
    }

    fn read_back(
        &self,
        stream: StreamId,
        from: &Buffer,
        range: Range<usize>,
    ) -> Result<ReadBack, BackendError> {
        self.inner.read_back(stream, from, range)
    }

    fn take(&self, ticket: &mut ReadBack) -> Result<Option<Vec<u8>>, BackendError> {
        self.inner.take(ticket)
    }

    fn set_waker(&self, waker: Waker) {
        self.inner.set_waker(waker);
    }
}
