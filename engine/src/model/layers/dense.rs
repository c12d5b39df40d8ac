//! The gated MLP of a dense layer (SwiGLU: Shazeer, 2020).

use super::attention::project;
use super::{LayerLoader, RmsNorm};
use crate::api::StartError;
use crate::model::Step;
use odmoe_backend::{BackendError, Op, Weight};
use odmoe_formats::names::LayerTensor;

/// hidden += down * (silu(gate * x) * (up * x)) where x = norm(hidden).
pub struct DenseLayer {
    /// After attention.
    pub norm: RmsNorm,
    /// [F, H].
    pub gate: Weight,
    /// [F, H].
    pub up: Weight,
    /// [H, F].
    pub down: Weight,
}

impl DenseLayer {
    /// From the canonical tensors of a layer.
    pub fn load(loader: &mut LayerLoader<'_, '_>) -> Result<Self, StartError> {
        let (hidden, width) = (loader.hidden(), loader.config.intermediate_size as usize);
        Ok(Self {
            norm: loader.norm(LayerTensor::PostAttentionNorm, hidden)?,
            gate: loader.matrix(LayerTensor::GateProj, width, hidden)?,
            up: loader.matrix(LayerTensor::UpProj, width, hidden)?,
            down: loader.matrix(LayerTensor::DownProj, hidden, width)?,
        })
    }

    /// Enqueues the whole half layer.
    pub fn enqueue(&self, step: Step<'_>) -> Result<(), BackendError> {
        let Step {
            queue,
            pass,
            scratch,
            ..
        } = step;
        self.norm
            .enqueue(queue, &scratch.hidden, &scratch.normed, pass.tokens)?;
        project(step, &self.gate, &scratch.normed, &scratch.dense_gate)?;
        project(step, &self.up, &scratch.normed, &scratch.dense_up)?;
        queue.push(Op::SiluMul {
            gate: scratch.dense_gate.clone(),
            up: scratch.dense_up.clone(),
            out: scratch.dense_gate.clone(),
            elements: pass.tokens * self.gate.rows,
        })?;
        project(step, &self.down, &scratch.dense_gate, &scratch.projected)?;
        queue.push(Op::AddInPlace {
            x: scratch.projected.clone(),
            into: scratch.hidden.clone(),
            elements: pass.tokens * self.down.rows,
        })
    }
}
