//! The [`Backend`] of the CPU.

use crate::kernel_set::KernelSet;
use crate::kernels::Instructions;
use crate::memory::{CpuBuffer, CpuExtent, CpuKv};
use crate::ops::{Executor, own};
use odmoe_backend::{
    AllocateError, Backend, BackendError, Buffer, Capabilities, Event, Extent, HostWindow,
    Invariance, KvCache, KvSpec, Op, ReadBack, StreamId, Waker,
};
use odmoe_formats::{BlockFormat, ByteCount};
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

const NAME: &str = "cpu";

/// How a [`CpuBackend`] runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuConfig {
    /// Threads that compute, the caller's included; at least one.
    pub threads: usize,
    /// Which kernels; the fastest that the machine can run where None.
    pub kernels: Option<KernelSet>,
}

/// Why a [`CpuBackend`] cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum CpuBackendError {
    /// The machine lacks the instructions.
    #[error("this machine cannot run the {wanted} kernels; choose one of: {available}")]
    MissingInstructions {
        /// What was asked for.
        wanted: &'static str,
        /// What there is.
        available: String,
    },
    /// Nothing would compute.
    #[error("the number of threads is 0; give at least 1")]
    NoThreads,
    /// The system gives no more threads.
    #[error("cannot start {threads} threads ({source}); ask for fewer")]
    Threads {
        /// How many were asked for.
        threads: usize,
        /// What the system said.
        source: io::Error,
    },
}

/// Runs every op at once, on the calling thread and a pool: streams are always empty, events always reached.
pub struct CpuBackend {
    executor: Mutex<Executor>,
    config: CpuConfig,
    kernels: KernelSet,
    next_event: AtomicU64,
}

impl CpuBackend {
    /// A backend with threads of its own.
    pub fn new(config: CpuConfig) -> Result<Self, CpuBackendError> {
        if config.threads == 0 {
            return Err(CpuBackendError::NoThreads);
        }
        let kernels = config.kernels.unwrap_or_else(KernelSet::best);
        let instructions =
            Instructions::detect(kernels).ok_or_else(|| CpuBackendError::MissingInstructions {
                wanted: kernels.name(),
                available: KernelSet::available()
                    .into_iter()
                    .map(KernelSet::name)
                    .collect::<Vec<_>>()
                    .join(", "),
            })?;
        let threads = config.threads;
        let executor = Executor::new(kernels, instructions, threads)
            .map_err(|source| CpuBackendError::Threads { threads, source })?;
        Ok(Self {
            executor: Mutex::new(executor),
            config,
            kernels,
            next_event: AtomicU64::new(0),
        })
    }

    /// The kernels in use.
    pub fn kernels(&self) -> KernelSet {
        self.kernels
    }

    fn event(&self) -> Event {
        Event(self.next_event.fetch_add(1, Ordering::Relaxed))
    }
}

impl Backend for CpuBackend {
    fn capabilities(&self) -> Capabilities {
        let plural = if self.config.threads == 1 { "" } else { "s" };
        Capabilities {
            name: NAME,
            description: format!("{}, {} thread{plural}", self.kernels, self.config.threads),
            unified_memory: true,
            invariance: Invariance { batch: true },
            formats: BlockFormat::ALL.to_vec(),
            layouts: self.kernels.weight_layouts().to_vec(),
        }
    }

    fn allocate_extent(&self, bytes: usize) -> Result<Extent, AllocateError> {
        CpuExtent::new(bytes)
            .map(|extent| Extent::new(Arc::new(extent)))
            .map_err(|error| refused(bytes, &error))
    }

    fn carve(&self, extent: &Extent, range: Range<usize>) -> Buffer {
        let extent: &CpuExtent = extent
            .downcast()
            .expect("the extent was made by another backend");
        Buffer::new(Arc::new(CpuBuffer(Arc::new(extent.carve(range)))))
    }

    fn allocate(&self, bytes: usize) -> Result<Buffer, AllocateError> {
        CpuBuffer::zeroed(bytes)
            .map(|buffer| Buffer::new(Arc::new(buffer)))
            .map_err(|error| refused(bytes, &error))
    }

    fn allocate_kv(&self, spec: KvSpec) -> Result<KvCache, AllocateError> {
        CpuKv::zeroed(spec)
            .map(|cache| KvCache::new(Arc::new(cache)))
            .map_err(|error| refused(spec.bytes(), &error))
    }

    fn use_kv_blocks(&self, cache: &KvCache, blocks: usize) {
        let own: &CpuKv = cache
            .downcast()
            .expect("the KV cache was made by another backend");
        own.use_blocks(blocks);
    }

    fn host_window(&self, buffer: &Buffer) -> Option<HostWindow> {
        Some(Box::new(own(buffer).0.window()))
    }

    fn upload(
        &self,
        _stream: StreamId,
        bytes: &[u8],
        into: &Buffer,
        offset: usize,
    ) -> Result<(), BackendError> {
        let mut into = own(into).0.write();
        let length = into.len();
        let part = into
            .get_mut(offset..)
            .and_then(|rest| rest.get_mut(..bytes.len()));
        part.unwrap_or_else(|| panic!("upload of {} bytes at {offset} into {length}", bytes.len()))
            .copy_from_slice(bytes);
        Ok(())
    }

    fn enqueue(&self, _stream: StreamId, op: Op) -> Result<(), BackendError> {
        self.executor
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .run(&op);
        Ok(())
    }

    fn record(&self, _stream: StreamId) -> Result<Event, BackendError> {
        Ok(self.event())
    }

    fn wait(&self, _stream: StreamId, _event: Event) -> Result<(), BackendError> {
        Ok(())
    }

    fn is_done(&self, _event: Event) -> Result<bool, BackendError> {
        Ok(true)
    }

    fn read_back(
        &self,
        _stream: StreamId,
        from: &Buffer,
        range: Range<usize>,
    ) -> Result<ReadBack, BackendError> {
        let bytes: Option<Vec<u8>> = Some(own(from).0.read()[range].to_vec());
        Ok(ReadBack {
            event: self.event(),
            inner: Box::new(bytes),
        })
    }

    fn take(&self, ticket: &mut ReadBack) -> Result<Option<Vec<u8>>, BackendError> {
        let bytes: &mut Option<Vec<u8>> = ticket
            .inner
            .downcast_mut()
            .expect("the read-back was started by another backend");
        Ok(Some(bytes.take().expect("a read-back is taken once")))
    }

    fn set_waker(&self, _waker: Waker) {}
}

fn refused(bytes: usize, error: &io::Error) -> AllocateError {
    AllocateError {
        backend: NAME,
        wanted: ByteCount(bytes as u64),
        reason: error.to_string(),
    }
}
