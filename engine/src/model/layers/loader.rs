//! The resident weights of one layer, by canonical name.

use super::RmsNorm;
use crate::api::StartError;
use crate::model::weights::WeightLoader;
use odmoe_backend::Weight;
use odmoe_formats::model_config::ModelConfig;
use odmoe_formats::names::{self, LayerTensor};

/// Loads the tensors of one layer.
pub struct LayerLoader<'a, 'w> {
    /// Widths.
    pub config: &'a ModelConfig,
    /// Where tensors come from.
    pub weights: &'a mut WeightLoader<'w>,
    /// The layer.
    pub layer: u32,
}

impl LayerLoader<'_, '_> {
    /// H.
    pub fn hidden(&self) -> usize {
        self.config.hidden_size as usize
    }

    /// A matrix [rows, columns].
    pub fn matrix(
        &mut self,
        tensor: LayerTensor,
        rows: usize,
        columns: usize,
    ) -> Result<Weight, StartError> {
        self.weights.matrix(&self.name(tensor), rows, columns)
    }

    /// The router [E, H].
    pub fn router(&mut self) -> Result<Weight, StartError> {
        let experts = self.config.num_experts() as usize;
        let name = self.name(LayerTensor::Router);
        self.weights.router(&name, experts, self.hidden())
    }

    /// A norm over `width` elements.
    pub fn norm(&mut self, tensor: LayerTensor, width: usize) -> Result<RmsNorm, StartError> {
        let weight = self.weights.vector(&self.name(tensor), width)?;
        Ok(RmsNorm {
            weight,
            epsilon: self.config.rms_norm_eps,
        })
    }

    fn name(&self, tensor: LayerTensor) -> String {
        names::in_layer(self.layer, tensor)
    }
}
