//! What the engine keeps of an accepted request beside the scheduler's books.

use crate::api::{
    ConstraintError, FinishReason, RequestTimings, TokenConstraint, TokenEvent, TokenMask,
    TokenSink,
};
use crate::sampler::{Sampled, SequenceSampler};
use crate::scheduler::SequenceTimings;
use crate::step_loop::inbox::Submission;
use std::time::{Duration, Instant};

/// A request that has not ended. Preemption does not touch it: its sampler goes on where it was, and a token that
/// was emitted is never sampled again.
pub struct Sequence {
    sink: Box<dyn TokenSink>,
    sampler: SequenceSampler,
    /// What is left of an answer that is scored.
    continuation: std::vec::IntoIter<u32>,
    constraint: Option<Constrained>,
    logprobs: Option<u32>,
    stop_token_ids: Vec<u32>,
    tokens_left: u32,
    /// Time in which it waited for experts and nothing else ran.
    pub expert_stall: Duration,
}

/// What the next tokens may be.
struct Constrained {
    constraint: Box<dyn TokenConstraint>,
    mask: TokenMask,
    is_complete: bool,
}

impl Sequence {
    /// From a request whose prompt the scheduler has.
    pub fn new(submission: Submission, vocab: usize) -> Self {
        let Submission {
            request,
            continuation,
            constraint,
            sink,
            ..
        } = submission;
        Self {
            sink,
            sampler: SequenceSampler::new(request.sampling, &request.prompt, vocab),
            continuation: continuation.into_iter(),
            constraint: constraint.map(|constraint| Constrained {
                constraint,
                mask: TokenMask::new(vocab),
                is_complete: false,
            }),
            logprobs: request.logprobs,
            stop_token_ids: request.stop_token_ids,
            tokens_left: request.max_new_tokens,
            expert_stall: Duration::ZERO,
        }
    }

    /// Whether nobody listens any more.
    pub fn is_closed(&self) -> bool {
        self.sink.is_closed()
    }

    /// Chooses the token at `position`, or takes the one that is given; changes the logits.
    pub fn sample(
        &mut self,
        logits: &mut [f32],
        position: usize,
    ) -> Result<Sampled, ConstraintError> {
        if let Some(token) = self.continuation.next() {
            return Ok(self.sampler.take(token, logits, self.logprobs));
        }
        let Some(constrained) = &mut self.constraint else {
            return Ok(self.sampler.next(logits, position, self.logprobs));
        };
        constrained.fill_mask()?;
        let mask = &constrained.mask;
        let sampled = self.sampler.next_of(mask, logits, position, self.logprobs);
        if !self.stop_token_ids.contains(&sampled.token) {
            constrained.is_complete = constrained.constraint.accept(sampled.token)?;
        }
        Ok(sampled)
    }

    /// Emits a sampled token; returns why the answer ends with it, if it does.
    pub fn emit(&mut self, sampled: Sampled) -> Option<FinishReason> {
        let Sampled { token, logprobs } = sampled;
        self.sink.emit(TokenEvent::Token { token, logprobs });
        self.tokens_left -= 1;
        let is_complete = self.constraint.as_ref().is_some_and(|c| c.is_complete);
        if is_complete || self.stop_token_ids.contains(&token) {
            Some(FinishReason::Stop)
        } else {
            (self.tokens_left == 0).then_some(FinishReason::Length)
        }
    }

    /// Emits the end.
    pub fn end(mut self, event: TokenEvent) {
        self.sink.emit(event);
    }

    /// Its figures at its end.
    pub fn timings(&self, at: &SequenceTimings, now: Instant) -> RequestTimings {
        let planned = at.first_planned_at.unwrap_or(now);
        let first_token = at.first_token_at.unwrap_or(now);
        RequestTimings {
            queue: planned.saturating_duration_since(at.submitted_at),
            prefill: first_token.saturating_duration_since(planned),
            decode: now.saturating_duration_since(first_token),
            expert_stall: self.expert_stall,
            preemptions: at.preemptions,
        }
    }
}

impl Constrained {
    fn fill_mask(&mut self) -> Result<(), ConstraintError> {
        self.mask.clear();
        self.constraint.allow(&mut self.mask)?;
        if self.mask.is_empty() {
            return Err(ConstraintError("it allows no token".into()));
        }
        Ok(())
    }
}
