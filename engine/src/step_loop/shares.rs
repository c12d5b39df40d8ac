//! What experts and the KV cache take of one memory, while they are used.
//!
//! Whoever is to have more waits until the other has let go of what it has too much, so that the sum never exceeds the
//! larger of the old and the new one. Whoever is to have less begins at once.

use super::StepLoop;
use super::inbox::Commands;
use odmoe_formats::ByteCount;
use std::time::Instant;

/// What is asked for and not begun, and what was begun last.
pub struct Shares {
    wanted_experts: Option<ByteCount>,
    wanted_kv_blocks: Option<usize>,
    experts: ByteCount,
    kv_blocks: usize,
    /// What the backend was told to use.
    kv_bound: usize,
}

impl Shares {
    /// As the engine starts.
    pub fn new(experts: ByteCount, kv_blocks: usize) -> Self {
        Self {
            wanted_experts: None,
            wanted_kv_blocks: None,
            experts,
            kv_blocks,
            kv_bound: kv_blocks,
        }
    }

    /// Takes in what handles asked for; a later word replaces an earlier one.
    pub fn ask(&mut self, commands: &Commands) {
        self.wanted_experts = commands.expert_budget.or(self.wanted_experts);
        self.wanted_kv_blocks = commands.kv_blocks.or(self.wanted_kv_blocks);
    }
}

impl StepLoop {
    /// Begins what can begin, and gives KV memory back that nothing holds any more.
    pub(super) fn divide_memory(&mut self) {
        let shares = &self.shares;
        let (fewer, less) = (shares.kv_blocks, shares.experts);
        if let Some(blocks) = shares.wanted_kv_blocks.filter(|blocks| *blocks <= fewer) {
            self.begin_kv(blocks);
        }
        if let Some(budget) = self.shares.wanted_experts.filter(|budget| *budget <= less) {
            self.begin_experts(budget);
        }
        if let Some(blocks) = self.shares.wanted_kv_blocks {
            let store = self.store.gauges();
            if store.capacity <= store.budget {
                self.begin_kv(blocks);
            }
        }
        if let Some(budget) = self.shares.wanted_experts
            && self.scheduler.kv_bound() <= self.shares.kv_blocks
        {
            self.begin_experts(budget);
        }
        let bound = self.scheduler.kv_bound();
        if bound != self.shares.kv_bound {
            self.shares.kv_bound = bound;
            self.model.queue.use_kv_blocks(&self.model.kv, bound);
        }
    }

    fn begin_experts(&mut self, budget: ByteCount) {
        (self.shares.wanted_experts, self.shares.experts) = (None, budget);
        let resized = self.store.resize(budget, Instant::now());
        resized.expect("checked by the handle");
    }

    fn begin_kv(&mut self, blocks: usize) {
        (self.shares.wanted_kv_blocks, self.shares.kv_blocks) = (None, blocks);
        self.scheduler.set_kv_blocks(blocks);
    }
}
