//! An answer while it is generated or scored.

use crate::api::{
    ConstraintError, FinishReason, Request, TokenConstraint, TokenEvent, TokenMask, TokenSink,
};
use crate::sampler::{Sampled, SequenceSampler};

/// An answer that has not ended. Preemption does not touch it: its sampler goes on where it was, and a token that was
/// emitted is never sampled again.
pub struct Answering {
    sink: Box<dyn TokenSink>,
    sampler: SequenceSampler,
    /// What is left of an answer that is scored.
    continuation: std::vec::IntoIter<u32>,
    constraint: Option<Constrained>,
    logprobs: Option<u32>,
    stop_token_ids: Vec<u32>,
    tokens_left: u32,
    has_begun: bool,
}

/// What the next tokens may be.
struct Constrained {
    constraint: Box<dyn TokenConstraint>,
    mask: TokenMask,
    is_complete: bool,
}

impl Answering {
    /// The answer to a request, of which `continuation` is given.
    pub fn new(
        request: Request,
        continuation: Vec<u32>,
        constraint: Option<Box<dyn TokenConstraint>>,
        sink: Box<dyn TokenSink>,
        vocab: usize,
    ) -> Self {
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
            has_begun: false,
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

    /// Emits, the first time, that the prompt is computed.
    pub fn begin(&mut self, cached_tokens: impl FnOnce() -> usize) {
        if !std::mem::replace(&mut self.has_begun, true) {
            let cached_tokens = cached_tokens();
            self.sink.emit(TokenEvent::Prefilled { cached_tokens });
        }
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
