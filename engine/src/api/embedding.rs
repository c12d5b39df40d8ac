//! A text whose embedding is wanted, and what comes of it.

use crate::api::{ClientId, RequestError, RequestTimings};

/// How the states of a text's tokens become one vector. A token's state is what the output head would see of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// Their mean.
    Mean,
    /// The last token's: with causal attention, the only one that has seen the whole text.
    Last,
}

/// One text to embed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EmbeddingRequest {
    /// Whose it is.
    pub client: ClientId,
    /// Token ids; at least one, each below the vocabulary's size, and one less than a context at most.
    pub tokens: Vec<u32>,
    /// Which states count.
    pub pooling: Pooling,
}

/// How an embedding ends.
#[derive(Clone, Debug)]
pub enum EmbeddingEnd {
    /// It is there.
    Done {
        /// One value for each dimension of the model's hidden state, not normalised.
        values: Vec<f32>,
        /// Figures; without decode.
        timings: RequestTimings,
    },
    /// The client went away or cancelled.
    Cancelled,
    /// It could not be computed.
    Failed(RequestError),
}

/// Where an embedding goes. Called on the engine's thread: it must neither block nor panic.
pub trait EmbeddingSink: Send {
    /// The end, exactly once.
    fn end(self: Box<Self>, end: EmbeddingEnd);
    /// Whether nobody listens any more: the request is then cancelled within a step, wherever it is.
    fn is_closed(&self) -> bool;
}
