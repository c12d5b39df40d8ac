//! The shared expert of a sparse layer (DeepSeekMoE, arXiv 2401.06066), with the gate of Qwen1.5-MoE.

use super::attention::project;
use super::{LayerLoader, SwiGlu};
use crate::api::StartError;
use crate::model::Step;
use odmoe_backend::{BackendError, Op, Weight};
use odmoe_formats::names::LayerTensor;

/// hidden += sigmoid(gate * x) * mlp(x) where x is the normed input that the layer's router has seen too.
pub struct SharedExpert {
    /// S wide.
    pub mlp: SwiGlu,
    /// [1, H], a float format.
    pub gate: Weight,
}

impl SharedExpert {
    /// From the canonical tensors of a layer.
    pub fn load(loader: &mut LayerLoader<'_, '_>) -> Result<Self, StartError> {
        let width = loader.config.shared_expert_intermediate_size() as usize;
        Ok(Self {
            mlp: SwiGlu::load(
                loader,
                [
                    LayerTensor::SharedGateProj,
                    LayerTensor::SharedUpProj,
                    LayerTensor::SharedDownProj,
                ],
                width,
            )?,
            gate: loader.float_matrix(LayerTensor::SharedExpertGate, 1, loader.hidden())?,
        })
    }

    /// Adds the expert's output to the residual stream. `scratch.normed` is read and kept.
    pub fn enqueue(&self, step: Step<'_>) -> Result<(), BackendError> {
        let scratch = step.scratch;
        project(step, &self.gate, &scratch.normed, &scratch.shared_gate)?;
        self.mlp.enqueue(step)?;
        step.queue.push(Op::AddGated {
            gate: scratch.shared_gate.clone(),
            x: scratch.projected.clone(),
            into: scratch.hidden.clone(),
            rows: step.pass.tokens,
            width: self.gate.columns,
        })
    }
}
