//! Jobs that wait for their turn: the most urgent first, then the oldest, and never more of them at storage at once
//! than were found to pay, so that what comes later and is more urgent waits for little.

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
    closed: bool,
}

/// See the module.
pub(super) struct Queue {
    at_once: usize,
    state: Mutex<State>,
    changed: Condvar,
}

/// The right to use storage. Dropping it lets the next job begin.
pub(super) struct Turn<'a>(&'a Queue);

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
            if state.turns < self.at_once
                && let Some((_, job)) = state.jobs.pop_first()
            {
                if let Job::Read { read, .. } = &job {
                    state.places.remove(read);
                }
                state.turns += 1;
                return Some((job, Turn(self)));
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
        self.0.lock().turns -= 1;
        self.0.changed.notify_one();
    }
}
