//! Buffers that keep books, around those of the inner backend.

use crate::ledger::Ledger;
use odmoe_backend::{
    Backend, Buffer, DeviceBuffer, Extent, ExtentMemory, HostWindow, HostWindowMemory, KvCache,
    KvMemory, KvSpec, StreamId,
};
use std::any::Any;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The byte of fresh memory. As F32, F16 and BF16 it is NaN; as an integer -1.
pub const POISON: u8 = 0xff;

/// A buffer with its books.
pub struct CheckedBuffer {
    /// Where the bytes are.
    pub inner: Buffer,
    ledger: Arc<Mutex<Ledger>>,
}

impl CheckedBuffer {
    /// Poisons the inner buffer and opens its books.
    pub fn poisoned(inner: Buffer, backend: &dyn Backend) -> Self {
        let poison = vec![POISON; inner.bytes()];
        backend
            .upload(StreamId::COMPUTE, &poison, &inner, 0)
            .expect("the inner backend takes an upload");
        Self {
            inner,
            ledger: Arc::default(),
        }
    }

    /// The checking backend's own buffer.
    pub fn of(buffer: &Buffer) -> &Self {
        buffer
            .downcast()
            .expect("the buffer was made by another backend")
    }

    /// The books.
    pub fn ledger(&self) -> MutexGuard<'_, Ledger> {
        lock(&self.ledger)
    }

    /// Wraps a host window of the inner buffer.
    pub fn window(&self, inner: HostWindow) -> CheckedWindow {
        self.ledger().open_window();
        CheckedWindow {
            inner,
            written: 0,
            ledger: Arc::clone(&self.ledger),
        }
    }
}

impl DeviceBuffer for CheckedBuffer {
    fn bytes(&self) -> usize {
        self.inner.bytes()
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// Closes the books' window when it is dropped.
pub struct CheckedWindow {
    inner: HostWindow,
    written: usize,
    ledger: Arc<Mutex<Ledger>>,
}

impl HostWindowMemory for CheckedWindow {
    fn bytes_mut(&mut self) -> &mut [u8] {
        let bytes = self.inner.bytes_mut();
        self.written = bytes.len();
        bytes
    }
}

impl Drop for CheckedWindow {
    fn drop(&mut self) {
        lock(&self.ledger).close_window(self.written);
    }
}

/// An extent of the inner backend.
pub struct CheckedExtent(pub Extent);

impl ExtentMemory for CheckedExtent {
    fn bytes(&self) -> usize {
        self.0.bytes()
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// A KV cache with books on each layer.
pub struct CheckedKv {
    /// Where keys and values are.
    pub inner: KvCache,
    layers: Vec<Mutex<Ledger>>,
}

impl CheckedKv {
    /// Opens the books of a fresh cache.
    pub fn new(inner: KvCache) -> Self {
        let layers = (0..inner.spec().layers).map(|_| Mutex::default()).collect();
        Self { inner, layers }
    }

    /// The checking backend's own cache.
    pub fn of(cache: &KvCache) -> &Self {
        cache
            .downcast()
            .expect("the KV cache was made by another backend")
    }

    /// The books of a layer.
    pub fn ledger(&self, layer: usize) -> MutexGuard<'_, Ledger> {
        lock(&self.layers[layer])
    }
}

impl KvMemory for CheckedKv {
    fn spec(&self) -> KvSpec {
        self.inner.spec()
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// Locks; a panic elsewhere left nothing half done, because checks come before entries.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
