//! What goes into the scheduler and what comes out, as plain data.

use crate::api::{ClientId, PrefixCache, RequestId};
use crate::kv_cache::kv_position;
use odmoe_backend::KvPosition;
use std::sync::Arc;
use std::time::Instant;

/// Limits, each at least one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SchedulerConfig {
    /// Sequences that hold KV blocks at once.
    pub max_running: usize,
    /// Requests that may wait; preempted ones come on top.
    pub max_waiting: usize,
    /// Tokens of one prefill lane, over all its sequences.
    pub prefill_chunk_tokens: usize,
    /// Tokens in a KV block.
    pub kv_block_tokens: usize,
    /// KV blocks in all.
    pub kv_blocks: usize,
    /// Tokens of one sequence, prompt and answer.
    pub max_context_tokens: usize,
    /// Who finds what was computed for whom.
    pub prefix_cache: PrefixCache,
}

/// A request as it is queued.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewSequence {
    /// Its id, not known yet.
    pub id: RequestId,
    /// Whose it is.
    pub client: ClientId,
    /// Token ids.
    pub prompt: Vec<u32>,
    /// At most.
    pub max_new_tokens: u32,
    /// Whether all its positions must be computed, whatever is remembered: somebody wants what the layers make of each.
    pub computes_all: bool,
}

/// The two kinds of lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LaneKind {
    /// Chunks of prompts, and of preempted sequences that are computed again.
    Prefill,
    /// One token of each sequence that generates.
    Decode,
}

/// Consecutive tokens of one sequence in a lane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaneSpan {
    /// Whose.
    pub id: RequestId,
    /// Absolute position of the first token.
    pub first_position: usize,
    /// The tokens, at least one.
    pub tokens: Vec<u32>,
    /// The sequence's KV blocks in order of position; they cover at least this span.
    pub blocks: Arc<[u32]>,
    /// Whether the logits of the last token are wanted, to sample the next one.
    pub samples: bool,
}

impl LaneSpan {
    /// The position of the token that is sampled from this span: the one after its last. It is the same whether a
    /// token is sampled in decode or at the end of a recomputation.
    pub fn sample_position(&self) -> usize {
        self.first_position + self.tokens.len()
    }

    /// Where each token's key and value go.
    pub fn kv_positions(
        &self,
        block_tokens: usize,
    ) -> impl ExactSizeIterator<Item = KvPosition> + '_ {
        (0..self.tokens.len())
            .map(move |i| kv_position(&self.blocks, block_tokens, self.first_position + i))
    }
}

/// How many tokens of new requests were looked up among remembered prefixes, and how many were found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PrefixLookups {
    /// Tokens of their prompts.
    pub queried: usize,
    /// Of them, those that are not computed again.
    pub found: usize,
}

/// One lane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LanePlan {
    /// Which.
    pub kind: LaneKind,
    /// At least one, oldest request first, no request twice.
    pub spans: Vec<LaneSpan>,
    /// Sequences that lost their blocks since the last plan. For counting: they are in the queue again by themselves.
    pub preempted: Vec<RequestId>,
    /// Of requests admitted since the last plan, each counted once.
    pub lookups: PrefixLookups,
}

impl LanePlan {
    /// Tokens over all spans.
    pub fn tokens(&self) -> usize {
        self.spans.iter().map(|span| span.tokens.len()).sum()
    }
}

/// What [`super::Scheduler::remove`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removal {
    /// It is gone and so are its blocks.
    Freed,
    /// It is in this lane: it goes when the lane ends. Its spans still run but nothing comes of them.
    InLane(LaneKind),
    /// No such request.
    Unknown,
}

/// For the figures of a request that ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SequenceTimings {
    /// When it was submitted.
    pub submitted_at: Instant,
    /// When it first was in a plan.
    pub first_planned_at: Option<Instant>,
    /// When the lane that sampled its first token was done.
    pub first_token_at: Option<Instant>,
    /// How often it was preempted.
    pub preemptions: u32,
    /// Tokens of its prompt that were remembered when it was first admitted.
    pub cached_tokens: usize,
}
