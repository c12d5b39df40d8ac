//! Jobs that wait for their turn: the most urgent first, then the oldest, and never more of them at storage at once
//! than were found to pay, so that what comes later and is more urgent waits for little. A prefetch begins only beside
//! other prefetches: it would take of a demand's bandwidth.

use super::{Job, Target};
use crate::io::HostSlot;
use crate::residency::{Priority, ReadId};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Condvar, Mutex, MutexGuard};

/// The most urgent first, then the oldest.
type Place = (Priority, u64);

#[derive(Default)]
struct State {
    jobs: BTreeMap<Place, Job>,
    places: HashMap<ReadId, Place>,
    last: u64,
    /// Jobs at storage.
    turns: usize,
    /// Those of them that somebody waits for.
    demands: usize,
    closed: bool,
}

/// See the module.
pub(super) struct Queue {
    at_once: usize,
    state: Mutex<State>,
    changed: Condvar,
}

/// The right to use storage. Dropping it lets the next job begin.
pub(super) struct Turn<'a> {
    queue: &'a Queue,
    is_demand: bool,
}

impl State {
    /// The most urgent job, if it may begin beside those at storage.
    fn pop(&mut self, at_once: usize) -> Option<(Priority, Job)> {
        let (&(priority, _), _) = self.jobs.first_key_value()?;
        let may_begin = priority != Priority::Prefetch || self.demands == 0;
        if self.turns == at_once || !may_begin {
            return None;
        }
        let (_, job) = self.jobs.pop_first().expect("seen just now");
        if let Job::Read { read, .. } = &job {
            self.places.remove(read);
        }
        Some((priority, job))
    }
}

impl Queue {
    /// A queue that lets `at_once` jobs use storage at once.
    pub fn new(at_once: usize) -> Self {
        Self {
            at_once,
            state: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .expect("no reader panics while it holds the queue")
    }

    /// The next job, or None once the queue is closed.
    pub fn next(&self) -> Option<(Job, Turn<'_>)> {
        let mut state = self.lock();
        loop {
            if state.closed {
                return None;
            }
            if let Some((priority, job)) = state.pop(self.at_once) {
                let is_demand = priority != Priority::Prefetch;
                state.turns += 1;
                state.demands += usize::from(is_demand);
                let queue = self;
                // The end of one demand may let several prefetches begin, and wakes one reader.
                if !state.jobs.is_empty() {
                    self.changed.notify_one();
                }
                return Some((job, Turn { queue, is_demand }));
            }
            state = self
                .changed
                .wait(state)
                .expect("no reader panics while it holds the queue");
        }
    }

    pub fn submit(&self, priority: Priority, job: Job) {
        let mut state = self.lock();
        state.last += 1;
        let place = (priority, state.last);
        if let Job::Read { read, .. } = &job {
            state.places.insert(*read, place);
        }
        state.jobs.insert(place, job);
        drop(state);
        self.changed.notify_one();
    }

    /// Moves a queued read; void where a reader has it.
    pub fn reprioritise(&self, read: ReadId, priority: Priority) {
        let mut state = self.lock();
        let Some(place) = state.places.get(&read).copied() else {
            return;
        };
        let job = state.jobs.remove(&place).expect("queued reads have a job");
        let place = (priority, place.1);
        state.places.insert(read, place);
        state.jobs.insert(place, job);
        drop(state);
        // As a demand it may begin beside others.
        self.changed.notify_one();
    }

    /// Takes a queued read back with its target, unless a reader has it.
    pub fn cancel(&self, read: ReadId) -> Option<Option<HostSlot>> {
        let mut state = self.lock();
        let place = state.places.remove(&read)?;
        match state.jobs.remove(&place).expect("queued reads have a job") {
            Job::Read { target, .. } => Some(Target::finish(target)),
            Job::Probe { .. } => unreachable!("probes have no read id"),
        }
    }

    /// Lets go of all jobs and of those who wait for one.
    pub fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.jobs.clear();
        state.places.clear();
        drop(state);
        self.changed.notify_all();
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut state = self.queue.lock();
        state.turns -= 1;
        state.demands -= usize::from(self.is_demand);
        drop(state);
        self.queue.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::allocate_slots;
    use odmoe_formats::ExpertKey;
    use std::time::Duration;

    #[test]
    fn a_prefetch_begins_beside_no_demand() {
        let queue = Queue::new(2);
        let submit = |priority| {
            let key = ExpertKey::routed(0, 0);
            queue.submit(priority, Job::Probe { key });
        };
        let may_begin = || queue.lock().pop(2).map(|(priority, _)| priority);
        submit(Priority::Prefetch);
        submit(Priority::Decode);
        let (_, demand) = queue.next().expect("open");
        assert_eq!(may_begin(), None, "a demand is at storage");
        submit(Priority::Prefill);
        let (_, other) = queue.next().expect("open");
        drop(demand);
        assert_eq!(may_begin(), None, "the other demand still is");
        drop(other);
        let (_, prefetch) = queue.next().expect("open");
        submit(Priority::Prefetch);
        assert_eq!(may_begin(), Some(Priority::Prefetch), "beside another");
        drop(prefetch);
    }

    /// A demand that hangs at storage must not hold up another that joins a queued prefetch.
    #[test]
    fn a_reader_that_waits_is_told_of_a_prefetch_that_is_wanted_now() {
        let queue = Queue::new(2);
        queue.submit(
            Priority::Decode,
            Job::Probe {
                key: ExpertKey::routed(0, 0),
            },
        );
        let (_, _hangs) = queue.next().expect("open");
        let slot = allocate_slots(1, 4096).unwrap().remove(0);
        let (read, key, target) = (ReadId(1), ExpertKey::routed(0, 1), Target::Host(slot));
        queue.submit(Priority::Prefetch, Job::Read { read, key, target });
        let (began, begins) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                if let Some((Job::Read { read, .. }, _)) = queue.next() {
                    began.send(read).expect("somebody waits");
                }
            });
            // Once it has looked; were it later, it would find the demand by itself.
            std::thread::sleep(Duration::from_millis(50));
            queue.reprioritise(read, Priority::Decode);
            let told = begins.recv_timeout(Duration::from_secs(30));
            queue.close();
            assert_eq!(told, Ok(read));
        });
    }
}
