//! One request as the scheduler sees it.

use super::plan::{LaneKind, LaneSpan, NewSequence, SequenceTimings};
use crate::api::{ClientId, RequestId};
use crate::kv_cache::{BlockPool, BlockTable, PrefixScope};
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
    /// Where its prefixes are remembered, if they are.
    scope: Option<PrefixScope>,
    computes_all: bool,
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
    pub fn new(new: NewSequence, scope: Option<PrefixScope>, now: Instant) -> Self {
        Self {
            id: new.id,
            client: new.client,
            prompt_tokens: new.prompt.len(),
            tokens: new.prompt,
            max_new_tokens: new.max_new_tokens as usize,
            scope,
            computes_all: new.computes_all,
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
                cached_tokens: 0,
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

    /// The blocks of its longest remembered prefix, short of its last token: the logits of that are wanted. None where
    /// nothing is looked up.
    pub fn remembered_prefix(&self, block_tokens: usize, pool: &BlockPool) -> Option<Vec<u32>> {
        let scope = self.scope.filter(|_| !self.computes_all)?;
        let tokens = &self.tokens[..self.tokens.len() - 1];
        Some(pool.longest_prefix(scope, tokens, block_tokens).collect())
    }

    /// Takes the blocks of a prefix, which is not computed then, and grows to `blocks`.
    pub fn begin(
        &mut self,
        prefix: Vec<u32>,
        blocks: usize,
        block_tokens: usize,
        pool: &mut BlockPool,
    ) {
        self.computed = prefix.len() * block_tokens;
        self.table.begin_with(prefix, pool);
        let grown = self.table.grow_to(blocks, pool);
        assert!(grown, "free blocks were counted wrongly");
    }

    /// Has all full blocks remembered. Not while it is in a lane.
    pub fn remember(&mut self, block_tokens: usize, pool: &mut BlockPool) {
        assert!(self.lane.is_none(), "{:?} is in a lane", self.id);
        if let Some(scope) = self.scope {
            let computed = &self.tokens[..self.computed];
            self.table.remember(scope, computed, block_tokens, pool);
        }
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

    /// Gives its blocks up. The tokens stay: they are prefilled again, but for what is still remembered then.
    pub fn preempt(&mut self, pool: &mut BlockPool) {
        assert!(self.lane.is_none(), "{:?} was preempted in a lane", self.id);
        self.table.release(pool);
        self.computed = 0;
        self.needs = LaneKind::Prefill;
        self.timings.preemptions += 1;
    }
}
