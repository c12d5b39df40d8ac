//! Least frequently used, with uses that count for less the older they are.

use odmoe_expert_store::residency::eviction::{EvictionPolicy, Heat};
use odmoe_formats::{ExpertKey, LayerIndex};
use std::collections::{BTreeSet, HashMap};

/// After so many passes a use counts for half.
const HALF_LIFE_PASSES: f64 = 32.0;

/// Evicts the least count. All counts fall alike, so their order changes by uses only: a use at pass p adds 2^(p / 32),
/// kept as its logarithm. The cold count as unused.
#[derive(Default)]
pub struct DecayedFrequency {
    counts: HashMap<ExpertKey, f64>,
    resident: BTreeSet<Ranked>,
    pass: u64,
    layer: Option<LayerIndex>,
}

#[derive(Clone, Copy, PartialEq)]
struct Ranked(f64, ExpertKey);

impl Eq for Ranked {}

impl Ord for Ranked {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.total_cmp(&other.0).then(self.1.cmp(&other.1))
    }
}

impl PartialOrd for Ranked {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl DecayedFrequency {
    fn count(&self, key: ExpertKey) -> f64 {
        self.counts.get(&key).copied().unwrap_or(f64::NEG_INFINITY)
    }

    fn count_use(&mut self, key: ExpertKey) {
        let (before, now) = (self.count(key), self.pass as f64 / HALF_LIFE_PASSES);
        let (most, least) = (before.max(now), before.min(now));
        let sum = most + (least - most).exp2().ln_1p() / std::f64::consts::LN_2;
        self.counts.insert(key, sum);
    }
}

impl EvictionPolicy for DecayedFrequency {
    fn reached(&mut self, layer: LayerIndex) {
        self.pass += u64::from(self.layer.is_some_and(|before| layer <= before));
        self.layer = Some(layer);
    }

    fn insert(&mut self, key: ExpertKey, heat: Heat) {
        if heat == Heat::Warm {
            self.count_use(key);
        }
        self.resident.insert(Ranked(self.count(key), key));
    }

    fn touch(&mut self, key: ExpertKey, heat: Heat) {
        self.remove(key);
        self.insert(key, heat);
    }

    fn remove(&mut self, key: ExpertKey) {
        self.resident.remove(&Ranked(self.count(key), key));
    }

    fn victim(&self, may_leave: &mut dyn FnMut(ExpertKey) -> bool) -> Option<ExpertKey> {
        let mut keys = self.resident.iter().map(|ranked| ranked.1);
        keys.find(|key| may_leave(*key))
    }

    fn order(&self) -> Vec<ExpertKey> {
        self.resident.iter().map(|ranked| ranked.1).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_uses_count_for_less() {
        let mut policy = DecayedFrequency::default();
        let key = |index| ExpertKey::routed(0, index);
        for pass in 0..100 {
            policy.reached(LayerIndex(0));
            match pass {
                0..3 => policy.insert(key(0), Heat::Warm),
                98.. => policy.insert(key(1), Heat::Warm),
                _ => continue,
            }
            policy.remove(key(u32::from(pass >= 98)));
        }
        policy.insert(key(0), Heat::Cold);
        policy.insert(key(1), Heat::Cold);
        policy.insert(key(2), Heat::Cold);
        assert_eq!(
            policy.order(),
            [2, 0, 1].map(key),
            "three uses, but long ago"
        );
    }
}
