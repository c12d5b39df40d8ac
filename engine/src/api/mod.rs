//! The engine's face: requests in, token events out.

mod config;
mod constraint;
mod embedding;
mod events;
mod request;

pub use config::{EngineConfig, EngineParts, LoadProgress, MemoryPlan, PrefixCache, StartError};
pub use constraint::{ConstraintError, TokenConstraint, TokenMask, TokenRules};
pub use embedding::{EmbeddingEnd, EmbeddingRequest, EmbeddingSink, Pooling};
pub use events::{EngineEvent, EngineGauges, EngineObserver};
pub use request::{
    ClientId, FinishReason, PositionLogprobs, Request, RequestError, RequestId, RequestTimings,
    SamplingParams, SubmitError, TokenEvent, TokenLogprob, TokenSink,
};
