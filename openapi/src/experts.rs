//! `GET /admin/experts`

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What became of every expert since the start. Numbers of one moment, between two steps of the engine.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, ToSchema)]
pub struct ExpertsReport {
    /// The served model.
    pub model: String,
    /// One entry for each layer with experts, in order.
    pub layers: Vec<LayerExperts>,
    /// Experts that were asked for, of all layers or of one.
    pub experts_total: u64,
    /// How many of these come before the first one here.
    pub offset: u64,
    /// The experts, by layer and index.
    pub experts: Vec<ExpertEntry>,
    /// The `offset` at which the next ones begin; absent when there are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_offset: Option<u64>,
}

/// The sums of one layer.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, ToSchema)]
pub struct LayerExperts {
    /// Which, from 0.
    pub layer: u32,
    /// Its experts.
    pub experts: u64,
    /// Of them, in memory.
    pub resident: u64,
    /// Lookups.
    pub uses: u64,
    /// Lookups that found the expert in memory.
    pub hits: u64,
    /// Lookups that did not.
    pub misses: MissesByCause,
    /// What was waited for its experts with nothing else to run, in seconds.
    pub stall_s: f64,
    /// How many such waits there were.
    pub stalls: u64,
}

/// One expert.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, ToSchema)]
pub struct ExpertEntry {
    /// Its layer, from 0.
    pub layer: u32,
    /// Its place in the layer, from 0.
    pub expert: u32,
    /// Its length.
    pub bytes: u64,
    /// Whether it is in memory.
    pub resident: bool,
    /// Whether it is to stay there: `--pin-experts` names it.
    pub pinned: bool,
    /// Lookups.
    pub uses: u64,
    /// Lookups that found it in memory.
    pub hits: u64,
    /// Lookups that did not.
    pub misses: MissesByCause,
    /// Uses by decode, the last counting most; a use by prefill counts a sixteenth.
    pub heat: f64,
}

/// Lookups that found an expert missing, by cause, as `odmoe_expert_misses_total` counts them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
pub struct MissesByCause {
    /// Never in memory since the start.
    pub cold: u64,
    /// The cache is too small.
    pub capacity: u64,
    /// It could have stayed.
    pub evicted_early: u64,
    /// A read ahead of demand was not over.
    pub arrived_late: u64,
}
