//! An eviction policy, run over recorded uses without the store around it.

use lru::LruCache;
use odmoe_formats::ExpertKey;
use std::num::NonZeroUsize;

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

/// Least recently used, with `capacity` slots, from an empty cache.
pub fn lru(uses: &[ExpertKey], capacity: usize) -> HitCount {
    let capacity = NonZeroUsize::new(capacity).expect("a cache without slots cannot serve");
    let mut cache = LruCache::new(capacity);
    let mut count = HitCount::default();
    for &key in uses {
        count.record(cache.put(key, ()).is_some());
    }
    count
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
