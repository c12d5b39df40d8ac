//! The families that can be served, by the architecture's name.

mod llama;
mod olmoe;
mod qwen2moe;
mod qwen3;
mod qwen3moe;

use super::Family;
use super::weights::WeightLoader;
use crate::api::StartError;
use odmoe_backend::Scoring;
use odmoe_formats::architecture::{LLAMA, OLMOE, QWEN2_MOE, QWEN3, QWEN3_MOE};
use odmoe_formats::model_config::ModelConfig;

/// Loads a family's weights and composes its layers.
type Build = fn(&ModelConfig, &mut WeightLoader<'_>) -> Result<Box<dyn Family>, StartError>;

/// Every family, by the name in [`ModelConfig::architecture`]. A new one is a file beside this and a line here.
const FAMILIES: [(&str, Build); 5] = [
    (LLAMA, llama::build),
    (OLMOE, olmoe::build),
    (QWEN2_MOE, qwen2moe::build),
    (QWEN3, qwen3::build),
    (QWEN3_MOE, qwen3moe::build),
];

/// The family of an architecture.
pub fn find(architecture: &str) -> Result<Build, StartError> {
    let found = FAMILIES.iter().find(|(name, _)| *name == architecture);
    found
        .map(|(_, build)| *build)
        .ok_or_else(|| StartError::Architecture {
            found: architecture.to_owned(),
            supported: FAMILIES.map(|(name, _)| name).join(", "),
        })
}

/// Softmax over all experts, then the largest K, scaled to sum to one where the configuration says so.
fn softmax_top_k(config: &ModelConfig) -> Scoring {
    let moe = config.moe.as_ref();
    Scoring::SoftmaxTopK {
        renormalise: moe.is_some_and(|moe| moe.norm_topk_prob),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use odmoe_formats::architecture;

    #[test]
    fn what_a_store_can_hold_can_be_served() {
        let names = FAMILIES.map(|(name, _)| name);
        assert_eq!(names.join(", "), architecture::supported());
        assert!(names.iter().all(|name| find(name).is_ok()));
    }
}
