//! What the engine keeps of an accepted request beside the scheduler's books.

use crate::api::{
    EmbeddingEnd, EmbeddingSink, FinishReason, Pooling, RequestError, RequestTimings, TokenEvent,
    TokenSink,
};
use crate::sampler::{Sampled, SequenceSampler};
use crate::scheduler::SequenceTimings;
use crate::step_loop::inbox::{Purpose, Submission};
use crate::step_loop::pooled::Pooled;
use std::time::{Duration, Instant};

/// A request that has not ended.
pub struct Sequence {
    work: Work,
    /// Time in which it waited for experts and nothing else ran.
    pub expert_stall: Duration,
}

/// What is made of a request.
enum Work {
    /// An answer.
    Answer(Box<Answering>),
    /// An embedding.
    Embedding(Pooled, Box<dyn EmbeddingSink>),
}

/// An answer that has not ended. Preemption does not touch it: its sampler goes on where it was, and a token that was
/// emitted is never sampled again.
pub struct Answering {
    sink: Box<dyn TokenSink>,
    sampler: SequenceSampler,
    /// What is left of an answer that is scored.
    continuation: std::vec::IntoIter<u32>,
    logprobs: Option<u32>,
    stop_token_ids: Vec<u32>,
    tokens_left: u32,
}

impl Answering {
    /// Chooses the token at `position`, or takes the one that is given; changes the logits.
    pub fn sample(&mut self, logits: &mut [f32], position: usize) -> Sampled {
        match self.continuation.next() {
            Some(token) => self.sampler.take(token, logits, self.logprobs),
            None => self.sampler.next(logits, position, self.logprobs),
        }
    }

    /// Emits a sampled token; returns why the answer ends with it, if it does.
    pub fn emit(&mut self, sampled: Sampled) -> Option<FinishReason> {
        let Sampled { token, logprobs } = sampled;
        self.sink.emit(TokenEvent::Token { token, logprobs });
        self.tokens_left -= 1;
        if self.stop_token_ids.contains(&token) {
            Some(FinishReason::Stop)
        } else {
            (self.tokens_left == 0).then_some(FinishReason::Length)
        }
    }
}

impl Sequence {
    /// From a request whose prompt the scheduler has.
    pub fn new(submission: Submission, vocab: usize) -> Self {
        let request = submission.request;
        let work = match submission.purpose {
            Purpose::Answer { continuation, sink } => Work::Answer(Box::new(Answering {
                sink,
                sampler: SequenceSampler::new(request.sampling, &request.prompt, vocab),
                continuation: continuation.into_iter(),
                logprobs: request.logprobs,
                stop_token_ids: request.stop_token_ids,
                tokens_left: request.max_new_tokens,
            })),
            Purpose::Embedding { pooling, sink } => Work::Embedding(Pooled::new(pooling), sink),
        };
        Self {
            work,
            expert_stall: Duration::ZERO,
        }
    }

    /// Whether nobody listens any more.
    pub fn is_closed(&self) -> bool {
        match &self.work {
            Work::Answer(answering) => answering.sink.is_closed(),
            Work::Embedding(_, sink) => sink.is_closed(),
        }
    }

    /// The answer, if it is one.
    pub fn answering(&mut self) -> Option<&mut Answering> {
        match &mut self.work {
            Work::Answer(answering) => Some(answering),
            Work::Embedding(..) => None,
        }
    }

    /// Which states of its tokens are wanted, if any.
    pub fn pooling(&self) -> Option<Pooling> {
        match &self.work {
            Work::Answer(_) => None,
            Work::Embedding(pooled, _) => Some(pooled.pooling()),
        }
    }

    /// Takes in states that were wanted; see [`Pooled::add`].
    pub fn pool(&mut self, first_position: usize, states: &[u8], hidden: usize) {
        if let Work::Embedding(pooled, _) = &mut self.work {
            pooled.add(first_position, states, hidden);
        }
    }

    /// Emits the end.
    pub fn finish(self, reason: FinishReason, timings: RequestTimings) {
        match (self.work, reason) {
            (Work::Answer(mut answering), reason) => answering
                .sink
                .emit(TokenEvent::Finished { reason, timings }),
            (Work::Embedding(_, sink), FinishReason::Cancelled) => {
                sink.end(EmbeddingEnd::Cancelled);
            }
            (Work::Embedding(pooled, sink), _) => {
                let values = pooled.finish();
                let timings = RequestTimings {
                    decode: Duration::ZERO,
                    ..timings
                };
                sink.end(EmbeddingEnd::Done { values, timings });
            }
        }
    }

    /// Emits the bad end.
    pub fn fail(self, error: RequestError) {
        match self.work {
            Work::Answer(mut answering) => answering.sink.emit(TokenEvent::Failed { error }),
            Work::Embedding(_, sink) => sink.end(EmbeddingEnd::Failed(error)),
        }
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
