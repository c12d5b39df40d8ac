//! The books of one tier: who owns each slot, and the counts that rules are made of.

use super::command::Moment;
use super::eviction::{Eviction, EvictionPolicy, Heat};
use super::extents::ExtentState;
use super::layout::{FIRST_EXTENT_SLOTS, SlotLayout};
use odmoe_formats::ExpertKey;
use rustc_hash::FxHashMap;
use std::collections::BTreeMap;

/// Who owns a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SlotState {
    /// There is no such slot now.
    Absent,
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
    /// In an extent that is drained: whoever owns it is its last.
    pub retiring: bool,
    /// Its object is to stay, and this is the class for its size; see [`super::keep`].
    pub kept: bool,
}

pub(super) const FREE: Slot = Slot {
    state: SlotState::Free,
    key: None,
    bytes: 0,
    pins: 0,
    heat: Heat::Cold,
    unused: false,
    retiring: false,
    kept: false,
};

/// Sums over the slots of a class, kept up to date by [`ClassPool::update`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Census {
    /// Held by storage that does not answer, and to be handed out again.
    pub lost: usize,
    /// Cold slots, filling or resident, whose object may leave.
    pub cold: usize,
    /// Prefetched, resident and unused, and may leave.
    pub unused: usize,
    /// Filling or resident with what is kept, and to be handed out again.
    pub kept: usize,
    /// Being filled by a prefetch.
    pub prefetching: usize,
    pub resident_bytes: u64,
    pub pinned_bytes: u64,
    pub kept_bytes: u64,
}

impl Census {
    pub(super) fn of(slot: &Slot) -> Self {
        let live = matches!(slot.state, SlotState::Filling | SlotState::Resident);
        let resident = slot.state == SlotState::Resident;
        Self {
            lost: usize::from(slot.state == SlotState::Lost && !slot.retiring),
            cold: usize::from(live && slot.heat == Heat::Cold && !slot.kept),
            unused: usize::from(resident && slot.unused && !slot.kept),
            kept: usize::from(live && slot.kept && !slot.retiring),
            prefetching: usize::from(slot.state == SlotState::Filling && slot.unused),
            resident_bytes: if resident { slot.bytes } else { 0 },
            pinned_bytes: if resident && slot.pins > 0 {
                slot.bytes
            } else {
                0
            },
            kept_bytes: if resident && slot.kept { slot.bytes } else { 0 },
        }
    }

    pub(super) fn plus(self, other: Self) -> Self {
        Self {
            lost: self.lost + other.lost,
            cold: self.cold + other.cold,
            unused: self.unused + other.unused,
            kept: self.kept + other.kept,
            prefetching: self.prefetching + other.prefetching,
            resident_bytes: self.resident_bytes + other.resident_bytes,
            pinned_bytes: self.pinned_bytes + other.pinned_bytes,
            kept_bytes: self.kept_bytes + other.kept_bytes,
        }
    }

    fn minus(self, other: Self) -> Self {
        Self {
            lost: self.lost - other.lost,
            cold: self.cold - other.cold,
            unused: self.unused - other.unused,
            kept: self.kept - other.kept,
            prefetching: self.prefetching - other.prefetching,
            resident_bytes: self.resident_bytes - other.resident_bytes,
            pinned_bytes: self.pinned_bytes - other.pinned_bytes,
            kept_bytes: self.kept_bytes - other.kept_bytes,
        }
    }
}

/// The slots of one size in one tier.
pub(super) struct ClassPool {
    pub slot_bytes: u64,
    pub(super) slots: Vec<Slot>,
    pub(super) free: Vec<usize>,
    pub(super) extents: Vec<ExtentState>,
    /// Between the first slots of two extents.
    pub(super) stride: usize,
    pub(super) slots_per_extent: usize,
    /// Slots that can be handed out, now or later: those of active extents.
    pub(super) usable: usize,
    /// How many of them there are to be.
    pub(super) target: usize,
    /// Objects for whose size this is the class; counted only where something is kept.
    pub(super) home: usize,
    /// Orders what is resident and may leave.
    pub policy: Box<dyn EvictionPolicy>,
    pub census: Census,
    /// Keys that wait for a slot, by age; decode and prefill apart, for prefill may have to let decode go ahead.
    pub waiting_decode: BTreeMap<u64, ExpertKey>,
    pub waiting_prefill: BTreeMap<u64, ExpertKey>,
    /// When the last slot was lost.
    pub lost_since: Moment,
}

impl ClassPool {
    /// A class without slots.
    pub(super) fn empty(slot_bytes: u64, slots_per_extent: usize, eviction: Eviction) -> Self {
        Self {
            slot_bytes,
            slots: Vec::new(),
            free: Vec::new(),
            extents: Vec::new(),
            stride: slots_per_extent.max(FIRST_EXTENT_SLOTS),
            slots_per_extent,
            usable: 0,
            target: 0,
            home: 0,
            policy: eviction.policy(),
            census: Census::default(),
            waiting_decode: BTreeMap::new(),
            waiting_prefill: BTreeMap::new(),
            lost_since: Moment::default(),
        }
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

    /// Back to the free slots, from any state but pinned; one that retires is gone.
    pub(super) fn set_free(&mut self, index: usize) {
        let Slot { pins, retiring, .. } = self.slots[index];
        assert_eq!(pins, 0, "a pinned slot cannot be freed");
        self.update(index, |slot| *slot = FREE);
        if retiring {
            self.update(index, |slot| slot.state = SlotState::Absent);
        } else {
            self.free.push(index);
        }
    }

    /// Whether every slot is held by storage that does not answer.
    pub(super) fn all_lost(&self) -> bool {
        self.census.lost == self.usable
    }
}

/// One memory tier.
pub(super) struct Tier {
    pub layout: SlotLayout,
    pub classes: Vec<ClassPool>,
    /// Where each resident object is: class and place.
    pub resident: FxHashMap<ExpertKey, (usize, usize)>,
    /// Whether slots are still to come or go.
    pub resizing: bool,
}

impl Tier {
    pub(super) fn new(layout: SlotLayout, eviction: Eviction) -> Self {
        let classes = layout
            .classes()
            .iter()
            .map(|c| ClassPool::new(*c, layout.slots_per_extent(c.slot_bytes), eviction))
            .collect();
        Self {
            layout,
            classes,
            resident: FxHashMap::default(),
            resizing: false,
        }
    }

    /// The class that an object of `bytes` is put into: the least that is open and large enough.
    pub(super) fn class_of(&self, bytes: u64) -> usize {
        let classes = self.classes.iter().enumerate();
        let fitting = classes.filter(|(_, pool)| pool.is_open() && pool.slot_bytes >= bytes);
        let least = fitting.min_by_key(|(_, pool)| pool.slot_bytes);
        let (class, _) =
            least.unwrap_or_else(|| panic!("an object of {bytes} bytes is larger than every slot"));
        class
    }
}
