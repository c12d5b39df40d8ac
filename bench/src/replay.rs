//! Eviction policies, run over recorded demands without the store around them.

use crate::steps::{Step, Steps};
use odmoe_expert_store::Phase;
use odmoe_expert_store::residency::eviction::{EvictionPolicy, Heat};
use odmoe_formats::ExpertKey;
use std::collections::HashMap;

/// Uses and, of them, those found in the cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HitCount {
    /// Found.
    pub hits: u64,
    /// All.
    pub uses: u64,
}

impl HitCount {
    /// Hits by uses; 0 where nothing was used.
    pub fn rate(self) -> f64 {
        if self.uses == 0 {
            0.0
        } else {
            self.hits as f64 / self.uses as f64
        }
    }

    /// The share of the way from `lru` to `best` that this is; 0 where there is no way.
    pub fn gap_closed(self, lru: Self, best: Self) -> f64 {
        if best.hits == lru.hits {
            return 0.0;
        }
        (self.rate() - lru.rate()) / (best.rate() - lru.rate())
    }
}

/// A policy over demands, with `capacity` slots (at least [`Steps::widest`]) of one size, from an empty cache. As in
/// the store, what a step wants stays until it is over, and prefill recycles its own half once half is cold.
pub fn replay(policy: Box<dyn EvictionPolicy>, steps: &Steps, capacity: usize) -> HitCount {
    replay_hinted(policy, steps, capacity, |_, _| {})
}

/// The same; `before` sees each step with what is in the cache when it comes.
pub fn replay_hinted(
    policy: Box<dyn EvictionPolicy>,
    steps: &Steps,
    capacity: usize,
    mut before: impl FnMut(Step<'_>, &dyn Fn(ExpertKey) -> bool),
) -> HitCount {
    assert!(capacity >= steps.widest(), "a step must fit");
    let mut cache = Cache {
        policy,
        capacity,
        resident: HashMap::with_capacity(capacity),
        cold: 0,
    };
    let mut count = HitCount::default();
    for step in steps.iter() {
        before(step, &|key| cache.resident.contains_key(&key));
        count.hits += cache.serve(step);
        count.uses += step.keys.len() as u64;
    }
    count
}

struct Cache {
    policy: Box<dyn EvictionPolicy>,
    capacity: usize,
    resident: HashMap<ExpertKey, Heat>,
    cold: usize,
}

impl Cache {
    /// Returns how many were found.
    fn serve(&mut self, step: Step<'_>) -> u64 {
        let heat = match step.phase {
            Phase::Prefill => Heat::Cold,
            Phase::Decode => Heat::Warm,
        };
        if heat == Heat::Warm {
            self.policy.reached(step.keys[0].layer);
        }
        let (hits, misses): (Vec<_>, Vec<_>) = step
            .keys
            .iter()
            .partition(|key| self.resident.contains_key(key));
        for key in &hits {
            let before = self.resident[key];
            let heat = if before == Heat::Warm { before } else { heat };
            self.policy.touch(*key, heat);
            self.set_heat(*key, Some(heat));
        }
        for key in misses {
            if self.resident.len() == self.capacity {
                self.evict(step);
            }
            self.policy.insert(key, heat);
            self.set_heat(key, Some(heat));
        }
        hits.len() as u64
    }

    fn evict(&mut self, step: Step<'_>) {
        let half_cold = self.cold >= (self.capacity / 2).max(1);
        let spares_warm = step.phase == Phase::Prefill && half_cold;
        let resident = &self.resident;
        let free = |key: &ExpertKey| step.keys.binary_search(key).is_err();
        let mut may_leave =
            |key: ExpertKey| free(&key) && !(spares_warm && resident[&key] == Heat::Warm);
        let victim = self.policy.victim(&mut may_leave);
        // In the store a prompt would wait for its own pins here; without time any free object must do.
        let victim = victim.or_else(|| self.policy.victim(&mut |key| free(&key)));
        let victim = victim.expect("a step fits");
        self.policy.remove(victim);
        self.set_heat(victim, None);
    }

    fn set_heat(&mut self, key: ExpertKey, heat: Option<Heat>) {
        let before = match heat {
            Some(heat) => self.resident.insert(key, heat),
            None => self.resident.remove(&key),
        };
        self.cold += usize::from(heat == Some(Heat::Cold));
        self.cold -= usize::from(before == Some(Heat::Cold));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use odmoe_expert_store::residency::eviction::SegmentedLru;

    fn lru(steps: &Steps, capacity: usize) -> HitCount {
        replay(Box::<SegmentedLru>::default(), steps, capacity)
    }

    fn key(index: u32) -> ExpertKey {
        ExpertKey::routed(3, index)
    }

    #[test]
    fn hand_computed() {
        let mut uses = Steps::default();
        for index in [0, 1, 0, 2, 1, 0, 0] {
            uses.push(Phase::Decode, [key(index)]);
        }
        // Two slots: 0 1 miss, 0 hits, 2 evicts 1, 1 evicts 0, 0 evicts 2, 0 hits.
        assert_eq!(lru(&uses, 2), HitCount { hits: 2, uses: 7 });
        assert_eq!(lru(&uses, 3), HitCount { hits: 4, uses: 7 });
        assert_eq!(lru(&Steps::default(), 1).rate(), 0.0);
        let (lru, best) = (lru(&uses, 2), HitCount { hits: 4, uses: 7 });
        assert!((HitCount { hits: 3, uses: 7 }.gap_closed(lru, best) - 0.5).abs() < 1e-12);
    }

    #[test]
    fn a_long_prompt_leaves_half_to_decode() {
        let mut steps = Steps::default();
        steps.push(Phase::Decode, [0, 1, 2, 3].map(key));
        for index in 10..30 {
            steps.push(Phase::Prefill, [key(index)]);
        }
        steps.push(Phase::Decode, [0, 1, 2, 3].map(key));
        assert_eq!(lru(&steps, 8).hits, 4);
        assert_eq!(
            lru(&steps, 4).hits,
            3,
            "what is cold leaves before what is warm"
        );
    }
}
