//! Llama (arXiv 2302.13971; grouped queries: 2307.09288; divided rotary frequencies: 2407.21783) and what is built like
//! it: grouped-query attention, with biases in some models, and SwiGLU. Mixtral (arXiv 2401.04088) has experts in place
//! of one MLP, weighted by a softmax over the chosen ones: that over all of them, scaled to sum to one.

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
            mlp: Mlp::load(layer, softmax_top_k(config))?,
        })
    })?;
    Ok(Box::new(decoder))
}
