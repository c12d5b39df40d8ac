//! Which sequences compute which tokens next. A pure state machine: no clock, file, thread or randomness.
//!
//! The engine asks for a lane ([`Scheduler::plan`]), runs it, and reports what came of it ([`Scheduler::complete`]
//! or [`Scheduler::abort`]). At most one lane of each kind is out, and a sequence is in at most one of them.

mod plan;

pub use plan::{LaneKind, LanePlan, LaneSpan, Removal, SchedulerConfig, SequenceTimings};

use crate::api::{RequestId, SubmitError};
use std::time::Instant;

/// See the module.
#[derive(Debug)]
pub struct Scheduler {}

#[allow(unused_variables)]
impl Scheduler {
    /// An empty one. Every figure of the configuration is at least one.
    pub fn new(config: SchedulerConfig) -> Self {
        todo!()
    }

    /// Queues a request. Ids are not used twice while the first lives.
    pub fn submit(
        &mut self,
        id: RequestId,
        prompt: Vec<u32>,
        max_new_tokens: u32,
        now: Instant,
    ) -> Result<(), SubmitError> {
        todo!()
    }

    /// The next lane of a kind. None if there is nothing to do or that lane is out.
    ///
    /// A sequence that has its `max_new_tokens` must have been removed before: planning it is a bug.
    pub fn plan(&mut self, kind: LaneKind, now: Instant) -> Option<LanePlan> {
        todo!()
    }

    /// The lane is done: its positions are computed, and `sampled` holds one token, in any order, for each span that
    /// samples (those of removed sequences may be left out and are ignored). Removed sequences are freed.
    pub fn complete(&mut self, kind: LaneKind, sampled: &[(RequestId, u32)], now: Instant) {
        todo!()
    }

    /// The lane was dropped: nothing advanced, the same positions will be planned again. No op of it may still be
    /// pending on the backend, because the blocks of removed sequences are freed.
    pub fn abort(&mut self, kind: LaneKind) {
        todo!()
    }

    /// Ends a request: finished, cancelled or failed. Take [`Scheduler::timings`] before.
    pub fn remove(&mut self, id: RequestId) -> Removal {
        todo!()
    }

    /// Whether the request is waiting or running. False from [`Scheduler::remove`] on.
    pub fn contains(&self, id: RequestId) -> bool {
        todo!()
    }

    /// Nothing waits, runs or is in a lane.
    pub fn is_idle(&self) -> bool {
        todo!()
    }

    /// Sequences that hold blocks.
    pub fn running(&self) -> usize {
        todo!()
    }

    /// Requests that wait, preempted ones among them.
    pub fn waiting(&self) -> usize {
        todo!()
    }

    /// KV blocks that sequences hold.
    pub fn blocks_used(&self) -> usize {
        todo!()
    }

    /// Prompt and generated tokens. Panics unless [`Scheduler::contains`].
    pub fn tokens(&self, id: RequestId) -> &[u32] {
        todo!()
    }

    /// When what happened. Panics unless [`Scheduler::contains`].
    pub fn timings(&self, id: RequestId) -> SequenceTimings {
        todo!()
    }

    /// Panics where the books do not agree. Walks everything: for tests.
    pub fn check_invariants(&self) {
        todo!()
    }
}
