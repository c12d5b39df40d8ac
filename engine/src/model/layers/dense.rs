//! The second half of a dense layer.

use super::{LayerLoader, RmsNorm, SwiGlu};
use crate::api::StartError;
use crate::model::Step;
use odmoe_backend::{BackendError, Op};
use odmoe_formats::names::LayerTensor;

/// hidden += mlp(norm(hidden)).
pub struct DenseLayer {
    /// After attention.
    pub norm: RmsNorm,
    /// I wide.
    pub mlp: SwiGlu,
}

impl DenseLayer {
    /// From the canonical tensors of a layer.
    pub fn load(loader: &mut LayerLoader<'_, '_>) -> Result<Self, StartError> {
        let width = loader.config.intermediate_size as usize;
        Ok(Self {
            norm: loader.norm(LayerTensor::PostAttentionNorm, loader.hidden())?,
            mlp: SwiGlu::load(
                loader,
                [
                    LayerTensor::GateProj,
                    LayerTensor::UpProj,
                    LayerTensor::DownProj,
                ],
                width,
            )?,
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
        self.mlp.enqueue(step)?;
        queue.push(Op::AddInPlace {
            x: scratch.projected.clone(),
            into: scratch.hidden.clone(),
            elements: pass.tokens * self.mlp.down.rows,
        })
    }
}
