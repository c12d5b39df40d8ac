//! The store's own eviction policies, run over recorded uses without the store around them.

use odmoe_expert_store::residency::eviction::{EvictionPolicy, Heat, SegmentedLru};
use odmoe_formats::ExpertKey;
use std::collections::HashSet;

/// Uses and, of them, those found in the cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HitCount {
    /// Found.
    pub hits: u64,
    /// All.
    pub uses: u64,
}

impl HitCount {
    /// Counts one use.
    pub fn record(&mut self, hit: bool) {
        self.hits += u64::from(hit);
        self.uses += 1;
    }

    /// Hits by uses; 0 where nothing was used.
    pub fn rate(self) -> f64 {
        if self.uses == 0 {
            0.0
        } else {
            self.hits as f64 / self.uses as f64
        }
    }
}

/// A policy over uses by decode, with `capacity` slots, from an empty cache.
pub fn replay(mut policy: impl EvictionPolicy, uses: &[ExpertKey], capacity: usize) -> HitCount {
    assert!(capacity > 0, "a cache without slots cannot serve");
    let mut resident = HashSet::with_capacity(capacity);
    let mut count = HitCount::default();
    for &key in uses {
        let hit = resident.contains(&key);
        count.record(hit);
        if hit {
            policy.touch(key, Heat::Warm);
            continue;
        }
        if resident.len() == capacity {
            let victim = policy
                .victim(&mut |_| true)
                .expect("a full cache has a victim");
            policy.remove(victim);
            resident.remove(&victim);
        }
        policy.insert(key, Heat::Warm);
        resident.insert(key);
    }
    count
}

/// The policy that the store runs.
pub fn lru(uses: &[ExpertKey], capacity: usize) -> HitCount {
    replay(SegmentedLru::default(), uses, capacity)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hand_computed() {
        let uses: Vec<ExpertKey> = [0, 1, 0, 2, 1, 0, 0]
            .map(|index| ExpertKey::routed(3, index))
            .to_vec();
        // Two slots: 0 1 miss, 0 hits, 2 evicts 1, 1 evicts 0, 0 evicts 2, 0 hits.
        assert_eq!(lru(&uses, 2), HitCount { hits: 2, uses: 7 });
        assert_eq!(lru(&uses, 3), HitCount { hits: 4, uses: 7 });
        assert_eq!(lru(&[], 1).rate(), 0.0);
    }
}
