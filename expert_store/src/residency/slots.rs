//! The books of one tier: who owns each slot, and the counts that rules are made of.

use super::command::Moment;
use super::eviction::{Eviction, EvictionPolicy, Heat};
use super::layout::{SizeClass, SlotLayout};
use odmoe_formats::ExpertKey;
use std::collections::{BTreeMap, HashMap};

/// Who owns a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SlotState {
    /// Nobody.
    Free,
    /// A read or copy that a flight waits for.
    Filling,
    /// A verified object.
    Resident,
    /// A read or copy that was given up for late: it may still write here, so nobody else can.
    Lost,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Slot {
    pub state: SlotState,
    /// Whose bytes; None when free.
    pub key: Option<ExpertKey>,
    /// Length of the object.
    pub bytes: u64,
    /// Tickets, backend work and copies that read it.
    pub pins: u32,
    /// How it was last used, or will be by who waits for it.
    pub heat: Heat,
    /// Prefetched or being so, and not used since.
    pub unused: bool,
}

const FREE: Slot = Slot {
    state: SlotState::Free,
    key: None,
    bytes: 0,
    pins: 0,
    heat: Heat::Cold,
    unused: false,
};

/// Sums over the slots of a class, kept up to date by [`ClassPool::update`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Census {
    pub lost: usize,
    /// Cold slots, filling or resident.
    pub cold: usize,
    /// Prefetched, resident and unused.
    pub unused: usize,
    /// Being filled by a prefetch.
    pub prefetching: usize,
    pub resident_bytes: u64,
    pub pinned_bytes: u64,
}

impl Census {
    pub(super) fn of(slot: &Slot) -> Self {
        let live = matches!(slot.state, SlotState::Filling | SlotState::Resident);
        let resident = slot.state == SlotState::Resident;
        Self {
            lost: usize::from(slot.state == SlotState::Lost),
            cold: usize::from(live && slot.heat == Heat::Cold),
            unused: usize::from(resident && slot.unused),
            prefetching: usize::from(slot.state == SlotState::Filling && slot.unused),
            resident_bytes: if resident { slot.bytes } else { 0 },
            pinned_bytes: if resident && slot.pins > 0 {
                slot.bytes
            } else {
                0
            },
        }
    }

    pub(super) fn plus(self, other: Self) -> Self {
        Self {
            lost: self.lost + other.lost,
            cold: self.cold + other.cold,
            unused: self.unused + other.unused,
            prefetching: self.prefetching + other.prefetching,
            resident_bytes: self.resident_bytes + other.resident_bytes,
            pinned_bytes: self.pinned_bytes + other.pinned_bytes,
        }
    }

    fn minus(self, other: Self) -> Self {
        Self {
            lost: self.lost - other.lost,
            cold: self.cold - other.cold,
            unused: self.unused - other.unused,
            prefetching: self.prefetching - other.prefetching,
            resident_bytes: self.resident_bytes - other.resident_bytes,
            pinned_bytes: self.pinned_bytes - other.pinned_bytes,
        }
    }
}

/// The slots of one size in one tier.
pub(super) struct ClassPool {
    pub slot_bytes: u64,
    slots: Vec<Slot>,
    free: Vec<usize>,
    pub policy: Box<dyn EvictionPolicy>,
    pub census: Census,
    /// Keys that wait for a slot, by age; decode and prefill apart, for prefill may have to let decode go ahead.
    pub waiting_decode: BTreeMap<u64, ExpertKey>,
    pub waiting_prefill: BTreeMap<u64, ExpertKey>,
    /// When the last slot was lost.
    pub lost_since: Moment,
}

impl ClassPool {
    fn new(class: SizeClass, eviction: Eviction) -> Self {
        Self {
            slot_bytes: class.slot_bytes,
            slots: vec![FREE; class.slots],
            free: (0..class.slots).rev().collect(),
            policy: eviction.policy(),
            census: Census::default(),
            waiting_decode: BTreeMap::new(),
            waiting_prefill: BTreeMap::new(),
            lost_since: Moment::default(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(super) fn slot(&self, index: usize) -> &Slot {
        &self.slots[index]
    }

    pub(super) fn slots(&self) -> &[Slot] {
        &self.slots
    }

    pub(super) fn free_slots(&self) -> &[usize] {
        &self.free
    }

    /// Changes a slot and the census with it.
    pub(super) fn update(&mut self, index: usize, change: impl FnOnce(&mut Slot)) {
        let slot = &mut self.slots[index];
        self.census = self.census.minus(Census::of(slot));
        change(slot);
        self.census = self.census.plus(Census::of(slot));
    }

    pub(super) fn take_free(&mut self) -> Option<usize> {
        self.free.pop()
    }

    /// Back to the free slots, from any state but pinned.
    pub(super) fn set_free(&mut self, index: usize) {
        assert_eq!(self.slots[index].pins, 0, "a pinned slot cannot be freed");
        self.update(index, |slot| *slot = FREE);
        self.free.push(index);
    }

    /// Whether every slot is held by storage that does not answer.
    pub(super) fn all_lost(&self) -> bool {
        self.census.lost == self.slots.len()
    }
}

/// One memory tier.
pub(super) struct Tier {
    pub layout: SlotLayout,
    pub classes: Vec<ClassPool>,
    /// Where each resident object is: class and place.
    pub resident: HashMap<ExpertKey, (usize, usize)>,
}

impl Tier {
    pub(super) fn new(layout: SlotLayout, eviction: Eviction) -> Self {
        let classes = layout
            .classes()
            .iter()
            .map(|c| ClassPool::new(*c, eviction))
            .collect();
        Self {
            layout,
            classes,
            resident: HashMap::new(),
        }
    }
}
