//! A backend that has memory, events that tests reach when they like, and nothing else.

use odmoe_backend::*;
use odmoe_formats::{ByteCount, WeightLayout};
use std::any::Any;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

const PAGE: usize = 4096;

/// Bytes with room to start on a page.
struct Bytes(Vec<u8>);

impl Bytes {
    fn page(&mut self, bytes: usize) -> &mut [u8] {
        let skip = self.0.as_ptr().align_offset(PAGE);
        &mut self.0[skip..skip + bytes]
    }
}

struct FakeBuffer {
    bytes: usize,
    /// None while a host window has them.
    memory: Arc<Mutex<Option<Bytes>>>,
}

impl DeviceBuffer for FakeBuffer {
    fn bytes(&self) -> usize {
        self.bytes
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

struct FakeExtent {
    bytes: usize,
    carved: Mutex<Vec<Range<usize>>>,
}

impl ExtentMemory for FakeExtent {
    fn bytes(&self) -> usize {
        self.bytes
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

struct FakeWindow {
    bytes: usize,
    taken: Option<Bytes>,
    memory: Arc<Mutex<Option<Bytes>>>,
}

impl HostWindowMemory for FakeWindow {
    fn bytes_mut(&mut self) -> &mut [u8] {
        self.taken.as_mut().unwrap().page(self.bytes)
    }
}

impl Drop for FakeWindow {
    fn drop(&mut self) {
        *self.memory.lock().unwrap() = self.taken.take();
    }
}

pub struct FakeBackend {
    unified: bool,
    recorded: AtomicU64,
    reached: AtomicU64,
    /// Whether events are reached as soon as they are recorded.
    prompt: AtomicBool,
    refuse_uploads: AtomicBool,
    pub uploads: AtomicU64,
}

impl FakeBackend {
    /// The host can write its memory.
    pub fn unified() -> Self {
        Self {
            unified: true,
            recorded: AtomicU64::new(0),
            reached: AtomicU64::new(0),
            prompt: AtomicBool::new(true),
            refuse_uploads: AtomicBool::new(false),
            uploads: AtomicU64::new(0),
        }
    }

    /// Its memory is reached by uploads only.
    pub fn discrete() -> Self {
        Self {
            unified: false,
            ..Self::unified()
        }
    }

    /// Whether events are reached as soon as they are recorded.
    pub fn set_prompt(&self, prompt: bool) {
        self.prompt.store(prompt, Ordering::SeqCst);
    }

    pub fn refuse_uploads(&self, refuse: bool) {
        self.refuse_uploads.store(refuse, Ordering::SeqCst);
    }

    /// Reaches everything recorded.
    pub fn complete(&self) {
        self.reached
            .store(self.recorded.load(Ordering::SeqCst), Ordering::SeqCst);
    }

    /// An event that is reached.
    pub fn done(&self) -> Event {
        Event(0)
    }

    pub fn bytes(&self, buffer: &Buffer) -> Vec<u8> {
        let fake: &FakeBuffer = buffer.downcast().unwrap();
        let mut memory = fake.memory.lock().unwrap();
        memory
            .as_mut()
            .expect("no read is writing a slot that landed")
            .page(fake.bytes)
            .to_vec()
    }

    fn memory<'a>(&self, buffer: &'a Buffer) -> MutexGuard<'a, Option<Bytes>> {
        buffer
            .downcast::<FakeBuffer>()
            .unwrap()
            .memory
            .lock()
            .unwrap()
    }
}

impl Backend for FakeBackend {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            name: "fake",
            description: "memory only".into(),
            unified_memory: self.unified,
            invariance: Invariance { batch: true },
            formats: Vec::new(),
            layouts: vec![WeightLayout::RowMajor],
        }
    }

    fn allocate_extent(&self, bytes: usize) -> Result<Extent, AllocateError> {
        assert!(bytes.is_multiple_of(16 << 10));
        Ok(Extent::new(Arc::new(FakeExtent {
            bytes,
            carved: Mutex::default(),
        })))
    }

    fn carve(&self, extent: &Extent, range: Range<usize>) -> Buffer {
        let fake: &FakeExtent = extent.downcast().unwrap();
        let mut carved = fake.carved.lock().unwrap();
        assert!(range.end <= fake.bytes && range.start.is_multiple_of(16 << 10));
        assert!(
            carved
                .iter()
                .all(|r| r.end <= range.start || range.end <= r.start),
            "slots overlap"
        );
        carved.push(range.clone());
        self.allocate(range.len()).unwrap()
    }

    fn allocate(&self, bytes: usize) -> Result<Buffer, AllocateError> {
        let memory = Arc::new(Mutex::new(Some(Bytes(vec![0; bytes + PAGE]))));
        Ok(Buffer::new(Arc::new(FakeBuffer { bytes, memory })))
    }

    fn allocate_kv(&self, spec: KvSpec) -> Result<KvCache, AllocateError> {
        let wanted = ByteCount(spec.bytes() as u64);
        Err(AllocateError {
            backend: "fake",
            wanted,
            reason: "it has no KV".into(),
        })
    }

    fn use_kv_blocks(&self, _: &KvCache, _: usize) {
        unreachable!("the store has no KV")
    }

    fn host_window(&self, buffer: &Buffer) -> Option<HostWindow> {
        if !self.unified {
            return None;
        }
        let fake: &FakeBuffer = buffer.downcast().unwrap();
        let taken = Some(self.memory(buffer).take().expect("one window at a time"));
        Some(Box::new(FakeWindow {
            bytes: fake.bytes,
            taken,
            memory: fake.memory.clone(),
        }))
    }

    fn upload(
        &self,
        stream: StreamId,
        bytes: &[u8],
        into: &Buffer,
        offset: usize,
    ) -> Result<(), BackendError> {
        assert_eq!(stream, StreamId::COPY);
        if self.refuse_uploads.load(Ordering::SeqCst) {
            return Err(BackendError::Device {
                backend: "fake",
                op: "upload",
                reason: "told to".into(),
            });
        }
        self.uploads.fetch_add(1, Ordering::SeqCst);
        let length = into.bytes();
        self.memory(into).as_mut().unwrap().page(length)[offset..offset + bytes.len()]
            .copy_from_slice(bytes);
        Ok(())
    }

    fn enqueue(&self, _stream: StreamId, op: Op) -> Result<(), BackendError> {
        panic!("it cannot do {}", op.name())
    }

    fn record(&self, _stream: StreamId) -> Result<Event, BackendError> {
        let event = self.recorded.fetch_add(1, Ordering::SeqCst) + 1;
        if self.prompt.load(Ordering::SeqCst) {
            self.complete();
        }
        Ok(Event(event))
    }

    fn wait(&self, _stream: StreamId, _event: Event) -> Result<(), BackendError> {
        Ok(())
    }

    fn is_done(&self, event: Event) -> Result<bool, BackendError> {
        Ok(event.0 <= self.reached.load(Ordering::SeqCst))
    }

    fn read_back(
        &self,
        _stream: StreamId,
        _from: &Buffer,
        _range: Range<usize>,
    ) -> Result<ReadBack, BackendError> {
        panic!("it has nothing to read back")
    }

    fn take(&self, _ticket: &mut ReadBack) -> Result<Option<Vec<u8>>, BackendError> {
        panic!("it has nothing to read back")
    }

    fn set_waker(&self, _waker: Waker) {}
}
