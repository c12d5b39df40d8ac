//! The simulated device: queues of work that are carried out late.

use crate::clock::{Clocks, VectorClock};
use crate::memory::lock;
use odmoe_backend::{Backend, BackendError, Buffer, Event, Op, StreamId};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Range;
use std::sync::{Arc, Mutex};

/// Where a read-back's bytes arrive.
pub type Mailbox = Arc<Mutex<Option<Vec<u8>>>>;

/// One item of a stream, over buffers of the inner backend.
pub enum Work {
    /// An op.
    Op(Op),
    /// A copy from the host.
    Upload {
        bytes: Vec<u8>,
        into: Buffer,
        offset: usize,
    },
    /// A copy to the host.
    ReadBack {
        from: Buffer,
        range: Range<usize>,
        into: Mailbox,
    },
    /// An event is reached.
    Reach(Event),
    /// Goes on when an event was reached.
    Wait(Event),
}

struct EventState {
    /// What comes before it.
    clock: VectorClock,
    reached: bool,
}

/// Queues, events and clocks.
pub struct Device {
    /// Who comes after whom.
    pub clocks: Clocks,
    queues: BTreeMap<u32, VecDeque<Work>>,
    /// Events that the host has not yet seen to be reached.
    events: HashMap<Event, EventState>,
    next_event: u64,
    random: u64,
}

impl Device {
    /// An idle device. The seed settles in which order streams go on.
    pub fn new(seed: u64) -> Self {
        // An xorshift state is never zero.
        let random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        Self {
            clocks: Clocks::default(),
            queues: BTreeMap::new(),
            events: HashMap::new(),
            next_event: 0,
            random,
        }
    }

    /// A number below `bound`, by xorshift.
    pub fn random_below(&mut self, bound: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 11) % bound
    }

    /// Puts work at the end of a stream.
    pub fn push(&mut self, stream: StreamId, work: Work) {
        self.queues.entry(stream.0).or_default().push_back(work);
    }

    /// Puts an event at the end of a stream.
    pub fn record(&mut self, stream: StreamId) -> Event {
        let event = Event(self.next_event);
        self.next_event += 1;
        let clock = self.clocks.before_next(stream);
        self.events.insert(
            event,
            EventState {
                clock,
                reached: false,
            },
        );
        self.push(stream, Work::Reach(event));
        event
    }

    /// Makes a stream wait for an event.
    pub fn wait(&mut self, stream: StreamId, event: Event) -> Result<(), BackendError> {
        self.check_known(event)?;
        if let Some(state) = self.events.get(&event) {
            self.clocks.wait(stream, &state.clock);
            self.push(stream, Work::Wait(event));
        }
        Ok(())
    }

    /// Whether an event was reached; if so, the host now knows that all before it is done.
    pub fn observe(&mut self, event: Event) -> Result<bool, BackendError> {
        self.check_known(event)?;
        let Some(state) = self.events.get(&event) else {
            return Ok(true);
        };
        if !state.reached {
            return Ok(false);
        }
        self.clocks.observe(&state.clock);
        self.events.remove(&event);
        Ok(true)
    }

    fn check_known(&self, event: Event) -> Result<(), BackendError> {
        if event.0 < self.next_event {
            return Ok(());
        }
        Err(BackendError::Ordering(format!(
            "{event:?} was never recorded here; wait only for recorded events"
        )))
    }

    fn is_reached(&self, event: Event) -> bool {
        self.events.get(&event).is_none_or(|state| state.reached)
    }

    /// Carries out the first item of one stream, chosen by the seed among those that can go on. Returns None when
    /// nothing is left, else whether an event was reached.
    pub fn step(&mut self, inner: &dyn Backend) -> Result<Option<bool>, BackendError> {
        let can_go = |queue: &VecDeque<Work>| match queue.front() {
            None => false,
            Some(Work::Wait(event)) => self.is_reached(*event),
            Some(_) => true,
        };
        let ready: Vec<u32> = self
            .queues
            .iter()
            .filter(|(_, queue)| can_go(queue))
            .map(|(&id, _)| id)
            .collect();
        if ready.is_empty() {
            return Ok(None);
        }
        let chosen = ready[self.random_below(ready.len() as u64) as usize];
        let work = self
            .queues
            .get_mut(&chosen)
            .and_then(VecDeque::pop_front)
            .expect("a ready queue is not empty");
        self.carry_out(work, inner).map(Some)
    }

    fn carry_out(&mut self, work: Work, inner: &dyn Backend) -> Result<bool, BackendError> {
        match work {
            Work::Op(op) => inner.enqueue(StreamId::COMPUTE, op)?,
            Work::Upload {
                bytes,
                into,
                offset,
            } => inner.upload(StreamId::COMPUTE, &bytes, &into, offset)?,
            Work::ReadBack { from, range, into } => {
                let mut ticket = inner.read_back(StreamId::COMPUTE, &from, range)?;
                let bytes = loop {
                    match inner.take(&mut ticket)? {
                        Some(bytes) => break bytes,
                        None => std::thread::yield_now(),
                    }
                };
                *lock(&into) = Some(bytes);
            }
            Work::Reach(event) => {
                // Also the inner backend may complete late: an event here means that it has.
                let done = inner.record(StreamId::COMPUTE)?;
                while !inner.is_done(done)? {
                    std::thread::yield_now();
                }
                if let Some(state) = self.events.get_mut(&event) {
                    state.reached = true;
                }
                return Ok(true);
            }
            Work::Wait(_) => {}
        }
        Ok(false)
    }
}
