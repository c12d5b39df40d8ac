//! The engine's face: requests in, token events out.

use odmoe_backend::{AllocateError, BackendError, KvFormat};
use odmoe_expert_store::{LoadError, StoreError, StoreEvent, StoreGauges, StoreHealth};
use odmoe_formats::ByteCount;
use std::time::Duration;

/// Names a request for cancelling. Given out by the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(pub u64);

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

/// What a request's sink receives: any number of `Token`s, then exactly one of the others.
#[derive(Clone, Debug)]
pub enum TokenEvent {
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

/// How the engine works. Sizes are fixed at start.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// Sequences that run at once.
    pub max_running: usize,
    /// Requests that may wait.
    pub max_waiting: usize,
    /// Prompt tokens of one prefill lane pass.
    pub prefill_chunk_tokens: usize,
    /// Tokens in a KV block.
    pub kv_block_tokens: usize,
    /// KV blocks in all.
    pub kv_blocks: usize,
    /// How KV is stored.
    pub kv_format: KvFormat,
    /// The longest context, at most the model's.
    pub max_context_tokens: usize,
    /// Predicted experts a token for the next layer; 0 turns prediction off.
    pub predict_top: usize,
}

/// The memory sum of promise P2, computed before anything is allocated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryPlan {
    /// Resident weights.
    pub base: ByteCount,
    /// KV cache.
    pub kv: ByteCount,
    /// Expert slots.
    pub experts: ByteCount,
    /// Activations and host copies, at the configured sizes.
    pub scratch: ByteCount,
    /// Everything else: code, stacks, tokenizer, buffers of connections.
    pub overhead: ByteCount,
}

impl MemoryPlan {
    /// The sum.
    pub fn total(&self) -> ByteCount {
        ByteCount(self.base.0 + self.kv.0 + self.experts.0 + self.scratch.0 + self.overhead.0)
    }
}

/// Why an engine did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The family is not supported.
    #[error("architecture {found:?} is not supported; supported: {supported}")]
    Architecture {
        /// What the manifest says.
        found: String,
        /// What there is.
        supported: String,
    },
    /// A tensor is missing or has another shape.
    #[error("the store does not fit its own configuration: {0}; convert the model again")]
    Shape(String),
    /// A resident tensor could not be read or verified.
    #[error("loading the base: {0}")]
    Load(LoadError),
    /// No memory.
    #[error(transparent)]
    Allocate(#[from] AllocateError),
    /// The store could not start.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The device failed.
    #[error(transparent)]
    Backend(#[from] BackendError),
}

/// Everything countable that happens in the engine, as plain data.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum EngineEvent {
    /// From the expert store.
    Store(StoreEvent),
    /// A lane waited this long for experts, with nothing else to run.
    ExpertStall {
        /// How long.
        seconds: f64,
    },
    /// A lane pass ended.
    Step {
        /// Tokens in it.
        tokens: usize,
        /// Whether it was a prompt chunk.
        prefill: bool,
    },
    /// A sequence was preempted.
    Preempted,
    /// The experts that the predictor named against those that the router chose, for one layer pass.
    Prediction {
        /// Distinct experts chosen.
        chosen: usize,
        /// Of them, predicted.
        predicted: usize,
    },
    /// The gauges after a step.
    Gauges(EngineGauges),
}

/// Receives events on the engine's thread. Must be quick.
pub trait EngineObserver: Send + Sync {
    /// One event.
    fn record(&self, event: &EngineEvent);
}

/// Gauges at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct EngineGauges {
    /// Sequences running.
    pub running: usize,
    /// Requests waiting.
    pub waiting: usize,
    /// KV blocks in use.
    pub kv_blocks_used: usize,
    /// KV blocks in all.
    pub kv_blocks: usize,
    /// The store's.
    pub store: StoreGauges,
    /// Whether storage answers.
    pub health: StoreHealth,
}

/// Called while the base loads: bytes done, bytes in all.
pub type LoadProgress<'a> = &'a (dyn Fn(ByteCount, ByteCount) + Sync);

/// What an engine is made of.
pub struct EngineParts {
    /// A validated manifest.
    pub manifest: std::sync::Arc<odmoe_formats::manifest::Manifest>,
    /// Where it runs.
    pub backend: std::sync::Arc<dyn odmoe_backend::Backend>,
    /// Reads the store's files.
    pub reader: std::sync::Arc<dyn odmoe_expert_store::ShardReader>,
    /// The expert store's settings.
    pub store: odmoe_expert_store::StoreConfig,
    /// The engine's.
    pub config: EngineConfig,
    /// Who counts.
    pub observer: std::sync::Arc<dyn EngineObserver>,
}

/// A running engine. Cloning shares it.
#[derive(Clone)]
pub struct EngineHandle {}

#[allow(unused_variables)]
impl EngineHandle {
    /// The memory sum, before anything is allocated.
    pub fn plan_memory(
        manifest: &odmoe_formats::manifest::Manifest,
        store: &odmoe_expert_store::StoreConfig,
        config: &EngineConfig,
    ) -> MemoryPlan {
        todo!()
    }

    /// Loads and verifies the base, allocates KV and slots, starts the engine's thread.
    pub fn start(parts: EngineParts, progress: LoadProgress<'_>) -> Result<Self, StartError> {
        todo!()
    }

    /// Queues a request. Its sink gets exactly one end. Never blocks.
    pub fn submit(&self, request: Request, sink: Box<dyn TokenSink>) -> Result<RequestId, SubmitError> {
        todo!()
    }

    /// Ends a request wherever it is, within a step; ended or unknown ids are ignored.
    pub fn cancel(&self, id: RequestId) {
        todo!()
    }

    /// The gauges after the last step.
    pub fn gauges(&self) -> EngineGauges {
        todo!()
    }

    /// Refuses new requests from now on; what was accepted goes on.
    pub fn drain(&self) {
        todo!()
    }

    /// Whether nothing runs or waits.
    pub fn is_idle(&self) -> bool {
        todo!()
    }

    /// Whether the engine's thread lives. False after a backend failure or a panic: the process should end.
    pub fn is_alive(&self) -> bool {
        todo!()
    }

    /// Ends every request with [`RequestError::ShuttingDown`] and joins the engine's thread.
    pub fn stop(&self) {
        todo!()
    }
}
