//! What the engine keeps of an accepted request beside the scheduler's books.

use crate::api::{
    EmbeddingEnd, EmbeddingSink, FinishReason, Pooling, RequestError, RequestTimings, TokenEvent,
};
use crate::scheduler::SequenceTimings;
use crate::step_loop::answering::Answering;
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

impl Sequence {
    /// From a request whose prompt the scheduler has.
    pub fn new(submission: Submission, vocab: usize) -> Self {
        let request = submission.request;
        let work = match submission.purpose {
            Purpose::Answer { continuation, sink } => Work::Answer(Box::new(Answering::new(
                request,
                continuation,
                submission.constraint,
                sink,
                vocab,
            ))),
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
            Work::Answer(answering) => answering.is_closed(),
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
            (Work::Answer(answering), reason) => {
                answering.end(TokenEvent::Finished { reason, timings });
            }
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
            Work::Answer(answering) => answering.end(TokenEvent::Failed { error }),
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
