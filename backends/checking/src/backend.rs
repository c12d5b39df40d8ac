//! The [`Backend`] that checks.

use crate::clock::VectorClock;
use crate::device::{Device, Mailbox, Work};
use crate::footprint::{Touch, kv_slots, touches};
use crate::ledger::{Use, Violation};
use crate::memory::{CheckedBuffer, CheckedExtent, CheckedKv, POISON, lock};
use crate::translate::translate;
use odmoe_backend::{
    AllocateError, Backend, BackendError, Buffer, Capabilities, Event, Extent, HostWindow, KvCache,
    KvSpec, Op, ReadBack, StreamId, Waker,
};
use std::ops::Range;
use std::sync::{Arc, Mutex};

/// When queued work is carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Completion {
    /// While somebody asks: each `is_done` or `take` that finds nothing carries out one item after up to `most`
    /// further such calls (drawn by the seed), and calls the waker, so that who sleeps until woken asks again.
    AfterPolls {
        /// Fruitless calls for one item at most; 0 carries out one item with every call.
        most: u32,
    },
    /// Only by [`CheckingBackend::advance`].
    ByAdvance,
}

/// How a [`CheckingBackend`] behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckingConfig {
    /// Settles how late work completes and in which order streams go on. Print it when a test fails.
    pub seed: u64,
    /// Whether host windows exist; else memory is written by uploads only. True needs an inner backend that has them.
    pub unified_memory: bool,
    /// When queued work is carried out.
    pub completion: Completion,
}

impl Default for CheckingConfig {
    fn default() -> Self {
        Self {
            seed: 0,
            unified_memory: true,
            completion: Completion::AfterPolls { most: 3 },
        }
    }
}

/// Wraps a backend, completes late, and refuses every access that skips an upload or an event.
///
/// Every check is made when work is enqueued and depends on order alone, never on how far the queues happen to be,
/// so a missing wait is found in every run. Violations are [`BackendError::Ordering`]; where the interface has no
/// error (a host window), a panic.
pub struct CheckingBackend {
    inner: Arc<dyn Backend>,
    config: CheckingConfig,
    device: Mutex<Device>,
    polls_left: Mutex<u64>,
    waker: Mutex<Option<Waker>>,
}

impl CheckingBackend {
    /// Checks what is asked of `inner`.
    pub fn new(inner: Arc<dyn Backend>, config: CheckingConfig) -> Self {
        assert!(
            !config.unified_memory || inner.capabilities().unified_memory,
            "unified memory is only there where the inner backend has it"
        );
        let device = Mutex::new(Device::new(config.seed));
        Self {
            inner,
            config,
            device,
            polls_left: Mutex::new(0),
            waker: Mutex::new(None),
        }
    }

    /// Carries out up to `items` queued items and calls the waker if an event was reached. Returns how many it did.
    pub fn advance(&self, items: usize) -> Result<usize, BackendError> {
        let (mut done, mut reached) = (0, false);
        while done < items {
            match lock(&self.device).step(&*self.inner)? {
                Some(event) => reached |= event,
                None => break,
            }
            done += 1;
        }
        if reached {
            self.wake();
        }
        Ok(done)
    }

    fn wake(&self) {
        let waker = lock(&self.waker).clone();
        if let Some(waker) = waker {
            waker();
        }
    }

    /// Called when somebody asked in vain.
    fn polled(&self) -> Result<(), BackendError> {
        let Completion::AfterPolls { most } = self.config.completion else {
            return Ok(());
        };
        let mut device = lock(&self.device);
        let mut polls_left = lock(&self.polls_left);
        if *polls_left > 0 {
            *polls_left -= 1;
        } else {
            *polls_left = device.random_below(u64::from(most) + 1);
            device.step(&*self.inner)?;
        }
        drop((device, polls_left));
        self.wake();
        Ok(())
    }

    /// Checks and enters the accesses of one item, then queues it.
    fn submit(
        &self,
        stream: StreamId,
        op: &'static str,
        uses: Uses<'_>,
        work: Work,
    ) -> Result<(), BackendError> {
        let mut device = lock(&self.device);
        let before = device.clocks.before_next(stream);
        for touch in &uses.touches {
            check_touch(op, stream, touch, &before)?;
        }
        for (cache, layer, slots, how) in &uses.kv {
            let checked = CheckedKv::of(cache)
                .ledger(*layer)
                .check(slots, *how, &before);
            checked.map_err(|violation| kv_error(op, stream, cache, *layer, &violation))?;
        }
        let stamp = device.clocks.enqueue(stream);
        let host = device.clocks.host();
        for touch in uses.touches {
            CheckedBuffer::of(touch.buffer)
                .ledger()
                .note(touch.range, touch.how, stamp, op, host);
        }
        for (cache, layer, slots, how) in uses.kv {
            CheckedKv::of(cache)
                .ledger(layer)
                .note(slots, how, stamp, op, host);
        }
        device.push(stream, work);
        Ok(())
    }
}

/// What one item uses.
#[derive(Default)]
struct Uses<'a> {
    touches: Vec<Touch<'a>>,
    kv: Vec<(&'a KvCache, usize, Range<usize>, Use)>,
}

impl<'a> Uses<'a> {
    fn of_op(op: &'a Op) -> Self {
        let mut uses = Self {
            touches: touches(op),
            kv: Vec::new(),
        };
        if let Some((cache, layer, _)) = op.kv_access() {
            uses.kv.extend(
                kv_slots(op)
                    .into_iter()
                    .map(|(slots, how)| (cache, layer, slots, how)),
            );
        }
        uses
    }

    fn of_range(buffer: &'a Buffer, range: Range<usize>, how: Use) -> Self {
        Self {
            touches: vec![Touch { buffer, range, how }],
            kv: Vec::new(),
        }
    }
}

fn check_touch(
    op: &str,
    stream: StreamId,
    touch: &Touch<'_>,
    before: &VectorClock,
) -> Result<(), BackendError> {
    let Touch { buffer, range, how } = touch;
    assert!(
        range.end <= buffer.bytes(),
        "{op} uses bytes {range:?} of {buffer:?}"
    );
    let checked = CheckedBuffer::of(buffer)
        .ledger()
        .check(range, *how, before);
    checked.map_err(|violation| {
        let what = describe(&violation, "byte");
        BackendError::Ordering(format!(
            "{op} on stream {} uses bytes {range:?} of {buffer:?}, but {what}",
            stream.0
        ))
    })
}

fn kv_error(
    op: &str,
    stream: StreamId,
    cache: &KvCache,
    layer: usize,
    violation: &Violation,
) -> BackendError {
    let what = match violation {
        Violation::NeverWritten(slot) => {
            let (block, offset) = (
                slot / cache.spec().block_tokens,
                slot % cache.spec().block_tokens,
            );
            format!(
                "block {block} offset {offset} was never appended; append keys and values before attention"
            )
        }
        other => describe(other, "token slot"),
    };
    BackendError::Ordering(format!(
        "{op} on stream {} uses KV layer {layer}, but {what}",
        stream.0
    ))
}

fn describe(violation: &Violation, unit: &str) -> String {
    match violation {
        Violation::WindowOpen => {
            "a host window is open; drop it before the op is enqueued".to_owned()
        }
        Violation::NeverWritten(position) => {
            format!("{unit} {position} was never written; upload or compute it first")
        }
        Violation::Unordered { op, how } => {
            let does = if *how == Use::Read { "reads" } else { "writes" };
            format!("{op} of another stream {does} there; record an event after it and wait for it")
        }
    }
}

impl Backend for CheckingBackend {
    fn capabilities(&self) -> Capabilities {
        let inner = self.inner.capabilities();
        Capabilities {
            name: "checking",
            description: format!("checking, over {}", inner.description),
            unified_memory: self.config.unified_memory,
            ..inner
        }
    }

    fn allocate_extent(&self, bytes: usize) -> Result<Extent, AllocateError> {
        Ok(Extent::new(Arc::new(CheckedExtent(
            self.inner.allocate_extent(bytes)?,
        ))))
    }

    fn carve(&self, extent: &Extent, range: Range<usize>) -> Buffer {
        let extent: &CheckedExtent = extent
            .downcast()
            .expect("the extent was made by another backend");
        let inner = self.inner.carve(&extent.0, range);
        Buffer::new(Arc::new(CheckedBuffer::poisoned(inner, &*self.inner)))
    }

    fn allocate(&self, bytes: usize) -> Result<Buffer, AllocateError> {
        let inner = self.inner.allocate(bytes)?;
        Ok(Buffer::new(Arc::new(CheckedBuffer::poisoned(
            inner,
            &*self.inner,
        ))))
    }

    fn allocate_kv(&self, spec: KvSpec) -> Result<KvCache, AllocateError> {
        Ok(KvCache::new(Arc::new(CheckedKv::new(
            self.inner.allocate_kv(spec)?,
        ))))
    }

    fn use_kv_blocks(&self, cache: &KvCache, blocks: usize) {
        self.inner
            .use_kv_blocks(&CheckedKv::of(cache).inner, blocks);
    }

    fn host_window(&self, buffer: &Buffer) -> Option<HostWindow> {
        if !self.config.unified_memory {
            return None;
        }
        let device = lock(&self.device);
        let checked = CheckedBuffer::of(buffer);
        {
            let ledger = checked.ledger();
            assert!(
                !ledger.window_open(),
                "a host window of {buffer:?} is already open; drop it first"
            );
            let pending = ledger.pending(device.clocks.host());
            assert!(
                pending.is_none(),
                "a host window of {buffer:?} is opened, but {} is not known to be done; ask is_done for a later event",
                pending.unwrap_or_default()
            );
        }
        let mut inner = self.inner.host_window(&checked.inner)?;
        inner.bytes_mut().fill(POISON);
        Some(Box::new(checked.window(inner)))
    }

    fn upload(
        &self,
        stream: StreamId,
        bytes: &[u8],
        into: &Buffer,
        offset: usize,
    ) -> Result<(), BackendError> {
        let uses = Uses::of_range(into, offset..offset + bytes.len(), Use::Write);
        let inner = CheckedBuffer::of(into).inner.clone();
        self.submit(
            stream,
            "upload",
            uses,
            Work::Upload {
                bytes: bytes.to_vec(),
                into: inner,
                offset,
            },
        )
    }

    fn enqueue(&self, stream: StreamId, op: Op) -> Result<(), BackendError> {
        let work = Work::Op(translate(op.clone()));
        self.submit(stream, op.name(), Uses::of_op(&op), work)
    }

    fn record(&self, stream: StreamId) -> Result<Event, BackendError> {
        Ok(lock(&self.device).record(stream))
    }

    fn wait(&self, stream: StreamId, event: Event) -> Result<(), BackendError> {
        lock(&self.device).wait(stream, event)
    }

    fn is_done(&self, event: Event) -> Result<bool, BackendError> {
        let done = lock(&self.device).observe(event)?;
        if !done {
            self.polled()?;
        }
        Ok(done)
    }

    fn read_back(
        &self,
        stream: StreamId,
        from: &Buffer,
        range: Range<usize>,
    ) -> Result<ReadBack, BackendError> {
        let into = Mailbox::default();
        let work = Work::ReadBack {
            from: CheckedBuffer::of(from).inner.clone(),
            range: range.clone(),
            into: Arc::clone(&into),
        };
        self.submit(
            stream,
            "read_back",
            Uses::of_range(from, range, Use::Read),
            work,
        )?;
        Ok(ReadBack {
            event: self.record(stream)?,
            inner: Box::new(into),
        })
    }

    fn take(&self, ticket: &mut ReadBack) -> Result<Option<Vec<u8>>, BackendError> {
        if !self.is_done(ticket.event)? {
            return Ok(None);
        }
        let mailbox: &Mailbox = ticket
            .inner
            .downcast_ref()
            .expect("the read-back was started by another backend");
        let bytes = lock(mailbox).take();
        let taken_twice = || {
            BackendError::Ordering(
                "a read-back is taken twice; keep the bytes of the first".to_owned(),
            )
        };
        bytes.map(Some).ok_or_else(taken_twice)
    }

    fn set_waker(&self, waker: Waker) {
        *lock(&self.waker) = Some(waker);
    }
}
