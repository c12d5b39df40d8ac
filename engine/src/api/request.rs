//! A request, what its sink receives, and how it ends.

use crate::api::constraint::{ConstraintError, TokenRules};
use odmoe_expert_store::LoadError;
use std::sync::Arc;
use std::time::Duration;

/// Names a request for cancelling. Given out by the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(pub u64);

/// On whose behalf a request is made: what waits is admitted so that clients are served evenly.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientId(pub u32);

/// How the next token is chosen. The order of the steps is that of the fields from `logit_bias` on.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplingParams {
    /// Added to logits, by token.
    pub logit_bias: Vec<(u32, f32)>,
    /// > 1 discourages what prompt and answer hold: positive logits are divided, negative multiplied.
    pub repetition_penalty: f32,
    /// Taken from the logit of each token that the answer holds.
    pub presence_penalty: f32,
    /// Taken from a token's logit, times how often the answer holds it.
    pub frequency_penalty: f32,
    /// 0 takes the most likely token.
    pub temperature: f32,
    /// Keeps the k most likely; 0 keeps all.
    pub top_k: u32,
    /// Keeps the smallest set whose probability reaches this; 1 keeps all.
    pub top_p: f32,
    /// Keeps tokens at least this fraction as likely as the most likely; 0 keeps all.
    pub min_p: f32,
    /// With the choice and the position it decides every random number.
    pub seed: u64,
    /// Which of a request's choices this is (`n` > 1).
    pub choice: u32,
}

impl Default for SamplingParams {
    fn default() -> Self {
        Self {
            logit_bias: Vec::new(),
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            seed: 0,
            choice: 0,
        }
    }
}

/// One sequence to generate.
#[derive(Clone, Debug)]
pub struct Request {
    /// Whose it is.
    pub client: ClientId,
    /// Prompt token ids; at least one, each below the vocabulary's size.
    pub prompt: Vec<u32>,
    /// How tokens are chosen.
    pub sampling: SamplingParams,
    /// At most this many new tokens; at least one.
    pub max_new_tokens: u32,
    /// Any of these ends the answer (and is reported as its last token).
    pub stop_token_ids: Vec<u32>,
    /// None: no logprobs. Some(n): the chosen token's, and the n most likely tokens'.
    pub logprobs: Option<u32>,
    /// What tokens the answer may have; None: any. Applied before everything else, so logprobs are of what is allowed.
    pub rules: Option<Arc<dyn TokenRules>>,
}

/// A token with its natural-log probability under the model (after penalties and bias, before temperature).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TokenLogprob {
    /// The token.
    pub token: u32,
    /// Its logprob.
    pub logprob: f32,
}

/// Logprobs of one position.
#[derive(Clone, Debug, PartialEq)]
pub struct PositionLogprobs {
    /// Of the chosen token.
    pub chosen: TokenLogprob,
    /// Of the most likely tokens, descending; equal ones by ascending id.
    pub top: Vec<TokenLogprob>,
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FinishReason {
    /// A stop token.
    Stop,
    /// `max_new_tokens` or the context's end.
    Length,
    /// The client went away or cancelled.
    Cancelled,
}

/// Why a request failed after it was accepted.
#[derive(Clone, Debug, thiserror::Error)]
pub enum RequestError {
    /// An expert could not be loaded.
    #[error("expert_unavailable: {0}")]
    ExpertUnavailable(LoadError),
    /// The rules for its tokens could not be followed any further.
    #[error("the constraint of the answer cannot be followed: {0}")]
    Constraint(#[from] ConstraintError),
    /// The backend failed; the engine is stopping.
    #[error("backend failure: {0}")]
    Backend(String),
    /// The engine was told to stop before the answer was complete.
    #[error("the server is shutting down")]
    ShuttingDown,
}

/// Figures of an ended request.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct RequestTimings {
    /// From submission to first being planned.
    pub queue: Duration,
    /// From there to the first token.
    pub prefill: Duration,
    /// From there to the end.
    pub decode: Duration,
    /// Waiting for experts, all phases.
    pub expert_stall: Duration,
    /// Times that it was preempted.
    pub preemptions: u32,
}

/// What a request's sink receives: `Prefilled`, any number of `Token`s, then exactly one of the others. What ends before
/// its first token has no `Prefilled`.
#[derive(Clone, Debug)]
pub enum TokenEvent {
    /// The prompt is computed.
    Prefilled {
        /// Its first tokens that did not have to be, as another request had begun alike.
        cached_tokens: usize,
    },
    /// The next token.
    Token {
        /// Its id.
        token: u32,
        /// If asked for.
        logprobs: Option<PositionLogprobs>,
    },
    /// The end.
    Finished {
        /// Why.
        reason: FinishReason,
        /// Figures.
        timings: RequestTimings,
    },
    /// The bad end.
    Failed {
        /// Why.
        error: RequestError,
    },
}

/// Where a request's events go. Called on the engine's thread: it must neither block nor panic.
pub trait TokenSink: Send {
    /// One event.
    fn emit(&mut self, event: TokenEvent);
    /// Whether nobody listens any more: the request is then cancelled within a step, wherever it is.
    fn is_closed(&self) -> bool;
}

/// A request that was not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// The queue is full.
    #[error("the queue is full: {waiting} requests wait, the limit is {limit}")]
    QueueFull {
        /// How many wait.
        waiting: usize,
        /// How many may.
        limit: usize,
    },
    /// It could never fit.
    #[error("the prompt has {prompt} tokens and asks for {new} more, but at most {limit} fit")]
    TooLong {
        /// Prompt tokens.
        prompt: usize,
        /// New tokens.
        new: usize,
        /// The least of the model's context and the KV cache.
        limit: usize,
    },
    /// A token id that the model does not know, or an empty prompt.
    #[error("{0}")]
    BadPrompt(String),
    /// Draining or stopped.
    #[error("the server is shutting down")]
    ShuttingDown,
}
