//! The output head.

use super::RmsNorm;
use crate::api::StartError;
use crate::model::Step;
use crate::model::weights::WeightLoader;
use odmoe_backend::{BackendError, Buffer, Op, Weight};
use odmoe_formats::model_config::ModelConfig;
use odmoe_formats::names;
use std::sync::Arc;

/// logits = norm(hidden) * weight^T for the rows that are sampled.
pub struct Head {
    /// The final norm.
    pub norm: RmsNorm,
    /// [V, H].
    pub weight: Weight,
}

impl Head {
    /// The final norm, and the head's own matrix or else the embedding table.
    pub fn load(
        config: &ModelConfig,
        embedding: &Weight,
        weights: &mut WeightLoader<'_>,
    ) -> Result<Self, StartError> {
        let norm = RmsNorm {
            weight: weights.vector(names::NORM, embedding.columns)?,
            epsilon: config.rms_norm_eps,
        };
        let weight = match config.tie_word_embeddings {
            true => embedding.clone(),
            false => weights.matrix(names::LM_HEAD, embedding.rows, embedding.columns)?,
        };
        Ok(Self { norm, weight })
    }

    /// Enqueues the head for the pass's sampled rows only: the other rows need no logits.
    pub fn enqueue(&self, step: Step<'_>) -> Result<(), BackendError> {
        let (scratch, rows) = (step.scratch, &step.pass.sampled_rows);
        self.gather(step, rows, &scratch.gathered)?;
        step.queue.push(Op::MatMul {
            x: scratch.gathered.clone(),
            weight: self.weight.clone(),
            out: scratch.logits.clone(),
            tokens: rows.len(),
        })
    }

    /// Enqueues what comes before the head's matrix, for the pass's pooled rows.
    pub fn enqueue_states(&self, step: Step<'_>) -> Result<(), BackendError> {
        self.gather(step, &step.pass.pooled_rows, &step.scratch.normed)
    }

    /// out = norm(hidden) of some rows.
    fn gather(&self, step: Step<'_>, rows: &Arc<[u32]>, out: &Buffer) -> Result<(), BackendError> {
        step.queue.push(Op::GatherRows {
            x: step.scratch.hidden.clone(),
            rows: rows.clone(),
            out: out.clone(),
            width: self.weight.columns,
        })?;
        self.norm.enqueue(step.queue, out, out, rows.len())
    }
}
