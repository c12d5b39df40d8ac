//! The gated MLP with resident weights (SwiGLU: Shazeer, 2020).

use super::LayerLoader;
use super::attention::project;
use crate::api::StartError;
use crate::model::Step;
use odmoe_backend::{BackendError, Op, Weight};
use odmoe_formats::names::LayerTensor;

/// projected = down * (silu(gate * x) * (up * x)) where x = normed.
pub struct SwiGlu {
    /// [F, H].
    pub gate: Weight,
    /// [F, H].
    pub up: Weight,
    /// [H, F].
    pub down: Weight,
}

impl SwiGlu {
    /// From three tensors of a layer, `width` wide inside.
    pub fn load(
        loader: &mut LayerLoader<'_, '_>,
        [gate, up, down]: [LayerTensor; 3],
        width: usize,
    ) -> Result<Self, StartError> {
        let hidden = loader.hidden();
        Ok(Self {
            gate: loader.matrix(gate, width, hidden)?,
            up: loader.matrix(up, width, hidden)?,
            down: loader.matrix(down, hidden, width)?,
        })
    }

    /// From `scratch.normed` to `scratch.projected`.
    pub fn enqueue(&self, step: Step<'_>) -> Result<(), BackendError> {
        let scratch = step.scratch;
        project(step, &self.gate, &scratch.normed, &scratch.mlp_gate)?;
        project(step, &self.up, &scratch.normed, &scratch.mlp_up)?;
        step.queue.push(Op::SiluMul {
            gate: scratch.mlp_gate.clone(),
            up: scratch.mlp_up.clone(),
            out: scratch.mlp_gate.clone(),
            elements: step.pass.tokens * self.gate.rows,
        })?;
        project(step, &self.down, &scratch.mlp_gate, &scratch.projected)
    }
}
