//! Qwen3-MoE (Qwen3 Technical Report, arXiv 2505.09388): grouped-query attention with each head normed, and in every
//! sparse layer softmax top-k routing without shared experts.

use super::softmax_top_k;
use crate::api::StartError;
use crate::model::Family;
use crate::model::layers::{Attention, Decoder, DecoderLayer, Mlp};
use crate::model::weights::WeightLoader;
use odmoe_formats::architecture::QueryKeyNorm;
use odmoe_formats::model_config::ModelConfig;

pub(super) fn build(
    config: &ModelConfig,
    weights: &mut WeightLoader<'_>,
) -> Result<Box<dyn Family>, StartError> {
    let decoder = Decoder::load(config, weights, |layer| {
        Ok(DecoderLayer {
            attention: Attention::load(layer, QueryKeyNorm::EachHead)?,
            mlp: Mlp::load(layer, softmax_top_k(config))?,
        })
    })?;
    Ok(Box::new(decoder))
}
