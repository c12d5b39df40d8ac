//! Least frequently and recently used: uses while in memory, by the time since the last one.

use odmoe_expert_store::residency::eviction::{EvictionPolicy, Heat};
use odmoe_formats::{ExpertKey, LayerIndex};
use std::collections::BTreeMap;

/// Evicts the least uses by steps since the last; what leaves is forgotten.
#[derive(Default)]
pub struct Lfru {
    resident: BTreeMap<ExpertKey, Uses>,
    /// Layers that decode has come to.
    now: u64,
}

#[derive(Clone, Copy)]
struct Uses {
    count: u64,
    last: u64,
}

impl Lfru {
    fn worth(&self, uses: Uses) -> f64 {
        uses.count as f64 / (self.now - uses.last + 1) as f64
    }
}

impl EvictionPolicy for Lfru {
    fn reached(&mut self, _layer: LayerIndex) {
        self.now += 1;
    }

    fn insert(&mut self, key: ExpertKey, heat: Heat) {
        let count = u64::from(heat == Heat::Warm);
        let last = self.now;
        self.resident.insert(key, Uses { count, last });
    }

    fn touch(&mut self, key: ExpertKey, heat: Heat) {
        if heat == Heat::Warm
            && let Some(uses) = self.resident.get_mut(&key)
        {
            uses.count += 1;
            uses.last = self.now;
        }
    }

    fn remove(&mut self, key: ExpertKey) {
        self.resident.remove(&key);
    }

    fn victim(&self, may_leave: &mut dyn FnMut(ExpertKey) -> bool) -> Option<ExpertKey> {
        let free = self.resident.iter().filter(|(key, _)| may_leave(**key));
        let least = free.min_by(|a, b| self.worth(*a.1).total_cmp(&self.worth(*b.1)));
        least.map(|(key, _)| *key)
    }

    fn order(&self) -> Vec<ExpertKey> {
        let mut order: Vec<_> = self.resident.iter().collect();
        order.sort_by(|a, b| self.worth(*a.1).total_cmp(&self.worth(*b.1)));
        order.into_iter().map(|(key, _)| *key).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uses_are_weighed_against_the_time_since_the_last() {
        let mut policy = Lfru::default();
        let key = |index| ExpertKey::routed(0, index);
        policy.insert(key(0), Heat::Warm);
        (0..4).for_each(|_| policy.touch(key(0), Heat::Warm));
        (0..3).for_each(|_| policy.reached(LayerIndex(0)));
        policy.insert(key(1), Heat::Warm);
        assert_eq!(policy.order(), [1, 0].map(key), "5 / 4 against 1");
        (0..2).for_each(|_| policy.reached(LayerIndex(0)));
        policy.touch(key(1), Heat::Warm);
        assert_eq!(policy.order(), [0, 1].map(key), "5 / 6 against 2");
    }
}
