//! What was asked of each object, what was found, and why what was missing was missing.

use crate::api::{LookupResult, MissCause, Phase};
use lru::LruCache;
use odmoe_formats::ExpertKey;
use rustc_hash::FxHashMap;

/// Uses of an average object after which an earlier one counts half.
const HALF_LIFE_USES: f64 = 64.0;
/// A prompt chunk asks for nearly every object of a layer, once: that says little about which are worth keeping.
const PREFILL_WEIGHT: f64 = 1.0 / 16.0;

/// Lookups that found an object neither in memory nor read, by cause.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MissCounts {
    /// See [`MissCause::Cold`].
    pub cold: u64,
    /// See [`MissCause::Capacity`].
    pub capacity: u64,
    /// See [`MissCause::EvictedEarly`].
    pub evicted_early: u64,
    /// See [`MissCause::ArrivedLate`].
    pub arrived_late: u64,
}

impl MissCounts {
    /// Of any cause.
    pub fn sum(&self) -> u64 {
        self.cold + self.capacity + self.evicted_early + self.arrived_late
    }

    fn of(&mut self, cause: MissCause) -> &mut u64 {
        match cause {
            MissCause::Cold => &mut self.cold,
            MissCause::Capacity => &mut self.capacity,
            MissCause::EvictedEarly => &mut self.evicted_early,
            MissCause::ArrivedLate => &mut self.arrived_late,
        }
    }
}

/// What was asked of one object since the start, and where it is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ExpertUse {
    /// Which.
    pub key: ExpertKey,
    /// Its length.
    pub bytes: u64,
    /// Lookups.
    pub uses: u64,
    /// Of them, those that found it in memory.
    pub hits: u64,
    /// Those that did not.
    pub misses: MissCounts,
    /// Uses by decode, the last counting most: an average object's use counts half after 64 more. A use by prefill
    /// counts a sixteenth. What an earlier run left is included.
    pub heat: f64,
    /// Whether it is in memory, of any tier.
    pub resident: bool,
    /// Whether it is to stay there; see [`StoreConfig::keep`](crate::StoreConfig::keep).
    pub kept: bool,
}

/// One object's part of the books.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ObjectUse {
    pub uses: u64,
    pub hits: u64,
    pub misses: MissCounts,
    /// As it was at `at`.
    heat: f64,
    at: f64,
    /// Whether it was ever in memory.
    was_resident: bool,
    /// Whether it left memory, the last time, before its first use.
    left_unused: bool,
}

/// The books on all objects.
pub(super) struct Usage {
    objects: FxHashMap<ExpertKey, ObjectUse>,
    recent: Recent,
    /// All uses, weighted.
    clock: f64,
}

impl Usage {
    pub(super) fn new(keys: &[ExpertKey]) -> Self {
        let fresh = |key: &ExpertKey| (*key, ObjectUse::default());
        Self {
            objects: keys.iter().map(fresh).collect(),
            recent: Recent::default(),
            clock: 0.0,
        }
    }

    fn object(&mut self, key: ExpertKey) -> &mut ObjectUse {
        self.objects
            .get_mut(&key)
            .unwrap_or_else(|| panic!("{key} is not in the catalog"))
    }

    pub(super) fn of(&self, key: ExpertKey) -> &ObjectUse {
        &self.objects[&key]
    }

    /// Why an object that is neither in memory nor on its way is not. The first that holds: it never was in memory;
    /// it left before its first use, or memory used by recency alone would still have it; the rest.
    pub(super) fn cause(&self, key: ExpertKey) -> MissCause {
        let object = self.of(key);
        if !object.was_resident {
            MissCause::Cold
        } else if object.left_unused || self.recent.holds(key) {
            MissCause::EvictedEarly
        } else {
            MissCause::Capacity
        }
    }

    /// A lookup. `cost` and `room`: bytes of the object's slot, and of all slots.
    pub(super) fn looked_up(
        &mut self,
        key: ExpertKey,
        phase: Phase,
        result: LookupResult,
        cause: Option<MissCause>,
        (cost, room): (u64, u64),
    ) {
        let weight = match phase {
            Phase::Decode => 1.0,
            Phase::Prefill => PREFILL_WEIGHT,
        };
        self.clock += weight;
        let (clock, half_life) = (self.clock, self.half_life());
        let object = self.object(key);
        object.uses += 1;
        object.hits += u64::from(matches!(
            result,
            LookupResult::Hit | LookupResult::PrefetchHit
        ));
        if let Some(cause) = cause {
            *object.misses.of(cause) += 1;
        }
        object.heat = object.heat_at(clock, half_life) + weight;
        object.at = clock;
        self.recent.used(key, cost, room);
    }

    /// An object came into memory.
    pub(super) fn arrived(&mut self, key: ExpertKey) {
        let object = self.object(key);
        (object.was_resident, object.left_unused) = (true, false);
    }

    /// An object left memory.
    pub(super) fn left(&mut self, key: ExpertKey, unused: bool) {
        self.object(key).left_unused = unused;
    }

    /// What was asked for did not come: memory of any size would not have it.
    pub(super) fn never_came(&mut self, key: ExpertKey) {
        self.recent.forget(key);
    }

    /// How often an object was used, the last uses counting most.
    pub(super) fn heat(&self, key: ExpertKey) -> f64 {
        self.of(key).heat_at(self.clock, self.half_life())
    }

    /// Heat that an object has from before.
    pub(super) fn set_heat(&mut self, key: ExpertKey, heat: f64) {
        let clock = self.clock;
        let object = self.object(key);
        (object.heat, object.at) = (heat, clock);
    }

    fn half_life(&self) -> f64 {
        HALF_LIFE_USES * self.objects.len().max(1) as f64
    }
}

impl ObjectUse {
    fn heat_at(&self, clock: f64, half_life: f64) -> f64 {
        self.heat * ((self.at - clock) / half_life).exp2()
    }
}

/// What memory of the same size would hold if the least recently used left it, whatever its size, and nothing else
/// came or went: the measure by which an eviction was early.
struct Recent {
    keys: LruCache<ExpertKey, u64>,
    bytes: u64,
}

impl Default for Recent {
    fn default() -> Self {
        Self {
            keys: LruCache::unbounded(),
            bytes: 0,
        }
    }
}

impl Recent {
    fn holds(&self, key: ExpertKey) -> bool {
        self.keys.contains(&key)
    }

    fn used(&mut self, key: ExpertKey, cost: u64, room: u64) {
        self.bytes += cost;
        self.bytes -= self.keys.put(key, cost).unwrap_or(0);
        while self.bytes > room {
            let Some((_, cost)) = self.keys.pop_lru() else {
                return;
            };
            self.bytes -= cost;
        }
    }

    fn forget(&mut self, key: ExpertKey) {
        self.bytes -= self.keys.pop(&key).unwrap_or(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use LookupResult::{Hit, Miss};

    fn key(index: u32) -> ExpertKey {
        ExpertKey::routed(0, index)
    }

    /// Room for two objects.
    fn used(usage: &mut Usage, index: u32, phase: Phase) {
        let cause = usage.cause(key(index));
        usage.looked_up(key(index), phase, Miss, Some(cause), (1, 2));
    }

    #[test]
    fn causes_in_their_order() {
        let keys: Vec<_> = (0..4).map(key).collect();
        let mut usage = Usage::new(&keys);
        used(&mut usage, 0, Phase::Decode);
        assert_eq!(usage.cause(key(0)), MissCause::Cold, "asked for, never had");
        usage.arrived(key(0));
        usage.left(key(0), false);
        assert_eq!(usage.cause(key(0)), MissCause::EvictedEarly);
        used(&mut usage, 1, Phase::Decode);
        assert_eq!(usage.cause(key(0)), MissCause::EvictedEarly);
        used(&mut usage, 2, Phase::Decode);
        assert_eq!(usage.cause(key(0)), MissCause::Capacity);
        usage.arrived(key(0));
        usage.left(key(0), true);
        assert_eq!(
            usage.cause(key(0)),
            MissCause::EvictedEarly,
            "before its use"
        );
        used(&mut usage, 0, Phase::Decode);
        let misses = usage.of(key(0)).misses;
        assert_eq!((misses.cold, misses.evicted_early, misses.sum()), (1, 1, 2));
        usage.arrived(key(0));
        usage.left(key(0), false);
        usage.never_came(key(0));
        assert_eq!(usage.cause(key(0)), MissCause::Capacity);
    }

    #[test]
    fn heat_fades_and_prefill_warms_little() {
        let mut usage = Usage::new(&[key(0), key(1)]);
        usage.looked_up(key(0), Phase::Decode, Hit, None, (1, 2));
        for _ in 0..16 {
            usage.looked_up(key(1), Phase::Prefill, Hit, None, (1, 2));
        }
        let before = usage.heat(key(0));
        assert!(before < 1.0 && before > 0.9);
        assert!((usage.heat(key(1)) - 1.0).abs() < 0.01);
        for _ in 0..2 * HALF_LIFE_USES as usize {
            usage.looked_up(key(1), Phase::Decode, Hit, None, (1, 2));
        }
        assert!((usage.heat(key(0)) - before / 2.0).abs() < 1e-9);
        usage.set_heat(key(0), 7.0);
        assert_eq!(usage.heat(key(0)), 7.0);
    }
}
