//! What is to stay in memory: objects that an operator named are loaded first, and leave for no other.
//!
//! A layout sets slots aside for them beside the two that others take turns in, so in the class for its size a kept object is
//! out of the policy's sight. Where there is less room than was planned (memory is drained or was refused, storage holds
//! slots), whoever waits for a slot comes first: then a kept object leaves as a last resort, and is read again when it can be.

use super::machine::Machine;
use super::pump::Claim;
use super::slots::{ClassPool, SlotState};
use crate::api::StoreHealth;
use odmoe_formats::ExpertKey;
use std::collections::{BTreeSet, HashSet};

/// What is to stay, and what of it is still to be loaded.
#[derive(Debug, Default)]
pub(super) struct Keep {
    keys: HashSet<ExpertKey>,
    /// In no tier, and not tried in vain since storage last answered.
    missing: BTreeSet<ExpertKey>,
    /// Whether storage failed when it was last looked at.
    was_failing: bool,
}

impl Keep {
    pub(super) fn names(&self, key: ExpertKey) -> bool {
        self.keys.contains(&key)
    }

    pub(super) fn arrived(&mut self, key: ExpertKey) {
        self.missing.remove(&key);
    }

    /// It is in no tier any more.
    pub(super) fn left(&mut self, key: ExpertKey) {
        if self.names(key) {
            self.missing.insert(key);
        }
    }

    /// It could not be read; whoever asks for it tries anew.
    pub(super) fn failed(&mut self, key: ExpertKey) {
        self.missing.remove(&key);
    }
}

impl Machine {
    /// Makes objects stay, and loads them while nobody waits. The layouts have room for them
    /// ([`SlotLayout::plan_keeping`](super::layout::SlotLayout::plan_keeping)), now and at each [`Machine::resize`]. To be
    /// called before anything else. Unknown keys are a bug of the caller.
    pub fn keep(&mut self, keys: HashSet<ExpertKey>) {
        let known = keys.iter().all(|key| self.sizes.contains_key(key));
        assert!(known, "what is kept is in the catalog");
        self.keep.missing = keys.iter().copied().collect();
        self.keep.keys = keys;
        (0..self.tiers.len()).for_each(|tier| self.settle_homes(tier));
        self.pump();
    }

    /// Whether an object that is kept is in memory, of any tier.
    pub fn keeps(&self, key: ExpertKey) -> bool {
        self.keep.names(key) && self.highest_resident(key).is_some()
    }

    /// Begins what reads may be begun.
    pub(super) fn pump_kept(&mut self) {
        if self.keep.keys.is_empty() {
            return;
        }
        self.note_storage();
        if self.keep.missing.is_empty() || !self.may_warm_up() {
            return;
        }
        let missing = self.keep.missing.iter().copied();
        let absent: Vec<_> = missing
            .filter(|key| !self.flights.contains_key(key))
            .collect();
        for key in absent {
            if !self.may_warm_up() {
                return;
            }
            // Where one class has no slot, another may.
            self.read_unasked(key, Claim::Keep);
        }
    }

    /// Storage that answers again is asked again.
    fn note_storage(&mut self) {
        let failing = self.health.state() != StoreHealth::Healthy;
        if std::mem::replace(&mut self.keep.was_failing, failing) && !failing {
            let keys = self.keep.keys.iter().copied();
            let away = keys.filter(|key| self.highest_resident(*key).is_none());
            self.keep.missing = away.collect();
        }
    }

    /// After a change of which classes a tier has: an object that is now in another class than the one for its size can
    /// leave, for room was set aside for it there.
    pub(super) fn settle_homes(&mut self, tier: usize) {
        if self.keep.keys.is_empty() {
            return;
        }
        let mut homes = vec![0; self.tiers[tier].classes.len()];
        for key in &self.objects {
            homes[self.class_of(tier, *key)] += 1;
        }
        for (class, home) in homes.into_iter().enumerate() {
            self.tiers[tier].classes[class].home = home;
            for index in 0..self.tiers[tier].classes[class].slots().len() {
                let slot = self.tiers[tier].classes[class].slot(index);
                let Some(key) = slot.key else { continue };
                let kept = self.keep.names(key) && self.class_of(tier, key) == class;
                self.tiers[tier].classes[class].mark(index, kept);
            }
        }
    }
}

impl ClassPool {
    /// Slots that objects take turns in.
    pub(super) fn turning(&self) -> usize {
        self.usable - self.census.kept
    }

    fn mark(&mut self, index: usize, kept: bool) {
        let slot = *self.slot(index);
        let Some(key) = slot.key.filter(|_| slot.kept != kept) else {
            return;
        };
        self.update(index, |slot| slot.kept = kept);
        match (slot.state, kept) {
            (SlotState::Resident, true) => self.policy.remove(key),
            (SlotState::Resident, false) => self.policy.insert(key, slot.heat),
            _ => {}
        }
    }

    /// Whether those that are not kept could take turns, two at once if there are so many, beside `kept` that are.
    fn has_room_beside(&self, kept: usize) -> bool {
        let others = self.home.saturating_sub(kept).min(2);
        self.usable >= self.census.lost + kept + others
    }

    pub(super) fn has_room_to_keep_one_more(&self) -> bool {
        self.has_room_beside(self.census.kept + 1)
    }

    /// What is kept and can leave all the same, where there is less room than was planned.
    pub(super) fn last_resort(&self) -> Option<ExpertKey> {
        if self.has_room_beside(self.census.kept) {
            return None;
        }
        let idle = self.slots().iter().filter(|slot| {
            slot.kept && slot.state == SlotState::Resident && slot.pins == 0 && !slot.retiring
        });
        idle.filter_map(|slot| slot.key).next()
    }
}
