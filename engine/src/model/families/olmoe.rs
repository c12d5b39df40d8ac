//! OLMoE (arXiv 2409.02060): attention whose queries and keys are normed over all heads at once, and softmax top-k
//! routing whose weights are left as they are.

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
            attention: Attention::load(layer, QueryKeyNorm::AllHeads)?,
            mlp: Mlp::load(layer, softmax_top_k(config))?,
        })
    })?;
    Ok(Box::new(decoder))
}
