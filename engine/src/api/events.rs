//! Everything countable, as plain data.

use crate::scheduler::PrefixLookups;
use odmoe_expert_store::{StoreEvent, StoreGauges, StoreHealth};

/// Everything countable that happens in the engine, as plain data.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum EngineEvent {
    /// From the expert store.
    Store(StoreEvent),
    /// A lane waited this long for experts, with nothing else to run.
    ExpertStall {
        /// How long.
        seconds: f64,
    },
    /// A lane pass ended.
    Step {
        /// Tokens in it.
        tokens: usize,
        /// Whether it was a prompt chunk.
        prefill: bool,
    },
    /// A sequence was preempted.
    Preempted,
    /// Prompts were looked up among remembered prefixes.
    PrefixLookups(PrefixLookups),
    /// The experts that the predictor named against those that the router chose, for one layer pass.
    Prediction {
        /// Distinct experts chosen.
        chosen: usize,
        /// Of them, predicted.
        predicted: usize,
    },
    /// The gauges after a step.
    Gauges(EngineGauges),
}

/// Receives events on the engine's thread. Must be quick.
pub trait EngineObserver: Send + Sync {
    /// One event.
    fn record(&self, event: &EngineEvent);
}

/// Gauges at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct EngineGauges {
    /// Sequences running.
    pub running: usize,
    /// Requests waiting.
    pub waiting: usize,
    /// KV blocks in use.
    pub kv_blocks_used: usize,
    /// KV blocks that are free and remember a prefix.
    pub kv_blocks_remembered: usize,
    /// KV blocks in all.
    pub kv_blocks: usize,
    /// The store's.
    pub store: StoreGauges,
    /// Whether storage answers.
    pub health: StoreHealth,
}
