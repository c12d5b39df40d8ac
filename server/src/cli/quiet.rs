//! An observer for commands that count nothing.

use odmoe_engine::{EngineEvent, EngineObserver};

/// Ignores everything.
pub struct Quiet;

impl EngineObserver for Quiet {
    fn record(&self, _event: &EngineEvent) {}
}
