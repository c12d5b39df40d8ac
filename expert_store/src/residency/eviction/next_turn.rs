//! Keeps what is likely to be used soon: how likely, from how often and how lately; how soon, from its layer's place.

use super::{EvictionPolicy, Heat};
use lru::LruCache;
use odmoe_formats::{ExpertKey, LayerIndex};
use rustc_hash::FxHashMap;
use std::collections::BTreeMap;

/// What a pass leaves of the two shares of use: one remembers the last pass or two, the other some tens of them.
const RECENT_KEEPS: f64 = 0.25;
const LASTING_KEEPS: f64 = 0.978_572; // half of it is left after 32 passes
/// The weight of the recent share.
const RECENT_WEIGHT: f64 = 0.15;
/// The chance of an object that was not used for ages.
const LEAST_CHANCE: f64 = 0.005;

/// Decode goes through the layers in turn, so an object can be used next when its layer's turn comes, and at no other
/// time. Its chance then is estimated by a mean of two decayed shares of use. A slot is best spent where the chance is
/// high and the wait for it short: the object with the least chance by wait leaves first.
///
/// What decode has not used yet is in a list of its own and leaves before all others, as in [`super::SegmentedLru`].
pub struct NextTurn {
    cold: LruCache<ExpertKey, ()>,
    /// Of each layer the warm objects, the least likely first.
    warm: BTreeMap<LayerIndex, Vec<Ranked>>,
    /// Of everything that decode ever used: as many records as the model has objects.
    records: FxHashMap<ExpertKey, Record>,
    clock: Clock,
}

/// Where decode is.
#[derive(Default)]
struct Clock {
    /// Times that it began anew.
    pass: u64,
    /// The layer whose turn it is.
    layer: u32,
    /// Layers that it is known to go through.
    layers: u32,
}

impl Clock {
    /// Until a layer's next turn, in layers; a whole pass for the one whose turn it is.
    fn wait(&self, layer: LayerIndex) -> f64 {
        let layers = self.layers.max(layer.0 + 1);
        let ahead = (layer.0 + layers - self.layer) % layers;
        f64::from(if ahead == 0 { layers } else { ahead })
    }
}

/// An object's uses by decode.
#[derive(Clone, Copy, Default)]
struct Record {
    /// The pass that the shares are of.
    pass: u64,
    recent: f64,
    lasting: f64,
}

impl Record {
    fn decay_to(&mut self, pass: u64) {
        let passes = (pass - self.pass).min(1 << 20) as i32;
        self.pass = pass;
        self.recent *= RECENT_KEEPS.powi(passes);
        self.lasting *= LASTING_KEEPS.powi(passes);
    }

    fn count_use(&mut self) {
        self.recent += 1.0 - RECENT_KEEPS;
        self.lasting += 1.0 - LASTING_KEEPS;
    }

    /// Of a use at the layer's next turn.
    fn chance(&self) -> f64 {
        RECENT_WEIGHT * self.recent + (1.0 - RECENT_WEIGHT) * self.lasting + LEAST_CHANCE
    }
}

#[derive(Clone, Copy)]
struct Ranked {
    chance: f64,
    key: ExpertKey,
}

impl Ranked {
    fn order(&self, other: &Self) -> std::cmp::Ordering {
        self.chance
            .total_cmp(&other.chance)
            .then(self.key.cmp(&other.key))
    }
}

impl Default for NextTurn {
    fn default() -> Self {
        Self {
            cold: LruCache::unbounded(),
            warm: BTreeMap::new(),
            records: FxHashMap::default(),
            clock: Clock::default(),
        }
    }
}

impl NextTurn {
    /// Ranks a used object anew.
    fn put_warm(&mut self, key: ExpertKey) {
        self.take_warm(key);
        let record = self.records.entry(key).or_default();
        record.decay_to(self.clock.pass);
        record.count_use();
        let ranked = Ranked {
            chance: record.chance(),
            key,
        };
        let layer = self.warm.entry(key.layer).or_default();
        let place = layer.partition_point(|other| other.order(&ranked).is_lt());
        layer.insert(place, ranked);
    }

    fn take_warm(&mut self, key: ExpertKey) {
        if let Some(layer) = self.warm.get_mut(&key.layer)
            && let Some(place) = layer.iter().position(|ranked| ranked.key == key)
        {
            layer.remove(place);
        }
    }
}

impl EvictionPolicy for NextTurn {
    fn reached(&mut self, layer: LayerIndex) {
        let clock = &mut self.clock;
        if layer.0 <= clock.layer {
            clock.pass += 1;
        }
        clock.layer = layer.0;
        clock.layers = clock.layers.max(layer.0 + 1);
        // From here to the layer's next turn only a use changes a chance, so that it is reckoned once a pass.
        let Some(ranks) = self.warm.get_mut(&layer) else {
            return;
        };
        for ranked in ranks.iter_mut() {
            let record = self.records.get_mut(&ranked.key);
            let record = record.expect("what is warm has been used");
            record.decay_to(clock.pass);
            ranked.chance = record.chance();
        }
        ranks.sort_unstable_by(Ranked::order);
    }

    fn remember(&mut self, key: ExpertKey, share: f64) {
        self.records.entry(key).or_default().lasting = share;
    }

    fn insert(&mut self, key: ExpertKey, heat: Heat) {
        match heat {
            Heat::Cold => {
                self.cold.put(key, ());
            }
            Heat::Warm => self.put_warm(key),
        }
    }

    fn touch(&mut self, key: ExpertKey, heat: Heat) {
        match heat {
            Heat::Cold => {
                self.cold.promote(&key);
            }
            Heat::Warm => {
                self.cold.pop(&key);
                self.put_warm(key);
            }
        }
    }

    fn remove(&mut self, key: ExpertKey) {
        if self.cold.pop(&key).is_none() {
            self.take_warm(key);
        }
    }

    fn victim(&self, may_leave: &mut dyn FnMut(ExpertKey) -> bool) -> Option<ExpertKey> {
        let cold = self.cold.iter().rev().map(|(key, ())| *key);
        if let Some(key) = cold.into_iter().find(|key| may_leave(*key)) {
            return Some(key);
        }
        let mut least: Option<(f64, ExpertKey)> = None;
        for (layer, ranks) in &self.warm {
            let wait = self.clock.wait(*layer);
            let worse =
                |ranked: &&Ranked| least.is_none_or(|(worth, _)| ranked.chance / wait < worth);
            let found = ranks
                .iter()
                .take_while(worse)
                .find(|ranked| may_leave(ranked.key));
            if let Some(ranked) = found {
                least = Some((ranked.chance / wait, ranked.key));
            }
        }
        least.map(|(_, key)| key)
    }

    fn order(&self) -> Vec<ExpertKey> {
        let warm = self.warm.iter().flat_map(|(layer, ranks)| {
            let wait = self.clock.wait(*layer);
            ranks
                .iter()
                .map(move |ranked| (ranked.chance / wait, ranked.key))
        });
        let mut warm: Vec<(f64, ExpertKey)> = warm.collect();
        warm.sort_by(|a, b| a.0.total_cmp(&b.0));
        let cold = self.cold.iter().rev().map(|(key, ())| *key);
        cold.chain(warm.into_iter().map(|(_, key)| key)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(layer: u32, index: u32) -> ExpertKey {
        ExpertKey::routed(layer, index)
    }

    /// A pass over two layers that uses these objects, in memory or not.
    fn pass(policy: &mut NextTurn, uses: [&[u32]; 2]) {
        for (layer, indices) in (0..).zip(uses) {
            policy.reached(LayerIndex(layer));
            for &index in indices {
                policy.touch(key(layer, index), Heat::Warm);
            }
        }
    }

    #[test]
    fn the_rarely_used_leave_before_the_often_used() {
        let mut policy = NextTurn::default();
        for _ in 0..6 {
            pass(&mut policy, [&[0], &[]]);
        }
        pass(&mut policy, [&[1], &[]]);
        for _ in 0..3 {
            pass(&mut policy, [&[], &[]]);
        }
        assert_eq!(policy.order(), [key(0, 1), key(0, 0)]);
        assert_eq!(policy.victim(&mut |_| true), Some(key(0, 1)));
        assert_eq!(policy.victim(&mut |k| k != key(0, 1)), Some(key(0, 0)));
        assert_eq!(policy.victim(&mut |_| false), None);
    }

    #[test]
    fn of_two_alike_the_one_whose_turn_has_just_passed_leaves() {
        let mut policy = NextTurn::default();
        pass(&mut policy, [&[4], &[5]]);
        assert_eq!(policy.victim(&mut |_| true), Some(key(1, 5)));
        policy.reached(LayerIndex(0));
        policy.touch(key(0, 4), Heat::Warm);
        policy.reached(LayerIndex(1));
        policy.touch(key(1, 5), Heat::Warm);
        policy.reached(LayerIndex(0));
        assert_eq!(policy.victim(&mut |_| true), Some(key(0, 4)));
    }

    #[test]
    fn what_left_is_remembered_and_the_cold_leave_first() {
        let mut policy = NextTurn::default();
        for _ in 0..8 {
            pass(&mut policy, [&[0], &[]]);
        }
        policy.remove(key(0, 0));
        policy.insert(key(1, 9), Heat::Cold);
        policy.insert(key(1, 8), Heat::Cold);
        policy.touch(key(1, 9), Heat::Cold);
        pass(&mut policy, [&[1, 0], &[]]);
        let order = policy.order();
        assert_eq!(order, [key(1, 8), key(1, 9), key(0, 1), key(0, 0)]);
        assert_eq!(policy.victim(&mut |_| true), Some(key(1, 8)));
        policy.remove(key(1, 8));
        policy.touch(key(1, 9), Heat::Warm);
        assert_eq!(policy.order().len(), 3);
        assert!(
            policy.victim(&mut |k| k == key(1, 9)).is_some(),
            "it is warm now"
        );
    }
}
