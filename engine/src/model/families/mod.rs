//! The families that can be served, by the architecture's name.

mod qwen3moe;

use super::Family;
use super::weights::WeightLoader;
use crate::api::StartError;
use odmoe_formats::model_config::ModelConfig;

/// Loads a family's weights and composes its layers.
type Build = fn(&ModelConfig, &mut WeightLoader<'_>) -> Result<Box<dyn Family>, StartError>;

/// Every family, by the name in [`ModelConfig::architecture`]. A new one is a file beside this and a line here.
const FAMILIES: &[(&str, Build)] = &[("qwen3moe", qwen3moe::build)];

/// The family of an architecture.
pub fn find(architecture: &str) -> Result<Build, StartError> {
    let found = FAMILIES.iter().find(|(name, _)| *name == architecture);
    found
        .map(|(_, build)| *build)
        .ok_or_else(|| StartError::Architecture {
            found: architecture.to_owned(),
            supported: FAMILIES
                .iter()
                .map(|(name, _)| *name)
                .collect::<Vec<_>>()
                .join(", "),
        })
}
