//! Least recently used, in two segments.

use super::{EvictionPolicy, Heat};
use lru::LruCache;
use odmoe_formats::ExpertKey;

/// Two lists, each in order of use. Everything cold leaves before anything warm: a long prefill and wrong
/// predictions pass through the cold list and leave what decode uses alone.
pub struct SegmentedLru {
    cold: LruCache<ExpertKey, ()>,
    warm: LruCache<ExpertKey, ()>,
}

impl Default for SegmentedLru {
    fn default() -> Self {
        Self {
            cold: LruCache::unbounded(),
            warm: LruCache::unbounded(),
        }
    }
}

impl EvictionPolicy for SegmentedLru {
    fn insert(&mut self, key: ExpertKey, heat: Heat) {
        match heat {
            Heat::Cold => self.cold.put(key, ()),
            Heat::Warm => self.warm.put(key, ()),
        };
    }

    fn touch(&mut self, key: ExpertKey, heat: Heat) {
        match heat {
            Heat::Cold => {
                self.cold.promote(&key);
            }
            Heat::Warm => {
                self.cold.pop(&key);
                self.warm.put(key, ());
            }
        }
    }

    fn remove(&mut self, key: ExpertKey) {
        if self.cold.pop(&key).is_none() {
            self.warm.pop(&key);
        }
    }

    fn victim(&self, may_leave: &mut dyn FnMut(ExpertKey) -> bool) -> Option<ExpertKey> {
        let coldest_first = self.cold.iter().rev().chain(self.warm.iter().rev());
        coldest_first
            .map(|(key, ())| *key)
            .find(|key| may_leave(*key))
    }

    fn order(&self) -> Vec<ExpertKey> {
        self.cold
            .iter()
            .rev()
            .chain(self.warm.iter().rev())
            .map(|(key, ())| *key)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(index: u32) -> ExpertKey {
        ExpertKey::routed(0, index)
    }

    #[test]
    fn cold_leaves_before_warm_and_oldest_first() {
        let mut lru = SegmentedLru::default();
        for (index, heat) in [
            (0, Heat::Warm),
            (1, Heat::Cold),
            (2, Heat::Warm),
            (3, Heat::Cold),
        ] {
            lru.insert(key(index), heat);
        }
        assert_eq!(lru.order(), [1, 3, 0, 2].map(key));
        lru.touch(key(0), Heat::Warm);
        lru.touch(key(1), Heat::Cold);
        assert_eq!(lru.order(), [3, 1, 2, 0].map(key));
        lru.touch(key(3), Heat::Warm);
        assert_eq!(
            lru.order(),
            [1, 2, 0, 3].map(key),
            "a use by decode makes it warm"
        );
    }

    #[test]
    fn victim_skips_what_must_stay() {
        let mut lru = SegmentedLru::default();
        for index in 0..3 {
            lru.insert(key(index), Heat::Warm);
        }
        assert_eq!(lru.victim(&mut |k| k != key(0)), Some(key(1)));
        assert_eq!(lru.victim(&mut |_| false), None);
        lru.remove(key(1));
        assert_eq!(lru.order(), [0, 2].map(key));
    }
}
