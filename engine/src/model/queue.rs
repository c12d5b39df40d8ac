//! The stream that the forward pass runs on.

use odmoe_backend::{Backend, BackendError, Buffer, Event, KvCache, Op, ReadBack, StreamId};
use std::ops::Range;
use std::sync::Arc;

/// Enqueues on the backend's compute stream. All lanes share it, so one lane's ops are ordered before the next's.
#[derive(Clone)]
pub struct Queue {
    backend: Arc<dyn Backend>,
}

impl Queue {
    /// On the compute stream of a backend.
    pub fn new(backend: Arc<dyn Backend>) -> Self {
        Self { backend }
    }

    /// Enqueues one op.
    pub fn push(&self, op: Op) -> Result<(), BackendError> {
        self.backend.enqueue(StreamId::COMPUTE, op)
    }

    /// Says how many blocks of a KV cache are used from now on.
    pub fn use_kv_blocks(&self, cache: &KvCache, blocks: usize) {
        self.backend.use_kv_blocks(cache, blocks);
    }

    /// Marks this point of the stream.
    pub fn record(&self) -> Result<Event, BackendError> {
        self.backend.record(StreamId::COMPUTE)
    }

    /// Starts a copy of `bytes` of a buffer to the host.
    pub fn read_back(&self, from: &Buffer, bytes: Range<usize>) -> Result<ReadBack, BackendError> {
        self.backend.read_back(StreamId::COMPUTE, from, bytes)
    }

    /// What a read-back brought, once it is there.
    pub fn take(&self, ticket: &mut ReadBack) -> Result<Option<Vec<u8>>, BackendError> {
        self.backend.take(ticket)
    }
}
