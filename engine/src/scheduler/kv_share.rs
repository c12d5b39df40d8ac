//! How many KV blocks there are, while sequences run.
//!
//! Fewer blocks never end a request: as many stay as the one that needs most may still need, so that the oldest can
//! finish by preempting others, as ever. When those that need more have ended, the rest goes.

use super::Scheduler;

impl Scheduler {
    /// How many blocks there are to be, at most as many as there can be and at least one.
    pub fn set_kv_blocks(&mut self, blocks: usize) {
        self.kv_target = blocks.clamp(1, self.config.kv_blocks);
        self.fit_kv();
    }

    /// Blocks that sequences can have.
    pub fn kv_blocks(&self) -> usize {
        self.pool.limit()
    }

    /// Blocks that sequences can have and none holds.
    pub fn blocks_free(&self) -> usize {
        self.pool.free()
    }

    /// No block from here on holds anything, or will until there are more.
    pub fn kv_bound(&self) -> usize {
        self.pool.bound()
    }

    /// Goes as close to what there is to be as live sequences let it.
    pub(super) fn fit_kv(&mut self) {
        if self.pool.limit() == self.config.kv_blocks && self.kv_target == self.pool.limit() {
            return;
        }
        let live = self.waiting.values().chain(self.running.values());
        let needs = live.filter(|sequence| !sequence.removed);
        let needs = needs.map(|sequence| sequence.most_positions());
        let most = needs.max().unwrap_or(0);
        let most_blocks = most.div_ceil(self.config.kv_block_tokens);
        let limit = self.kv_target.max(most_blocks);
        if limit != self.pool.limit() {
            self.pool.set_limit(limit);
        }
    }
}
