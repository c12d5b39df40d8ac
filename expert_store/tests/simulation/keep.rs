//! What is to stay: the shadow that knows when it may leave all the same.

use crate::world::{Random, World};
use odmoe_expert_store::residency::{Command, Extent, SlotId};
use odmoe_expert_store::{EvictionReason, LoadFailureKind, StoreEvent};
use odmoe_formats::ExpertKey;
use std::collections::{HashMap, HashSet};

/// Nothing in most episodes; a few, many or all.
pub fn choose_kept(random: &mut Random, objects: &[(ExpertKey, u64)]) -> HashSet<ExpertKey> {
    let share = [0, 0, 0, 10, 40, 70, 100][random.below(7)];
    let keys = objects.iter().map(|(key, _)| *key);
    keys.filter(|_| random.percent(share)).collect()
}

/// What is to stay, and where it is.
pub struct Pinned {
    pub kept: HashSet<ExpertKey>,
    /// Whether slots were to come or go when the last step began.
    pub unsettled: bool,
    /// Where objects were last read or copied to in each tier.
    placed: HashMap<(usize, ExpertKey), SlotId>,
    /// Of each tier's classes.
    slot_bytes: HashMap<(usize, usize), u64>,
    /// Slots of reads and copies that were given up for late and not answered yet.
    late: HashSet<SlotId>,
    /// What was tried in vain.
    failed: HashSet<ExpertKey>,
}

impl Pinned {
    pub fn new(kept: HashSet<ExpertKey>, extents: &[Extent]) -> Self {
        let mut pinned = Self {
            kept,
            unsettled: false,
            placed: HashMap::new(),
            slot_bytes: HashMap::new(),
            late: HashSet::new(),
            failed: HashSet::new(),
        };
        extents.iter().for_each(|extent| pinned.note_class(extent));
        pinned
    }

    fn note_class(&mut self, extent: &Extent) {
        let class = (extent.tier, extent.class);
        self.slot_bytes.insert(class, extent.slot_bytes);
    }

    pub fn note(&mut self, command: &Command) {
        match *command {
            Command::Read { key, slot, .. } | Command::Copy { key, to: slot, .. } => {
                self.placed.insert((slot.tier, key), slot);
            }
            Command::Allocate { extent } => self.note_class(&extent),
            _ => {}
        }
    }
}

impl World {
    /// Nothing that is to stay leaves for another, but where there is less room than was planned.
    pub fn watch_kept(&mut self, events: &[StoreEvent]) {
        if self.pinned.kept.is_empty() {
            return;
        }
        let executor = &self.executor;
        self.pinned.late.retain(|slot| executor.is_written(*slot));
        for event in events {
            match event {
                StoreEvent::LoadFailed { key, kind } => {
                    if *kind == LoadFailureKind::Timeout {
                        self.pinned.late.extend(self.executor.writes(*key));
                    }
                    self.pinned.failed.insert(*key);
                }
                StoreEvent::Loaded { key, .. } => {
                    self.pinned.failed.remove(key);
                }
                StoreEvent::Evicted { reason, key } => self.watch_eviction(*reason, *key),
                _ => {}
            }
        }
        self.pinned.unsettled = self.machine.is_resizing();
    }

    fn watch_eviction(&mut self, reason: EvictionReason, key: ExpertKey) {
        let kept = self.pinned.kept.contains(&key);
        let as_planned = self.has_planned_room();
        match (kept, reason) {
            (false, _) => self.tally.spared += usize::from(as_planned),
            (true, EvictionReason::Budget) => self.tally.kept_by_budget += 1,
            (true, _) => {
                assert!(
                    !as_planned || self.is_astray(key),
                    "{key} left for another, though there was room"
                );
                self.tally.kept_by_need += 1;
            }
        }
    }

    /// Whether all slots are there and answer.
    fn has_planned_room(&self) -> bool {
        let settled = !self.pinned.unsettled && !self.machine.is_resizing() && !self.refused;
        // The first two slots of a class stay, though it may have one object by now, and another class lacks one.
        let classes = || self.layouts.iter().flat_map(|layout| layout.classes());
        settled && self.pinned.late.is_empty() && classes().all(|class| class.slots > 1)
    }

    /// Whether an object is, in some tier, in a larger slot than its own since a budget changed.
    fn is_astray(&self, key: ExpertKey) -> bool {
        let of_key = |(other, _): &&(ExpertKey, u64)| *other == key;
        let (_, bytes) = self.objects.iter().find(of_key).expect("an object");
        (0..self.tiers).any(|tier| {
            let mut classes = self.layouts[tier].classes().iter();
            let home = classes.find(|class| class.slot_bytes >= *bytes);
            let home = home.expect("a class for each object").slot_bytes;
            let placed = self.pinned.placed.get(&(tier, key));
            placed.is_some_and(|slot| self.pinned.slot_bytes[&(tier, slot.class)] != home)
        })
    }

    /// At rest all that is to stay is there, but what could not be read.
    pub fn check_kept(&self) {
        if !self.has_planned_room() {
            return;
        }
        for key in self.pinned.kept.difference(&self.pinned.failed) {
            assert!(
                self.machine.keeps(*key),
                "{key} is to stay and is not there"
            );
        }
    }
}
