//! Which sequences compute which tokens next. A pure state machine: no clock, file, thread or randomness.
//!
//! The engine asks for a lane ([`Scheduler::plan`]), runs it, and reports what came of it ([`Scheduler::complete`]
//! or [`Scheduler::abort`]). At most one lane of each kind is out, and a sequence is in at most one of them.
//!
//! Clients share what is admitted (`shares`), each client's requests in order of age. A request gets all blocks of its
//! tokens at once, with one to spare; later blocks come one by one, and where none is left the youngest sequence outside
//! lanes gives its up and is computed again when there is room, before anything new is admitted. Among what runs, order
//! is by age throughout: as a sequence takes blocks only from younger ones, the oldest always advances and nobody
//! starves.
//!
//! What was computed is remembered by the tokens that lead to it, as long as its blocks are not needed: a request that
//! begins with the same tokens, and a preempted one when it comes back, takes the blocks and computes the rest. Its
//! last token is always computed, for the logits.
//!
//! Work per plan is bounded by sequences that run, tokens planned, blocks that change hands, clients that wait, and the
//! blocks of one request that does not fit yet.

mod admission;
mod invariants;
mod kv_share;
mod lane;
mod plan;
mod preemption;
mod sequence;
mod shares;
#[cfg(test)]
mod tests;

pub use plan::{
    LaneKind, LanePlan, LaneSpan, NewSequence, PrefixLookups, Removal, SchedulerConfig,
    SequenceTimings,
};

use crate::api::{RequestId, SubmitError};
use crate::kv_cache::BlockPool;
use lane::OutLanes;
use sequence::{Age, Sequence};
use shares::Shares;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

/// See the module.
#[derive(Debug)]
pub struct Scheduler {
    config: SchedulerConfig,
    pool: BlockPool,
    next_age: u64,
    ages: BTreeMap<RequestId, Age>,
    /// Without blocks.
    waiting: BTreeMap<Age, Sequence>,
    /// Those of them that were preempted: they come before all that never ran.
    put_back: BTreeSet<Age>,
    shares: Shares,
    /// With blocks.
    running: BTreeMap<Age, Sequence>,
    lanes: OutLanes,
    /// Not yet told in a plan.
    preempted: Vec<RequestId>,
    /// How many KV blocks there are to be.
    kv_target: usize,
    /// Not yet told in a plan.
    lookups: PrefixLookups,
}

impl Scheduler {
    /// An empty one. Every figure of the configuration is at least one.
    pub fn new(config: SchedulerConfig) -> Self {
        config.check();
        Self {
            config,
            pool: BlockPool::new(config.kv_blocks),
            next_age: 0,
            ages: BTreeMap::new(),
            waiting: BTreeMap::new(),
            put_back: BTreeSet::new(),
            shares: Shares::default(),
            running: BTreeMap::new(),
            lanes: OutLanes::default(),
            preempted: Vec::new(),
            kv_target: config.kv_blocks,
            lookups: PrefixLookups::default(),
        }
    }

    /// Queues a request. An id that is still known is a bug.
    pub fn submit(&mut self, new: NewSequence, now: Instant) -> Result<(), SubmitError> {
        let (id, client) = (new.id, new.client);
        self.config
            .check_request(new.prompt.len(), new.max_new_tokens, self.waiting.len())?;
        let age = Age(self.next_age);
        self.next_age += 1;
        assert!(
            self.ages.insert(id, age).is_none(),
            "{id:?} was submitted twice"
        );
        self.shares.enter(client, age);
        let scope = self.config.prefix_cache.scope(client);
        self.waiting.insert(age, Sequence::new(new, scope, now));
        self.fit_kv();
        Ok(())
    }

    /// The next lane of a kind. None if there is nothing to do or that lane is out.
    ///
    /// A sequence that has its `max_new_tokens` must have been removed before: planning it is a bug.
    pub fn plan(&mut self, kind: LaneKind, now: Instant) -> Option<LanePlan> {
        if self.lanes.is_out(kind) {
            return None;
        }
        // Whichever lane ended, its sequences can be preempted now: an older one may have waited for just that.
        self.grow_decoding();
        let spans = match kind {
            LaneKind::Prefill => {
                self.admit();
                self.prefill_spans(now)
            }
            LaneKind::Decode => self.decode_spans(now),
        };
        if spans.is_empty() {
            return None;
        }
        self.lanes
            .send(kind, spans.iter().map(|span| (self.ages[&span.id], span)));
        Some(LanePlan {
            kind,
            spans,
            preempted: std::mem::take(&mut self.preempted),
            lookups: std::mem::take(&mut self.lookups),
        })
    }

    /// The lane is done: its positions are computed, and `sampled` holds one token, in any order, for each span that
    /// samples (those of removed sequences may be left out and are ignored). Removed sequences are freed.
    pub fn complete(&mut self, kind: LaneKind, sampled: &[(RequestId, u32)], now: Instant) {
        let mut tokens: BTreeMap<RequestId, u32> = sampled.iter().copied().collect();
        assert_eq!(
            tokens.len(),
            sampled.len(),
            "a request was sampled twice in one lane"
        );
        let block_tokens = self.config.kv_block_tokens;
        for flight in self.lanes.land(kind) {
            if !self.leave_lane(flight.age) {
                continue;
            }
            let sequence = self.running.get_mut(&flight.age).expect("it has not left");
            let token = flight
                .samples
                .then(|| tokens.remove(&sequence.id).expect("a span was not sampled"));
            sequence.advance(flight.tokens, token, now);
            sequence.remember(block_tokens, &mut self.pool);
            let client = sequence.client;
            if token.is_some() {
                self.shares.generated(client);
            }
        }
        tokens.retain(|id, _| self.ages.contains_key(id));
        assert!(
            tokens.is_empty(),
            "sampled without having been asked for: {tokens:?}"
        );
    }

    /// The lane was dropped: nothing advanced, the same positions will be planned again. The blocks of removed
    /// sequences are free now: ops of the lane that are still pending must come before those of any later lane.
    pub fn abort(&mut self, kind: LaneKind) {
        for flight in self.lanes.land(kind) {
            self.leave_lane(flight.age);
        }
    }

    /// Ends a request: finished, cancelled or failed. Take [`Scheduler::timings`] before.
    pub fn remove(&mut self, id: RequestId) -> Removal {
        let Some(&age) = self.ages.get(&id) else {
            return Removal::Unknown;
        };
        if let Some(sequence) = self.running.get_mut(&age)
            && let Some(kind) = sequence.lane
        {
            sequence.removed = true;
            return Removal::InLane(kind);
        }
        if let Some(sequence) = self.waiting.remove(&age) {
            self.put_back.remove(&age);
            self.shares.leave(sequence.client, age);
            self.ages.remove(&id);
            self.fit_kv();
        } else {
            self.free(age);
        }
        Removal::Freed
    }

    /// Whether the request is waiting or running. False from [`Scheduler::remove`] on.
    pub fn contains(&self, id: RequestId) -> bool {
        self.find(id).is_some()
    }

    /// Nothing waits, runs or is in a lane.
    pub fn is_idle(&self) -> bool {
        self.ages.is_empty()
    }

    /// Sequences that hold blocks, among them removed ones whose lane is out.
    pub fn running(&self) -> usize {
        self.running.len()
    }

    /// Requests that wait, preempted ones among them.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// KV blocks that sequences hold.
    pub fn blocks_used(&self) -> usize {
        self.pool.used()
    }

    /// KV blocks that no sequence holds and that remember a prefix.
    pub fn blocks_remembered(&self) -> usize {
        self.pool.remembered()
    }

    /// Prompt and generated tokens. Panics unless [`Scheduler::contains`].
    pub fn tokens(&self, id: RequestId) -> &[u32] {
        &self.find(id).expect("an unknown or removed request").tokens
    }

    /// When what happened. Panics unless [`Scheduler::contains`].
    pub fn timings(&self, id: RequestId) -> SequenceTimings {
        self.find(id)
            .expect("an unknown or removed request")
            .timings
    }

    fn find(&self, id: RequestId) -> Option<&Sequence> {
        let age = self.ages.get(&id)?;
        let sequence = self.running.get(age).or_else(|| self.waiting.get(age));
        sequence.filter(|sequence| !sequence.removed)
    }

    /// The lane of a sequence ended. False if it was removed meanwhile; then it is gone now.
    fn leave_lane(&mut self, age: Age) -> bool {
        let sequence = self
            .running
            .get_mut(&age)
            .expect("what is in a lane is running");
        sequence.lane = None;
        let stays = !sequence.removed;
        if !stays {
            self.free(age);
        }
        stays
    }

    fn free(&mut self, age: Age) {
        let mut sequence = self
            .running
            .remove(&age)
            .expect("only what is running holds blocks");
        sequence.table.release(&mut self.pool);
        self.shares.leave(sequence.client, age);
        self.ages.remove(&sequence.id);
        self.fit_kv();
    }
}
