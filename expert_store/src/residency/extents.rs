//! The extents of a size class: which slots exist, and which are on their way out.
//!
//! An extent that must go is *drained*: its slots are handed out no more, what is idle in them leaves at once, the rest
//! when its pins, reads and copies end. Then its memory is released, and its places can be taken by a new extent.

use super::eviction::{Eviction, Heat};
use super::layout::{FIRST_EXTENT_SLOTS, SizeClass};
use super::slots::{Census, ClassPool, FREE, Slot, SlotState};
use odmoe_formats::ExpertKey;
use std::cmp::Reverse;
use std::collections::HashMap;
use std::ops::Range;

/// Where an extent is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ExtentStage {
    /// Without memory.
    Gone,
    /// The executor makes its memory.
    Allocating,
    /// Its slots can be handed out.
    Active,
    /// Its slots are only waited for.
    Draining,
    /// The executor gives its memory back.
    Releasing,
}

/// One extent of a class.
#[derive(Clone, Copy, Debug)]
pub(super) struct ExtentState {
    pub slots: usize,
    pub stage: ExtentStage,
}

/// A slot of an extent without memory, or one that a draining extent has back.
const ABSENT: Slot = Slot {
    state: SlotState::Absent,
    heat: Heat::Cold,
    ..FREE
};

impl ClassPool {
    /// A class whose slots are there from the start.
    pub(super) fn new(class: SizeClass, slots_per_extent: usize, eviction: Eviction) -> Self {
        let mut pool = Self::empty(class.slot_bytes, slots_per_extent, eviction);
        pool.target = class.slots;
        while let Some(range) = pool.next_allocation(u64::MAX) {
            pool.extent_allocated(range.start);
        }
        // In ascending order from the end.
        pool.free.sort_unstable_by_key(|index| Reverse(*index));
        pool
    }

    /// Whether objects may be put here. The first extent comes first and goes last.
    pub(super) fn is_open(&self) -> bool {
        self.stage(0) == ExtentStage::Active
    }

    /// Whether no extent is on its way and no slot too many can go. What is missing then found no room: the first extent
    /// of a class stays as it is, also where one slot would do by now.
    pub(super) fn is_settled(&self) -> bool {
        let at_rest = |e: &ExtentState| matches!(e.stage, ExtentStage::Gone | ExtentStage::Active);
        let stays = match self.extents.first() {
            Some(first) if self.is_open() => first.slots,
            _ => 0,
        };
        self.usable <= self.target.max(stays) && self.extents.iter().all(at_rest)
    }

    /// The slots of each extent that has memory.
    pub(super) fn held(&self) -> impl Iterator<Item = Range<usize>> {
        let has = |stage| !matches!(stage, ExtentStage::Gone | ExtentStage::Allocating);
        let held = (0..self.extents.len()).filter(move |at| has(self.stage(*at)));
        held.map(|at| self.places(at))
    }

    /// Bytes of extents that have memory.
    pub(super) fn held_bytes(&self) -> u64 {
        self.held()
            .map(|places| places.len() as u64 * self.slot_bytes)
            .sum()
    }

    /// Bytes of extents that have memory or were promised it.
    pub(super) fn claimed_bytes(&self) -> u64 {
        let claimed = self.extents.iter().filter(|e| e.stage != ExtentStage::Gone);
        claimed.map(|e| e.slots as u64 * self.slot_bytes).sum()
    }

    /// Sets how many slots there are to be: takes draining extents back where they fit, else drains what is too much.
    pub(super) fn aim(&mut self, slots: usize) {
        self.target = slots;
        for at in 0..self.extents.len() {
            let ExtentState { slots, stage } = self.extents[at];
            let fits = match at {
                0 => slots <= self.target,
                _ => self.is_open() && slots <= self.missing(),
            };
            if stage == ExtentStage::Draining && fits {
                self.revive(at);
            }
        }
        self.drain_surplus();
    }

    /// Slots still to be asked for.
    fn missing(&self) -> usize {
        let coming = self.extents.iter();
        let coming = coming.filter(|e| e.stage == ExtentStage::Allocating);
        let coming: usize = coming.map(|e| e.slots).sum();
        self.target.saturating_sub(self.usable + coming)
    }

    fn revive(&mut self, at: usize) {
        self.extents[at].stage = ExtentStage::Active;
        self.usable += self.extents[at].slots;
        for index in self.places(at) {
            if self.slot(index).state == SlotState::Absent {
                self.update(index, |slot| *slot = FREE);
                self.free.push(index);
            } else {
                self.update(index, |slot| slot.retiring = false);
            }
        }
    }

    /// Drains extents until no more slots are usable than there are to be: rather those that do not overshoot, then
    /// those whose objects would leave next anyway, those with what is kept last. What was drained beyond the surplus is allocated anew. Extents that
    /// come while the first one is going are surplus.
    pub(super) fn drain_surplus(&mut self) {
        let surplus = |pool: &Self| match pool.is_open() {
            true => pool.usable.saturating_sub(pool.target),
            false => pool.usable,
        };
        if surplus(self) == 0 {
            return;
        }
        let ranks: HashMap<ExpertKey, usize> = self.policy.order().into_iter().zip(1..).collect();
        while surplus(self) > 0 {
            let surplus = surplus(self);
            let may_go = |at: &usize| {
                self.stage(*at) == ExtentStage::Active && (*at > 0 || self.target == 0)
            };
            let cost = |at: &usize| {
                let overshoot = self.extents[*at].slots.saturating_sub(surplus);
                let resident = self.slots()[self.places(*at)].iter();
                let rank = |slot: &Slot| match slot.key {
                    // One such object outweighs all others.
                    Some(_) if slot.kept => ranks.len() * self.stride + 1,
                    Some(key) => ranks.get(&key).copied().unwrap_or(0),
                    None => 0,
                };
                (overshoot, resident.map(rank).sum::<usize>(), Reverse(*at))
            };
            let at = (0..self.extents.len()).filter(may_go).min_by_key(cost);
            let Some(at) = at else { break };
            self.drain(at);
        }
    }

    fn drain(&mut self, at: usize) {
        let places = self.places(at);
        self.extents[at].stage = ExtentStage::Draining;
        self.usable -= places.len();
        self.free.retain(|index| !places.contains(index));
        for index in places {
            self.update(index, |slot| match slot.state {
                SlotState::Free => *slot = ABSENT,
                _ => slot.retiring = true,
            });
        }
    }

    /// Idle objects in draining extents.
    pub(super) fn leaving(&self) -> Vec<(usize, ExpertKey)> {
        let draining = self.extents_in(ExtentStage::Draining);
        let slots = draining.flat_map(|at| self.places(at));
        let idle = slots.filter(|index| {
            let slot = self.slot(*index);
            slot.state == SlotState::Resident && slot.pins == 0
        });
        idle.filter_map(|index| Some((index, self.slot(index).key?)))
            .collect()
    }

    /// Draining extents that are empty now: their memory is to be released.
    pub(super) fn take_drained(&mut self) -> Vec<Range<usize>> {
        let is_empty = |at: &usize| {
            let mut slots = self.slots()[self.places(*at)].iter();
            slots.all(|slot| slot.state == SlotState::Absent)
        };
        let draining = self.extents_in(ExtentStage::Draining);
        let drained: Vec<usize> = draining.filter(is_empty).collect();
        drained
            .into_iter()
            .map(|at| {
                self.extents[at].stage = ExtentStage::Releasing;
                self.places(at)
            })
            .collect()
    }

    /// The next extent to allocate, if one is missing and `room` bytes suffice for it.
    pub(super) fn next_allocation(&mut self, room: u64) -> Option<Range<usize>> {
        let missing = self.missing();
        let at = match self.stage(0) {
            ExtentStage::Gone => 0,
            ExtentStage::Active => {
                let gone = self.extents_in(ExtentStage::Gone).next();
                gone.unwrap_or(self.extents.len())
            }
            // The first extent comes first.
            _ => return None,
        };
        let most = if at == 0 {
            FIRST_EXTENT_SLOTS
        } else {
            self.slots_per_extent
        };
        let slots = missing.min(most);
        if slots == 0 || slots as u64 * self.slot_bytes > room {
            return None;
        }
        self.place_extent(at, slots);
        Some(self.places(at))
    }

    fn place_extent(&mut self, at: usize, slots: usize) {
        let stage = ExtentStage::Allocating;
        let state = ExtentState { slots, stage };
        if at == self.extents.len() {
            self.extents.push(state);
            self.slots.resize(self.extents.len() * self.stride, ABSENT);
        } else {
            self.extents[at] = state;
        }
    }

    /// The extent that begins at a slot has its memory.
    pub(super) fn extent_allocated(&mut self, first: usize) {
        let at = self.answer(first, ExtentStage::Allocating, ExtentStage::Active);
        let places = self.places(at);
        self.usable += places.len();
        for index in places.rev() {
            self.update(index, |slot| *slot = FREE);
            self.free.push(index);
        }
    }

    /// The extent that begins at a slot can have no memory; what there is must do.
    pub(super) fn extent_refused(&mut self, first: usize) {
        self.answer(first, ExtentStage::Allocating, ExtentStage::Gone);
        let missing = self.missing();
        self.target -= missing;
    }

    /// The memory of the extent that begins at a slot is gone.
    pub(super) fn extent_released(&mut self, first: usize) {
        self.answer(first, ExtentStage::Releasing, ExtentStage::Gone);
    }

    fn answer(&mut self, first: usize, was: ExtentStage, is: ExtentStage) -> usize {
        let at = first / self.stride;
        assert_eq!(self.extents[at].stage, was, "an extent is answered once");
        self.extents[at].stage = is;
        at
    }

    fn stage(&self, at: usize) -> ExtentStage {
        self.extents.get(at).map_or(ExtentStage::Gone, |e| e.stage)
    }

    fn extents_in(&self, stage: ExtentStage) -> impl Iterator<Item = usize> {
        (0..self.extents.len()).filter(move |at| self.stage(*at) == stage)
    }

    /// The slots of an extent. Extents begin at fixed distances, so that one can take the places of another.
    fn places(&self, at: usize) -> Range<usize> {
        let first = at * self.stride;
        first..first + self.extents[at].slots
    }

    /// Panics where extents and slots disagree.
    pub(super) fn check_extents(&self) {
        let mut usable = 0;
        let mut outside: Vec<bool> = vec![true; self.slots().len()];
        for (at, extent) in self.extents.iter().enumerate() {
            let has_slots = matches!(extent.stage, ExtentStage::Active | ExtentStage::Draining);
            for index in self.places(at) {
                outside[index] = !has_slots;
                let slot = self.slot(index);
                let draining = extent.stage == ExtentStage::Draining;
                let present = slot.state != SlotState::Absent;
                assert!(
                    !has_slots || draining || present,
                    "a slot of an active extent is missing"
                );
                assert_eq!(slot.retiring, draining && present, "what drains retires");
                assert!(
                    !draining || slot.state != SlotState::Free,
                    "drained slots are not free"
                );
            }
            usable += match extent.stage {
                ExtentStage::Active => extent.slots,
                _ => 0,
            };
        }
        assert_eq!(usable, self.usable, "usable slots");
        let strays = outside.iter().zip(self.slots());
        assert!(
            strays
                .filter(|(outside, _)| **outside)
                .all(|(_, slot)| slot.state == SlotState::Absent),
            "slots without memory are absent"
        );
        let active = |e: &ExtentState| e.stage == ExtentStage::Active;
        let later = self.extents.iter().skip(1).any(active);
        assert!(
            !later || self.is_open(),
            "the first extent comes first and goes last"
        );
        assert_eq!(Census::of(&ABSENT), Census::default());
    }
}
