//! One request as the scheduler sees it.

use super::plan::{LaneKind, LaneSpan, SequenceTimings};
use crate::api::{ClientId, RequestId};
use crate::kv_cache::{BlockPool, BlockTable};
use std::time::Instant;

/// The order in which requests were submitted: a smaller age is an older request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Age(pub u64);

/// One request. Positions `0 .. computed` have their keys and values in the blocks of `table`.
#[derive(Debug)]
pub(super) struct Sequence {
    pub id: RequestId,
    /// Whose.
    pub client: ClientId,
    /// Prompt and generated.
    pub tokens: Vec<u32>,
    prompt_tokens: usize,
    max_new_tokens: usize,
    pub computed: usize,
    pub table: BlockTable,
    /// Prefill until all tokens are computed and the next one is sampled, then decode.
    pub needs: LaneKind,
    /// The lane that it is in.
    pub lane: Option<LaneKind>,
    /// Ended while in a lane: goes when the lane ends.
    pub removed: bool,
    pub timings: SequenceTimings,
}

impl Sequence {
    pub fn new(
        id: RequestId,
        client: ClientId,
        prompt: Vec<u32>,
        max_new_tokens: usize,
        now: Instant,
    ) -> Self {
        Self {
            id,
            client,
            prompt_tokens: prompt.len(),
            tokens: prompt,
            max_new_tokens,
            computed: 0,
            table: BlockTable::default(),
            needs: LaneKind::Prefill,
            lane: None,
            removed: false,
            timings: SequenceTimings {
                submitted_at: now,
                first_planned_at: None,
                first_token_at: None,
                preemptions: 0,
            },
        }
    }

    pub fn generated_tokens(&self) -> usize {
        self.tokens.len() - self.prompt_tokens
    }

    /// Positions that are computed if all new tokens are generated. The last one is never fed back.
    pub fn most_positions(&self) -> usize {
        self.prompt_tokens + self.max_new_tokens - 1
    }

    /// Whether a lane of this kind may take it now.
    pub fn is_ready(&self, kind: LaneKind) -> bool {
        let ready = self.lane.is_none() && self.needs == kind;
        assert!(
            !ready || self.generated_tokens() < self.max_new_tokens,
            "{:?} has all its {} new tokens: remove it before the next plan",
            self.id,
            self.max_new_tokens
        );
        ready
    }

    /// Whether its blocks hold the next position.
    pub fn has_room(&self, block_tokens: usize) -> bool {
        self.computed < self.table.blocks().len() * block_tokens
    }

    /// Tokens that a prefill lane has still to compute.
    pub fn prefill_tokens(&self) -> usize {
        match self.needs {
            LaneKind::Prefill => self.tokens.len() - self.computed,
            LaneKind::Decode => 0,
        }
    }

    /// Puts the next tokens, at most `most`, into a lane.
    pub fn enter(&mut self, kind: LaneKind, most: usize, now: Instant) -> LaneSpan {
        debug_assert!(self.is_ready(kind) && most > 0);
        let end = self.tokens.len().min(self.computed + most);
        self.lane = Some(kind);
        self.timings.first_planned_at.get_or_insert(now);
        LaneSpan {
            id: self.id,
            first_position: self.computed,
            tokens: self.tokens[self.computed..end].to_vec(),
            blocks: self.table.share(),
            samples: end == self.tokens.len(),
        }
    }

    /// The lane computed its next `tokens` tokens and sampled this one.
    pub fn advance(&mut self, tokens: usize, sampled: Option<u32>, now: Instant) {
        self.computed += tokens;
        if let Some(token) = sampled {
            assert_eq!(
                self.computed,
                self.tokens.len(),
                "sampled before its last token was computed"
            );
            self.tokens.push(token);
            self.needs = LaneKind::Decode;
            self.timings.first_token_at.get_or_insert(now);
        }
    }

    /// Forgets what was computed. The tokens stay: all of them are prefilled again.
    pub fn preempt(&mut self, pool: &mut BlockPool) {
        assert!(self.lane.is_none(), "{:?} was preempted in a lane", self.id);
        self.table.release(pool);
        self.computed = 0;
        self.needs = LaneKind::Prefill;
        self.timings.preemptions += 1;
    }
}
