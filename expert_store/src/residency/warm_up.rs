//! Warming up: what an earlier run used most is loaded before anybody asks.
//!
//! It is the least of all reads: it goes into free slots only, never evicts, and begins only while nobody waits and
//! nothing is prefetched. What is loaded so counts as warm, for that is how the earlier run left it. Slots that come with
//! a larger budget are filled in the same way, by the uses of both runs.

use super::flight::{Flight, Stage};
use super::machine::Machine;
use super::pump::Claim;
use super::slots::Slot;
use crate::api::{MissCause, StoreEvent, StoreHealth};
use odmoe_formats::ExpertKey;
use std::collections::VecDeque;

/// The part of passes that use an average object: most models send a token to one expert in sixteen, or fewer.
const AVERAGE_SHARE: f64 = 1.0 / 16.0;

/// What is still to be loaded, and what was.
#[derive(Debug, Default)]
pub(super) struct WarmUp {
    /// The hottest first.
    queue: VecDeque<ExpertKey>,
    /// Begun, in this order, and not yet put in their place in the order of eviction; with their uses before.
    begun: Vec<(ExpertKey, u64)>,
}

impl Machine {
    /// Gives objects the heat that an earlier run left them, and loads the hottest while nobody waits. Unknown keys
    /// are ignored: what is said of an earlier run may be of another model.
    pub fn warm_up(&mut self, heat: impl IntoIterator<Item = (ExpertKey, f64)>) {
        let hottest: Vec<(ExpertKey, f64)> = heat
            .into_iter()
            .filter(|(key, heat)| heat.is_finite() && *heat > 0.0 && self.sizes.contains_key(key))
            .collect();
        let sum: f64 = hottest.iter().map(|(_, heat)| heat).sum();
        let average = sum / self.objects.len() as f64;
        for &(key, heat) in &hottest {
            self.usage.set_heat(key, heat);
            let share = (heat / average * AVERAGE_SHARE).min(1.0);
            for tier in 0..self.tiers.len() {
                let class = self.class_of(tier, key);
                let policy = &mut self.tiers[tier].classes[class].policy;
                policy.remember(key, share);
            }
        }
        self.warm_up.queue = hottest_first(hottest);
        self.pump();
    }

    /// After a change of budget: what was used most and is not there, while slots are free.
    pub(super) fn warm_up_anew(&mut self) {
        let absent = self.objects.iter();
        let absent = absent.filter(|key| self.highest_resident(**key).is_none());
        let heat = absent.map(|key| (*key, self.usage.heat(*key)));
        self.warm_up.queue = hottest_first(heat.filter(|(_, heat)| *heat > 0.0).collect());
    }

    /// Begins what may be begun.
    pub(super) fn pump_warm_up(&mut self) {
        while !self.warm_up.queue.is_empty() && self.may_warm_up() {
            if let Some(key) = self.warm_up.queue.pop_front() {
                self.start_warm_up(key);
            }
        }
        if self.warm_up.queue.is_empty() && self.reads.is_empty() {
            self.settle_warm_up();
        }
    }

    /// Half of the readers stay free for whoever comes.
    pub(super) fn may_warm_up(&self) -> bool {
        let idle = self.reads.len() + self.copies.len() < (self.settings.readers / 2).max(1);
        let unwanted = |flight: &Flight| flight.waiters.is_empty() && !flight.prefetch;
        idle && self.flights.values().all(unwanted) && self.health.state() == StoreHealth::Healthy
    }

    /// Begins one read, unless the object is there or has no free slot.
    fn start_warm_up(&mut self, key: ExpertKey) {
        let absent = self.highest_resident(key).is_none() && !self.flights.contains_key(&key);
        if absent && self.read_unasked(key, Claim::WarmUp) {
            self.warm_up.begun.push((key, self.usage.of(key).uses));
        }
    }

    /// Begins the read of an absent object that nobody asked for, if its claim finds a slot.
    pub(super) fn read_unasked(&mut self, key: ExpertKey, claim: Claim) -> bool {
        let tier = self.last_tier();
        let class = self.class_of(tier, key);
        let Some(slot) = self.claim(tier, class, claim) else {
            return false;
        };
        let flight = Flight {
            seq: self.fresh_id(),
            stage: Stage::Waiting { tier, from: None },
            waiters: Vec::new(),
            decode: true,
            prefetch: false,
            cause: Some(MissCause::ArrivedLate),
            since: self.now,
        };
        self.flights.insert(key, flight);
        self.events.push(StoreEvent::WarmUpIssued);
        self.begin(key, slot);
        true
    }

    /// Before something has to leave: in order of arrival the hottest would be the first. What was loaded and not used
    /// since is put in the order of its heat, as if it had been used just now.
    pub(super) fn settle_warm_up(&mut self) {
        if self.warm_up.begun.is_empty() {
            return;
        }
        let tier = self.last_tier();
        for (key, uses) in std::mem::take(&mut self.warm_up.begun).into_iter().rev() {
            let Some(slot) = self.resident(tier, key) else {
                continue;
            };
            let Slot { heat, kept, .. } = *self.tiers[tier].classes[slot.class].slot(slot.index);
            if self.usage.of(key).uses == uses && !kept {
                let pool = self.pool(slot);
                pool.policy.remove(key);
                pool.policy.insert(key, heat);
            }
        }
    }
}

fn hottest_first(mut heat: Vec<(ExpertKey, f64)>) -> VecDeque<ExpertKey> {
    heat.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    heat.dedup_by_key(|(key, _)| *key);
    heat.into_iter().map(|(key, _)| key).collect()
}
