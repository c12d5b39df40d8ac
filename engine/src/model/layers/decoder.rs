//! The program that all families share: embedding, layers of attention and an MLP, head.

use super::{Attention, DenseLayer, Head, LayerLoader, RoutedLayer, SharedExpert};
use crate::api::StartError;
use crate::model::weights::WeightLoader;
use crate::model::{Family, FeedForward, Step};
use odmoe_backend::{BackendError, Op, Scoring, Weight};
use odmoe_formats::model_config::ModelConfig;
use odmoe_formats::names;

/// A decoder-only transformer with its norms before each half layer.
pub struct Decoder {
    embedding: Weight,
    layers: Vec<DecoderLayer>,
    head: Head,
}

/// One layer.
pub struct DecoderLayer {
    /// The first half.
    pub attention: Attention,
    /// The second half.
    pub mlp: Mlp,
}

/// The second half of a layer.
pub enum Mlp {
    /// A plain MLP, resident.
    Dense(DenseLayer),
    /// Routed experts, paged.
    Sparse(RoutedLayer),
}

impl Mlp {
    /// Routed experts in a layer that has them, else a plain MLP.
    pub fn load(loader: &mut LayerLoader<'_, '_>, scoring: Scoring) -> Result<Self, StartError> {
        match loader.is_sparse() {
            true => RoutedLayer::load(loader, scoring).map(Self::Sparse),
            false => DenseLayer::load(loader).map(Self::Dense),
        }
    }

    /// As [`load`](Self::load), with a shared expert beside the routed ones.
    pub fn load_with_shared(
        loader: &mut LayerLoader<'_, '_>,
        scoring: Scoring,
    ) -> Result<Self, StartError> {
        Ok(match Self::load(loader, scoring)? {
            Self::Sparse(routed) => Self::Sparse(RoutedLayer {
                shared: Some(SharedExpert::load(loader)?),
                ..routed
            }),
            dense => dense,
        })
    }
}

impl Decoder {
    /// Loads a model whose layers `load_layer` composes. The tensors are asked for in the order of a forward pass.
    pub fn load(
        config: &ModelConfig,
        weights: &mut WeightLoader<'_>,
        load_layer: impl Fn(&mut LayerLoader<'_, '_>) -> Result<DecoderLayer, StartError>,
    ) -> Result<Self, StartError> {
        let (vocab, hidden) = (config.vocab_size as usize, config.hidden_size as usize);
        let embedding = weights.matrix(names::EMBED_TOKENS, vocab, hidden)?;
        let mut layers = Vec::new();
        for layer in 0..config.num_hidden_layers {
            layers.push(load_layer(&mut LayerLoader {
                config,
                weights,
                layer,
            })?);
        }
        let head = Head::load(config, &embedding, weights)?;
        Ok(Self {
            embedding,
            layers,
            head,
        })
    }
}

impl Family for Decoder {
    fn layers(&self) -> usize {
        self.layers.len()
    }

    fn embed(&self, step: Step<'_>) -> Result<(), BackendError> {
        step.queue.push(Op::Embed {
            table: self.embedding.clone(),
            ids: step.pass.ids.clone(),
            out: step.scratch.hidden.clone(),
        })
    }

    fn attend(&self, layer: usize, step: Step<'_>) -> Result<(), BackendError> {
        self.layers[layer].attention.enqueue(layer, step)
    }

    fn feed_forward(&self, layer: usize) -> FeedForward<'_> {
        match &self.layers[layer].mlp {
            Mlp::Dense(dense) => FeedForward::Dense(dense),
            Mlp::Sparse(routed) => FeedForward::Routed(routed),
        }
    }

    fn head(&self, step: Step<'_>) -> Result<(), BackendError> {
        self.head.enqueue(step)
    }

    fn states(&self, step: Step<'_>) -> Result<(), BackendError> {
        self.head.enqueue_states(step)
    }
}
