//! Qwen1.5-MoE and Qwen2-MoE (Qwen2 Technical Report, arXiv 2407.10671): attention with biases on queries, keys and
//! values, and in every sparse layer softmax top-k routing beside a shared expert behind a gate of its own.

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
            attention: Attention::load(layer, QueryKeyNorm::Absent)?,
            mlp: Mlp::load_with_shared(layer, softmax_top_k(config))?,
        })
    })?;
    Ok(Box::new(decoder))
}
