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
    /// Whether the layer routes to experts.
    pub fn is_sparse(&self) -> bool {
        self.config.is_sparse(self.layer)
    }

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

    /// A matrix [rows, columns] that is never quantised.
    pub fn float_matrix(
        &mut self,
        tensor: LayerTensor,
        rows: usize,
        columns: usize,
    ) -> Result<Weight, StartError> {
        self.weights.float_matrix(&self.name(tensor), rows, columns)
    }

    /// A vector [width].
    pub fn vector(&mut self, tensor: LayerTensor, width: usize) -> Result<Weight, StartError> {
        self.weights.vector(&self.name(tensor), width)
    }

    /// A norm over `width` elements.
    pub fn norm(&mut self, tensor: LayerTensor, width: usize) -> Result<RmsNorm, StartError> {
        Ok(RmsNorm {
            weight: self.vector(tensor, width)?,
            epsilon: self.config.rms_norm_eps,
        })
    }

    fn name(&self, tensor: LayerTensor) -> String {
        names::in_layer(self.layer, tensor)
    }
}
