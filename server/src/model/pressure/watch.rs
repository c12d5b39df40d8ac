//! A thread that looks at the system's memory once a second and holds the experts' budget below what it bears.

use super::signals::PressureSignals;
use super::{Budget, Pressure};
use crate::model::live_budget::LiveBudget;
use odmoe_formats::ByteCount;
use std::path::Path;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

const INTERVAL: Duration = Duration::from_secs(1);

/// Watches until the budget is dropped. Where no thread can be had, budgets stay as they are asked for.
pub fn watch(budget: &Arc<LiveBudget>) {
    let budget = Arc::downgrade(budget);
    let thread = std::thread::Builder::new().name("odmoe-pressure".into());
    if let Err(error) = thread.spawn(move || run(&budget)) {
        tracing::warn!(%error, "memory pressure is not watched");
    }
}

fn run(budget: &Weak<LiveBudget>) {
    let mut signals = PressureSignals::new(Path::new("/"));
    let mut pressure = Pressure::default();
    let begin = Instant::now();
    while let Some(live) = budget.upgrade() {
        let now = Instant::now();
        let (asked, before) = live.asked_and_applied();
        let seen = Budget {
            asked: asked.0,
            applied: before.0,
            least: live.least().0,
        };
        let ceiling = pressure.observe(now - begin, signals.sample(now), seen);
        let after = live.hold(ceiling.map(ByteCount));
        if after != before {
            tracing::info!(%before, %after, %asked, "the expert cache follows the memory that there is");
        }
        drop(live);
        std::thread::sleep(INTERVAL);
    }
}
