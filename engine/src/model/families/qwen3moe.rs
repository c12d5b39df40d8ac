//! Qwen3-MoE (Qwen3 Technical Report, arXiv 2505.09388): grouped-query attention with normed heads, and in every
//! sparse layer softmax top-k routing without shared experts.

use crate::api::StartError;
use crate::model::layers::{Attention, DenseLayer, Head, LayerLoader, RoutedLayer};
use crate::model::weights::WeightLoader;
use crate::model::{Family, FeedForward, Step};
use odmoe_backend::{BackendError, Op, Scoring, Weight};
use odmoe_formats::model_config::ModelConfig;
use odmoe_formats::names;

struct Qwen3Moe {
    embedding: Weight,
    layers: Vec<Layer>,
    head: Head,
}

struct Layer {
    attention: Attention,
    mlp: Mlp,
}

enum Mlp {
    Dense(DenseLayer),
    Sparse(RoutedLayer),
}

impl Family for Qwen3Moe {
    fn layers(&self) -> usize {
        self.layers.len()
    }

    fn embed(
        &self,
        Step {
            queue,
            pass,
            scratch,
            ..
        }: Step<'_>,
    ) -> Result<(), BackendError> {
        let table = self.embedding.clone();
        queue.push(Op::Embed {
            table,
            ids: pass.ids.clone(),
            out: scratch.hidden.clone(),
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
}

pub(super) fn build(
    config: &ModelConfig,
    weights: &mut WeightLoader<'_>,
) -> Result<Box<dyn Family>, StartError> {
    let (vocab, hidden) = (config.vocab_size as usize, config.hidden_size as usize);
    let embedding = weights.matrix(names::EMBED_TOKENS, vocab, hidden)?;
    let mut layers = Vec::new();
    for layer in 0..config.num_hidden_layers {
        layers.push(Layer::load(LayerLoader {
            config,
            weights,
            layer,
        })?);
    }
    let head = Head::load(config, &embedding, weights)?;
    Ok(Box::new(Qwen3Moe {
        embedding,
        layers,
        head,
    }))
}

impl Layer {
    fn load(mut loader: LayerLoader<'_, '_>) -> Result<Self, StartError> {
        let attention = Attention::load(&mut loader, true)?;
        let moe = loader.config.moe.as_ref();
        let renormalise = moe.is_some_and(|moe| moe.norm_topk_prob);
        let mlp = if loader.config.is_sparse(loader.layer) {
            Mlp::Sparse(RoutedLayer::load(
                &mut loader,
                Scoring::SoftmaxTopK { renormalise },
            )?)
        } else {
            Mlp::Dense(DenseLayer::load(&mut loader)?)
        };
        Ok(Self { attention, mlp })
    }
}
