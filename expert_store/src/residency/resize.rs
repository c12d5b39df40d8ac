//! Budgets that change while serving: slots that are too many leave, slots that are missing come.
//!
//! Nothing that is asked for fails by it. A class keeps its first extent, so whoever waits for a slot gets one as
//! before; memory that is drained is released before any is taken in its place, so the tier never holds more than the
//! larger of the old and the new budget.

use super::command::{Command, Extent, Moment, SlotId};
use super::eviction::Eviction;
use super::flight::Stage;
use super::layout::SlotLayout;
use super::machine::Machine;
use super::slots::{ClassPool, Tier};
use crate::api::EvictionReason;
use odmoe_formats::ExpertKey;
use std::ops::Range;

impl Machine {
    /// From now on the tiers are to have these slots. Takes effect as [`Command::Release`] and [`Command::Allocate`]
    /// are answered; a later call replaces what an earlier one has not reached.
    pub fn resize(&mut self, tiers: Vec<SlotLayout>, now: Moment) {
        assert_eq!(tiers.len(), self.tiers.len(), "a layout for each tier");
        self.advance(now);
        for (tier, layout) in tiers.into_iter().enumerate() {
            let eviction = self.settings.eviction;
            self.change_classes(tier, |state| state.aim(layout, eviction));
        }
        self.pump();
    }

    /// Whether slots are still to come or go.
    pub fn is_resizing(&self) -> bool {
        self.tiers.iter().any(|tier| tier.resizing)
    }

    /// The extents that have memory, of every tier: after [`Machine::new`] those to begin with.
    pub fn extents(&self) -> Vec<Extent> {
        let mut extents = Vec::new();
        for (tier, state) in self.tiers.iter().enumerate() {
            for (class, pool) in state.classes.iter().enumerate() {
                extents.extend(pool.held().map(|places| extent(tier, class, &places, pool)));
            }
        }
        extents
    }

    /// Bytes of a tier's extents that have memory or were asked for.
    pub fn claimed_bytes(&self, tier: usize) -> u64 {
        let pools = self.tiers[tier].classes.iter();
        pools.map(ClassPool::claimed_bytes).sum()
    }

    /// The slots of an extent exist.
    pub fn extent_allocated(&mut self, extent: Extent) {
        self.change_classes(extent.tier, |state| {
            let pool = &mut state.classes[extent.class];
            pool.extent_allocated(extent.first);
            // The budget may have fallen since.
            pool.drain_surplus();
        });
        self.pump();
    }

    /// There is no memory for an extent. What there is goes on.
    pub fn extent_refused(&mut self, extent: Extent) {
        self.class_pool(extent).extent_refused(extent.first);
        self.pump();
    }

    /// The memory of an extent is gone.
    pub fn extent_released(&mut self, extent: Extent) {
        self.class_pool(extent).extent_released(extent.first);
        self.pump();
    }

    fn class_pool(&mut self, extent: Extent) -> &mut ClassPool {
        &mut self.tiers[extent.tier].classes[extent.class]
    }

    /// A change of which classes are open changes where an object's slot is waited for.
    fn change_classes(&mut self, tier: usize, change: impl FnOnce(&mut Tier)) {
        let waits = |stage| matches!(stage, Stage::Waiting { tier: at, .. } if at == tier);
        let flights = self.flights.iter();
        let waiting: Vec<ExpertKey> = flights
            .filter(|(_, flight)| waits(flight.stage))
            .map(|(key, _)| *key)
            .collect();
        waiting.iter().for_each(|key| self.dequeue(*key));
        let before = self.tiers[tier].open_classes();
        change(&mut self.tiers[tier]);
        if self.tiers[tier].open_classes() != before {
            self.settle_homes(tier);
        }
        waiting.iter().for_each(|key| self.enqueue(*key));
    }

    /// Empties what drains, releases what is empty, and asks for what is missing.
    pub(super) fn settle_extents(&mut self) {
        for tier in 0..self.tiers.len() {
            if self.tiers[tier].resizing {
                self.settle_tier(tier);
            }
        }
    }

    fn settle_tier(&mut self, tier: usize) {
        for class in 0..self.tiers[tier].classes.len() {
            for (index, key) in self.tiers[tier].classes[class].leaving() {
                let slot = SlotId { tier, class, index };
                self.evict(slot, key, EvictionReason::Budget);
            }
            let pool = &mut self.tiers[tier].classes[class];
            for places in pool.take_drained() {
                let extent = extent(tier, class, &places, pool);
                self.commands.push(Command::Release { extent });
            }
        }
        self.ask_for_missing(tier);
        let state = &mut self.tiers[tier];
        state.resizing = !state.classes.iter().all(ClassPool::is_settled);
        if !state.resizing {
            self.warm_up_anew();
        }
    }

    fn ask_for_missing(&mut self, tier: usize) {
        let claimed = self.claimed_bytes(tier);
        let state = &mut self.tiers[tier];
        let mut room = state.layout.bytes().0.saturating_sub(claimed);
        for (class, pool) in state.classes.iter_mut().enumerate() {
            while let Some(places) = pool.next_allocation(room) {
                let extent = extent(tier, class, &places, pool);
                room -= extent.bytes();
                self.commands.push(Command::Allocate { extent });
            }
        }
    }
}

fn extent(tier: usize, class: usize, places: &Range<usize>, pool: &ClassPool) -> Extent {
    Extent {
        tier,
        class,
        first: places.start,
        slots: places.len(),
        slot_bytes: pool.slot_bytes,
    }
}

impl Tier {
    fn open_classes(&self) -> Vec<bool> {
        self.classes.iter().map(ClassPool::is_open).collect()
    }

    /// Sets what the tier is to hold.
    fn aim(&mut self, layout: SlotLayout, eviction: Eviction) {
        for class in layout.classes() {
            if !self
                .classes
                .iter()
                .any(|p| p.slot_bytes == class.slot_bytes)
            {
                let per_extent = layout.slots_per_extent(class.slot_bytes);
                self.classes
                    .push(ClassPool::empty(class.slot_bytes, per_extent, eviction));
            }
        }
        for pool in &mut self.classes {
            let class = layout.classes().iter();
            let class = class.copied().find(|c| c.slot_bytes == pool.slot_bytes);
            pool.aim(class.map_or(0, |class| class.slots));
        }
        self.layout = layout;
        self.resizing = true;
    }
}
