//! Model families: which ops a forward pass is made of, and the resident weights they read.
//!
//! A family composes [`layers`] into a [`Family`]; a lane steps through it layer by layer. Nothing here waits:
//! every method enqueues ops and returns.
//!
//! Letters: T rows of a pass, H hidden size, V vocabulary, Q query heads, G key/value heads, D head width,
//! E experts, K experts a token, P predicted experts a token, S rows that are sampled,
//! N rows that are pooled.

pub mod families;
pub mod layers;
pub mod pass;
pub mod queue;
pub mod scratch;
pub mod weights;

use layers::{DenseLayer, RoutedLayer};
use odmoe_backend::{BackendError, KvCache};
use pass::Pass;
use queue::Queue;
use scratch::Scratch;

/// What every op of one lane pass works on.
#[derive(Clone, Copy)]
pub struct Step<'a> {
    /// Where ops go.
    pub queue: &'a Queue,
    /// The rows.
    pub pass: &'a Pass,
    /// The lane's own buffers.
    pub scratch: &'a Scratch,
    /// Keys and values of all sequences.
    pub kv: &'a KvCache,
}

/// The second half of a transformer layer.
pub enum FeedForward<'a> {
    /// A plain MLP, resident.
    Dense(&'a DenseLayer),
    /// Routed experts, paged.
    Routed(&'a RoutedLayer),
}

/// A model as a program of layers over the residual stream `scratch.hidden` [T, H].
///
/// A pass is: [`embed`](Self::embed); for each layer [`attend`](Self::attend) and then what
/// [`feed_forward`](Self::feed_forward) names; [`head`](Self::head).
pub trait Family: Send {
    /// Transformer layers.
    fn layers(&self) -> usize;
    /// hidden = embedding of the pass's ids.
    fn embed(&self, step: Step<'_>) -> Result<(), BackendError>;
    /// hidden += attention of the layer.
    fn attend(&self, layer: usize, step: Step<'_>) -> Result<(), BackendError>;
    /// What follows attention in a layer.
    fn feed_forward(&self, layer: usize) -> FeedForward<'_>;
    /// scratch.logits [S, V] of the pass's sampled rows.
    fn head(&self, step: Step<'_>) -> Result<(), BackendError>;
    /// scratch.normed [N, H] = what the head would see of the pass's pooled rows.
    fn states(&self, step: Step<'_>) -> Result<(), BackendError>;

    /// The routed experts that follow attention in `layer`, if that layer exists and has any.
    fn routed(&self, layer: usize) -> Option<&RoutedLayer> {
        if layer >= self.layers() {
            return None;
        }
        match self.feed_forward(layer) {
            FeedForward::Routed(routed) => Some(routed),
            FeedForward::Dense(_) => None,
        }
    }
}
