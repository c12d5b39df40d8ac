//! Who may enter the queue, and who leaves it for KV blocks.

use super::{Scheduler, SchedulerConfig};
use crate::api::{ClientId, PrefixCache, SubmitError};
use crate::kv_cache::PrefixScope;

impl SchedulerConfig {
    pub(super) fn check(&self) {
        let Self {
            max_running,
            max_waiting,
            prefill_chunk_tokens,
            kv_block_tokens,
            kv_blocks,
            max_context_tokens,
            prefix_cache: _,
        } = *self;
        let figures = [
            max_running,
            max_waiting,
            prefill_chunk_tokens,
            kv_block_tokens,
            kv_blocks,
            max_context_tokens,
        ];
        assert!(
            figures.iter().all(|&figure| figure > 0),
            "every limit is at least one: {self:?}"
        );
    }

    /// The longest sequence, prompt and answer, that can ever be computed.
    pub fn longest_sequence_tokens(&self) -> usize {
        self.max_context_tokens
            .min(self.kv_blocks.saturating_mul(self.kv_block_tokens))
    }

    /// Whether a request may enter a queue of `waiting`.
    pub(super) fn check_request(
        &self,
        prompt_tokens: usize,
        max_new_tokens: u32,
        waiting: usize,
    ) -> Result<(), SubmitError> {
        let (new, limit) = (max_new_tokens as usize, self.longest_sequence_tokens());
        if prompt_tokens == 0 {
            return Err(SubmitError::BadPrompt(
                "the prompt is empty: send at least one token".into(),
            ));
        }
        if new == 0 {
            return Err(SubmitError::BadPrompt(
                "no new tokens are asked for: ask for at least one".into(),
            ));
        }
        if prompt_tokens.saturating_add(new) > limit {
            return Err(SubmitError::TooLong {
                prompt: prompt_tokens,
                new,
                limit,
            });
        }
        if waiting >= self.max_waiting {
            return Err(SubmitError::QueueFull {
                waiting,
                limit: self.max_waiting,
            });
        }
        Ok(())
    }
}

impl PrefixCache {
    /// Where a client's prefixes are remembered.
    pub(super) fn scope(self, client: ClientId) -> Option<PrefixScope> {
        match self {
            Self::Off => None,
            Self::PerClient => Some(PrefixScope(client.0)),
            Self::Shared => Some(PrefixScope::default()),
        }
    }
}

impl Scheduler {
    /// Admits from the head of the queue, never past it, until the next prefill lane is full. What was preempted comes
    /// first, then whose client was served least.
    ///
    /// A request gets the blocks of all its tokens at once, so that prefill never stops for blocks. One more must be
    /// free, or what was admitted last would be preempted next; not where the request never needs it, or one that
    /// fills the whole cache would wait for ever. Blocks of a remembered prefix that others hold need not be free.
    pub(super) fn admit(&mut self) {
        let block_tokens = self.config.kv_block_tokens;
        let mut pending_tokens: usize = self
            .running
            .values()
            .map(|sequence| sequence.prefill_tokens())
            .sum();
        while pending_tokens < self.config.prefill_chunk_tokens
            && self.running.len() < self.config.max_running
            && self.pool.free() > 0
            && let Some(age) = self
                .put_back
                .first()
                .copied()
                .or_else(|| self.shares.next())
        {
            let sequence = &self.waiting[&age];
            let found = sequence.remembered_prefix(block_tokens, &self.pool);
            let prefix = found.as_deref().unwrap_or_default();
            let held = prefix.iter().filter(|&&block| self.pool.owners(block) > 0);
            let blocks = sequence.tokens.len().div_ceil(block_tokens);
            let most_blocks = sequence.most_positions().div_ceil(block_tokens);
            if self.pool.free() + held.count() < most_blocks.min(blocks + 1) {
                break;
            }
            let mut sequence = self.waiting.remove(&age).expect("looked at just now");
            let is_new = !self.put_back.remove(&age);
            let is_looked_up = found.is_some();
            sequence.begin(
                found.unwrap_or_default(),
                blocks,
                block_tokens,
                &mut self.pool,
            );
            if is_new {
                let (prompt_tokens, cached) = (sequence.tokens.len(), sequence.computed);
                sequence.timings.cached_tokens = cached;
                self.lookups.queried += if is_looked_up { prompt_tokens } else { 0 };
                self.lookups.found += cached;
                self.shares
                    .admit(sequence.client, age, prompt_tokens - cached);
            }
            pending_tokens += sequence.prefill_tokens();
            self.running.insert(age, sequence);
        }
    }
}
