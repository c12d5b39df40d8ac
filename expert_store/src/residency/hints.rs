//! Prefetch: hints go into idle readers and into slots that nobody will miss.

use super::command::{Command, SlotId};
use super::flight::{Flight, Stage};
use super::machine::Machine;
use super::pump::Claim;
use crate::api::{MissCause, StoreEvent};
use odmoe_formats::ExpertKey;
use std::collections::BTreeMap;

/// Reads that each reader may have, including the one it is in, before prefetches hold back: enough that a reader
/// finds its next one while the caller computes.
const READS_PER_READER: usize = 2;

/// The current hint of each source.
#[derive(Debug, Default)]
pub(super) struct Hints {
    by_source: BTreeMap<u32, Hint>,
}

#[derive(Debug)]
struct Hint {
    keys: Vec<ExpertKey>,
    /// The first that was not looked at yet.
    next: usize,
}

impl Hints {
    /// Whether a current hint names the object. Hints are short: a layer's worth.
    pub(super) fn names(&self, key: ExpertKey) -> bool {
        self.by_source.values().any(|hint| hint.keys.contains(&key))
    }
}

impl Machine {
    /// What a source will likely want soon, most likely first; replaces its last hint. What that one had asked for
    /// and no reader has taken is called back.
    pub fn hint(&mut self, source: u32, keys: &[ExpertKey]) {
        if !self.settings.prefetch {
            return;
        }
        self.throttle.hinted();
        if keys.is_empty() {
            self.hints.by_source.remove(&source);
        } else {
            self.hints.by_source.insert(
                source,
                Hint {
                    keys: keys.to_vec(),
                    next: 0,
                },
            );
        }
        let stale: Vec<_> = self
            .flights
            .iter()
            .filter(|(key, f)| f.prefetch && !self.hints.names(**key))
            .map(|(key, _)| *key)
            .collect();
        for key in stale {
            self.call_back(key);
        }
        self.pump();
    }

    fn call_back(&mut self, key: ExpertKey) {
        let Stage::Reading(read) = self.flights[&key].stage else {
            return;
        };
        let state = self.reads.get_mut(&read).expect("a flight's read is known");
        if state.started.is_none() && !state.cancelling {
            state.cancelling = true;
            self.commands.push(Command::CancelRead { read });
        }
    }

    /// Begins what hints ask for, a key of each source in turn, while readers are idle.
    pub(super) fn pump_hints(&mut self) {
        let mut sources: Vec<u32> = self.hints.by_source.keys().copied().collect();
        while !sources.is_empty() && self.may_prefetch() {
            sources.retain(|source| self.may_prefetch() && self.follow_one(*source));
        }
    }

    /// Whether readers are idle and prefetch pays.
    fn may_prefetch(&self) -> bool {
        let under_way = self.reads.len() + self.copies.len();
        self.throttle.allows() && under_way < self.settings.readers * READS_PER_READER
    }

    /// Begins the next prefetch of a source. Says whether there may be another.
    fn follow_one(&mut self, source: u32) -> bool {
        loop {
            let hint = &self.hints.by_source[&source];
            let Some(&key) = hint.keys.get(hint.next) else {
                return false;
            };
            let wanted = self.resident(0, key).is_none() && !self.flights.contains_key(&key);
            if wanted && !self.start_prefetch(key) {
                return false;
            }
            self.hints
                .by_source
                .get_mut(&source)
                .expect("still there")
                .next += 1;
            if wanted {
                return true;
            }
        }
    }

    /// Begins to bring an object one tier up, if there is a slot for it.
    fn start_prefetch(&mut self, key: ExpertKey) -> bool {
        let below = self.highest_resident(key);
        let tier = below.map_or(self.last_tier(), |slot| slot.tier - 1);
        // Pinned first: the claim must not evict what is about to be copied.
        below.into_iter().for_each(|slot| self.pin(slot));
        let Some(slot) = self.claim_for_prefetch(tier, key) else {
            below.into_iter().for_each(|slot| self.unpin(slot));
            return false;
        };
        if self.prefetched.insert(key) {
            self.events.push(StoreEvent::PrefetchIssued);
        }
        self.throttle.began();
        below
            .into_iter()
            .for_each(|slot| self.pool(slot).update(slot.index, |s| s.unused = true));
        let seq = self.fresh_id();
        let stage = Stage::Waiting { tier, from: below };
        let flight = Flight {
            seq,
            stage,
            waiters: Vec::new(),
            decode: false,
            prefetch: true,
            cause: Some(MissCause::ArrivedLate),
            since: self.now,
        };
        self.flights.insert(key, flight);
        self.begin(key, slot);
        true
    }

    /// Goes on with a prefetch that has reached a lower tier, or ends it there: prefetches do not wait.
    pub(super) fn prefetch_upwards(&mut self, key: ExpertKey) {
        let Stage::Waiting { tier, from } = self.flights[&key].stage else {
            panic!("{key} waits for no slot")
        };
        match self.claim_for_prefetch(tier, key) {
            Some(slot) => self.begin(key, slot),
            None => {
                self.flights.remove(&key);
                from.into_iter().for_each(|slot| self.unpin(slot));
            }
        }
    }

    fn claim_for_prefetch(&mut self, tier: usize, key: ExpertKey) -> Option<SlotId> {
        let class = self.class_of(tier, key);
        let pool = &self.tiers[tier].classes[class];
        let contended = !pool.waiting_decode.is_empty() || !pool.waiting_prefill.is_empty();
        if contended {
            None
        } else {
            self.claim(tier, class, Claim::Prefetch)
        }
    }
}
