//! Grouped-query attention with rotary positions over the paged KV cache.

use super::{LayerLoader, RmsNorm};
use crate::api::StartError;
use crate::model::Step;
use odmoe_backend::{BackendError, Buffer, Op, Rope, Weight};
use odmoe_formats::architecture::QueryKeyNorm;
use odmoe_formats::model_config::ModelConfig;
use odmoe_formats::names::LayerTensor;

/// hidden += o(attention(q, k, v)) where q, k, v are projections of norm(hidden).
pub struct Attention {
    /// Of the layer's input.
    pub input_norm: RmsNorm,
    /// Queries: Q heads.
    pub q: Heads,
    /// Keys: G heads.
    pub k: Heads,
    /// Values, [T, G * D].
    pub v: Projection,
    /// [H, Q * D].
    pub o: Weight,
    /// The rotation of q and k.
    pub rope: Rope,
    /// D.
    pub head_dim: usize,
}

/// A projection whose output is heads that are normed, where the family has a norm, and turned.
pub struct Heads {
    /// [heads * D, H].
    pub projection: Projection,
    /// Before they are turned.
    pub norm: Option<HeadNorm>,
    /// How many.
    pub count: usize,
}

/// A norm of queries or keys.
pub enum HeadNorm {
    /// Of each head by itself, [1, D].
    Each(RmsNorm),
    /// Of all heads of a token together, [1, heads * D].
    All(RmsNorm),
}

/// x * weight^T + bias.
pub struct Projection {
    /// [N, H].
    pub weight: Weight,
    /// [1, N], where the model has biases.
    pub bias: Option<Weight>,
}

impl Attention {
    /// From the canonical tensors of a layer; with biases where the configuration says so.
    pub fn load(loader: &mut LayerLoader<'_, '_>, norm: QueryKeyNorm) -> Result<Self, StartError> {
        use LayerTensor as T;
        let (config, hidden) = (loader.config, loader.hidden());
        let head_dim = config.head_dim as usize;
        let query_heads = config.num_attention_heads as usize;
        let kv_heads = config.num_key_value_heads as usize;
        let input_norm = loader.norm(T::InputNorm, hidden)?;
        let q = Projection::load(loader, T::QProj, T::QBias, query_heads * head_dim)?;
        let k = Projection::load(loader, T::KProj, T::KBias, kv_heads * head_dim)?;
        let v = Projection::load(loader, T::VProj, T::VBias, kv_heads * head_dim)?;
        Ok(Self {
            input_norm,
            q: Heads {
                projection: q,
                norm: HeadNorm::load(loader, norm, T::QNorm, query_heads)?,
                count: query_heads,
            },
            k: Heads {
                projection: k,
                norm: HeadNorm::load(loader, norm, T::KNorm, kv_heads)?,
                count: kv_heads,
            },
            v,
            o: loader.matrix(T::OProj, hidden, query_heads * head_dim)?,
            rope: rope(config),
            head_dim,
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
        self.input_norm
            .enqueue(queue, &scratch.hidden, &scratch.normed, pass.tokens)?;
        self.heads(step, &self.q, &scratch.q)?;
        self.heads(step, &self.k, &scratch.k)?;
        self.v.enqueue(step, &scratch.normed, &scratch.v)?;
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
            query_heads: self.q.count,
            scale: 1.0 / (self.head_dim as f32).sqrt(),
            out: scratch.attended.clone(),
        })?;
        project(step, &self.o, &scratch.attended, &scratch.projected)?;
        queue.push(Op::AddInPlace {
            x: scratch.projected.clone(),
            into: scratch.hidden.clone(),
            elements: pass.tokens * self.o.rows,
        })
    }

    /// out [T, heads, D] = the heads of the normed input, normed and turned.
    fn heads(&self, step: Step<'_>, heads: &Heads, out: &Buffer) -> Result<(), BackendError> {
        let (queue, pass) = (step.queue, step.pass);
        heads.projection.enqueue(step, &step.scratch.normed, out)?;
        let each = match &heads.norm {
            None => None,
            Some(HeadNorm::Each(norm)) => Some((norm.weight.clone(), norm.epsilon)),
            Some(HeadNorm::All(norm)) => {
                norm.enqueue(queue, out, out, pass.tokens)?;
                None
            }
        };
        queue.push(Op::NormRope {
            into: out.clone(),
            norm: each,
            rope: self.rope.clone(),
            heads: heads.count,
            head_dim: self.head_dim,
            positions: pass.positions.clone(),
        })
    }
}

impl HeadNorm {
    fn load(
        loader: &mut LayerLoader<'_, '_>,
        norm: QueryKeyNorm,
        tensor: LayerTensor,
        heads: usize,
    ) -> Result<Option<Self>, StartError> {
        let head_dim = loader.config.head_dim as usize;
        Ok(match norm {
            QueryKeyNorm::Absent => None,
            QueryKeyNorm::EachHead => Some(Self::Each(loader.norm(tensor, head_dim)?)),
            QueryKeyNorm::AllHeads => Some(Self::All(loader.norm(tensor, heads * head_dim)?)),
        })
    }
}

impl Projection {
    fn load(
        loader: &mut LayerLoader<'_, '_>,
        weight: LayerTensor,
        bias: LayerTensor,
        width: usize,
    ) -> Result<Self, StartError> {
        let weight = loader.matrix(weight, width, loader.hidden())?;
        let has_bias = loader.config.attention_bias;
        let bias = has_bias.then(|| loader.vector(bias, width)).transpose()?;
        Ok(Self { weight, bias })
    }

    fn enqueue(&self, step: Step<'_>, x: &Buffer, out: &Buffer) -> Result<(), BackendError> {
        project(step, &self.weight, x, out)?;
        match &self.bias {
            None => Ok(()),
            Some(bias) => step.queue.push(Op::AddBias {
                bias: bias.clone(),
                into: out.clone(),
                rows: step.pass.tokens,
            }),
        }
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
