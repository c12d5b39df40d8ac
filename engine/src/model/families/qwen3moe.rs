//! Qwen3-MoE (Qwen3 Technical Report, arXiv 2505.09388): grouped-query attention with normed heads, and in every
//! sparse layer softmax top-k routing without shared experts.

use crate::api::StartError;
use crate::model::layers::{Attention, DenseLayer, Head, HeadShape, RmsNorm, RoutedLayer};
use crate::model::weights::WeightLoader;
use crate::model::{Family, FeedForward, Step};
use odmoe_backend::{BackendError, Op, Rope, Scoring, Weight};
use odmoe_formats::model_config::ModelConfig;
use odmoe_formats::names::{self, LayerTensor};

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
    let layers = (0..config.num_hidden_layers).map(|index| {
        Builder {
            config,
            weights,
            index,
        }
        .layer()
    });
    let layers = layers.collect::<Result<_, _>>()?;
    let norm = weights.vector(names::NORM, hidden)?;
    let weight = match config.tie_word_embeddings {
        true => embedding.clone(),
        false => weights.matrix(names::LM_HEAD, vocab, hidden)?,
    };
    let head = Head {
        norm: RmsNorm {
            weight: norm,
            epsilon: config.rms_norm_eps,
        },
        weight,
    };
    Ok(Box::new(Qwen3Moe {
        embedding,
        layers,
        head,
    }))
}

/// Loads one layer.
struct Builder<'a, 'w> {
    config: &'a ModelConfig,
    weights: &'a mut WeightLoader<'w>,
    index: u32,
}

impl Builder<'_, '_> {
    fn layer(mut self) -> Result<Layer, StartError> {
        let attention = self.attention()?;
        let dense = self.config.moe.dense_layers.contains(&self.index);
        let mlp = if dense {
            Mlp::Dense(self.dense()?)
        } else {
            Mlp::Sparse(self.sparse()?)
        };
        Ok(Layer { attention, mlp })
    }

    fn attention(&mut self) -> Result<Attention, StartError> {
        let hidden = self.config.hidden_size as usize;
        let heads = HeadShape {
            query_heads: self.config.num_attention_heads as usize,
            kv_heads: self.config.num_key_value_heads as usize,
            head_dim: self.config.head_dim as usize,
        };
        let (q, kv) = (
            heads.query_heads * heads.head_dim,
            heads.kv_heads * heads.head_dim,
        );
        Ok(Attention {
            input_norm: self.norm(LayerTensor::InputNorm, hidden)?,
            q: self.matrix(LayerTensor::QProj, q, hidden)?,
            k: self.matrix(LayerTensor::KProj, kv, hidden)?,
            v: self.matrix(LayerTensor::VProj, kv, hidden)?,
            o: self.matrix(LayerTensor::OProj, hidden, q)?,
            q_norm: Some(self.norm(LayerTensor::QNorm, heads.head_dim)?),
            k_norm: Some(self.norm(LayerTensor::KNorm, heads.head_dim)?),
            rope: Rope {
                theta: self.config.rope_theta,
            },
            heads,
        })
    }

    fn sparse(&mut self) -> Result<RoutedLayer, StartError> {
        let (moe, hidden) = (&self.config.moe, self.config.hidden_size as usize);
        let name = names::in_layer(self.index, LayerTensor::Router);
        Ok(RoutedLayer {
            norm: self.norm(LayerTensor::PostAttentionNorm, hidden)?,
            router: self
                .weights
                .router(&name, moe.num_experts as usize, hidden)?,
            top_k: moe.num_experts_per_tok as usize,
            scoring: Scoring::SoftmaxTopK {
                renormalise: moe.norm_topk_prob,
            },
        })
    }

    fn dense(&mut self) -> Result<DenseLayer, StartError> {
        let (width, hidden) = (
            self.config.intermediate_size as usize,
            self.config.hidden_size as usize,
        );
        Ok(DenseLayer {
            norm: self.norm(LayerTensor::PostAttentionNorm, hidden)?,
            gate: self.matrix(LayerTensor::GateProj, width, hidden)?,
            up: self.matrix(LayerTensor::UpProj, width, hidden)?,
            down: self.matrix(LayerTensor::DownProj, hidden, width)?,
        })
    }

    fn matrix(
        &mut self,
        tensor: LayerTensor,
        rows: usize,
        columns: usize,
    ) -> Result<Weight, StartError> {
        self.weights
            .matrix(&names::in_layer(self.index, tensor), rows, columns)
    }

    fn norm(&mut self, tensor: LayerTensor, width: usize) -> Result<RmsNorm, StartError> {
        let weight = self
            .weights
            .vector(&names::in_layer(self.index, tensor), width)?;
        Ok(RmsNorm {
            weight,
            epsilon: self.config.rms_norm_eps,
        })
    }
}
