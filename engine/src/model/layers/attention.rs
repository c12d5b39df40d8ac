//! Grouped-query attention with rotary positions over the paged KV cache.

use super::{LayerLoader, RmsNorm};
use crate::api::StartError;
use crate::model::Step;
use odmoe_backend::{BackendError, Buffer, Op, Rope, Weight};
use odmoe_formats::model_config::ModelConfig;
use odmoe_formats::names::LayerTensor;

/// Heads of an attention layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct HeadShape {
    /// Q.
    pub query_heads: usize,
    /// G.
    pub kv_heads: usize,
    /// D.
    pub head_dim: usize,
}

/// hidden += o(attention(q, k, v)) where q, k, v are projections of norm(hidden).
pub struct Attention {
    /// Of the layer's input.
    pub input_norm: RmsNorm,
    /// [Q * D, H].
    pub q: Weight,
    /// [G * D, H].
    pub k: Weight,
    /// [G * D, H].
    pub v: Weight,
    /// [H, Q * D].
    pub o: Weight,
    /// Per-head norm of q, [1, D], where the family has one.
    pub q_norm: Option<RmsNorm>,
    /// Per-head norm of k, [1, D], where the family has one.
    pub k_norm: Option<RmsNorm>,
    /// The rotation of q and k.
    pub rope: Rope,
    heads: HeadShape,
}

impl Attention {
    /// From the canonical tensors of a layer, q and k normed by head where `normed_heads` says so.
    pub fn load(loader: &mut LayerLoader<'_, '_>, normed_heads: bool) -> Result<Self, StartError> {
        let (config, hidden) = (loader.config, loader.hidden());
        let heads = HeadShape {
            query_heads: config.num_attention_heads as usize,
            kv_heads: config.num_key_value_heads as usize,
            head_dim: config.head_dim as usize,
        };
        let query = heads.query_heads * heads.head_dim;
        let key_value = heads.kv_heads * heads.head_dim;
        let head_norm = |loader: &mut LayerLoader<'_, '_>, tensor| {
            let norm = normed_heads.then(|| loader.norm(tensor, heads.head_dim));
            norm.transpose()
        };
        Ok(Self {
            input_norm: loader.norm(LayerTensor::InputNorm, hidden)?,
            q: loader.matrix(LayerTensor::QProj, query, hidden)?,
            k: loader.matrix(LayerTensor::KProj, key_value, hidden)?,
            v: loader.matrix(LayerTensor::VProj, key_value, hidden)?,
            o: loader.matrix(LayerTensor::OProj, hidden, query)?,
            q_norm: head_norm(loader, LayerTensor::QNorm)?,
            k_norm: head_norm(loader, LayerTensor::KNorm)?,
            rope: rope(config),
            heads,
        })
    }

    /// Enqueues the whole half layer. K and V are written before they are read, so that a row attends to what is
    /// stored, in the stored precision, whether it came in this pass or an earlier one.
    pub fn enqueue(&self, layer: usize, step: Step<'_>) -> Result<(), BackendError> {
        let Step {
            queue,
            pass,
            scratch,
            kv,
        } = step;
        let HeadShape {
            query_heads,
            kv_heads,
            head_dim,
        } = self.heads;
        self.input_norm
            .enqueue(queue, &scratch.hidden, &scratch.normed, pass.tokens)?;
        project(step, &self.q, &scratch.normed, &scratch.q)?;
        project(step, &self.k, &scratch.normed, &scratch.k)?;
        project(step, &self.v, &scratch.normed, &scratch.v)?;
        self.norm_rope(step, &self.q_norm, &scratch.q, query_heads)?;
        self.norm_rope(step, &self.k_norm, &scratch.k, kv_heads)?;
        queue.push(Op::KvAppend {
            cache: kv.clone(),
            layer,
            k: scratch.k.clone(),
            v: scratch.v.clone(),
            positions: pass.kv_positions.clone(),
        })?;
        queue.push(Op::PagedAttention {
            q: scratch.q.clone(),
            cache: kv.clone(),
            layer,
            spans: pass.attention.clone(),
            query_heads,
            scale: 1.0 / (head_dim as f32).sqrt(),
            out: scratch.attended.clone(),
        })?;
        project(step, &self.o, &scratch.attended, &scratch.projected)?;
        queue.push(Op::AddInPlace {
            x: scratch.projected.clone(),
            into: scratch.hidden.clone(),
            elements: pass.tokens * self.o.rows,
        })
    }

    fn norm_rope(
        &self,
        step: Step<'_>,
        norm: &Option<RmsNorm>,
        into: &Buffer,
        heads: usize,
    ) -> Result<(), BackendError> {
        step.queue.push(Op::NormRope {
            into: into.clone(),
            norm: norm
                .as_ref()
                .map(|norm| (norm.weight.clone(), norm.epsilon)),
            rope: self.rope.clone(),
            heads,
            head_dim: self.heads.head_dim,
            positions: step.pass.positions.clone(),
        })
    }
}

fn rope(config: &ModelConfig) -> Rope {
    let divisors = &config.rope_frequency_divisors;
    Rope {
        theta: config.rope_theta,
        divisors: (!divisors.is_empty()).then(|| divisors.as_slice().into()),
    }
}

/// out [T, N] = x [T, columns] * weight^T for the rows of the pass.
pub(super) fn project(
    step: Step<'_>,
    weight: &Weight,
    x: &Buffer,
    out: &Buffer,
) -> Result<(), BackendError> {
    step.queue.push(Op::MatMul {
        x: x.clone(),
        weight: weight.clone(),
        out: out.clone(),
        tokens: step.pass.tokens,
    })
}
