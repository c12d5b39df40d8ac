//! What became of experts, one by one.

use odmoe_expert_store::ExpertUse;
use odmoe_formats::LayerIndex;
use std::time::Duration;

/// What became of each expert since the start, and what layers waited for theirs.
#[derive(Clone, Debug, Default)]
pub struct ExpertReport {
    /// Every routed expert, in the manifest's order.
    pub experts: Vec<ExpertUse>,
    /// Layers that waited, in ascending order. Together they are the sum of all
    /// [`ExpertStall`](crate::EngineEvent::ExpertStall)s.
    pub layers: Vec<LayerStall>,
}

/// Waits of one layer for its experts, with nothing else to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerStall {
    /// Which.
    pub layer: LayerIndex,
    /// In all.
    pub stall: Duration,
    /// How many.
    pub count: u64,
}

/// Gets one report, on the engine's thread, or is dropped if the engine ends before. Must be quick.
pub type ReportSink = Box<dyn FnOnce(ExpertReport) + Send>;
