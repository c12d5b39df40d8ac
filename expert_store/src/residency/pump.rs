//! Who gets a slot: the oldest demand first.

use super::command::{Command, CopyId, ReadId, SlotId};
use super::eviction::Heat;
use super::flight::{CopyInFlight, ReadInFlight, Stage};
use super::machine::Machine;
use crate::api::EvictionReason;
use odmoe_formats::ExpertKey;

/// For whom a slot is claimed; each may take less than the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Claim {
    /// Any unpinned object may leave.
    Decode,
    /// Once half of a class is cold, prefill lives in that half, so that it never flushes what decode uses. What a long
    /// prompt still comes to leaves last; see [`super::sweep`].
    Prefill,
    /// Free slots and old objects only; see [`Machine::claim`].
    Prefetch,
    /// The same, for what is wanted after the next turn: of a sweep nothing that it still comes to leaves for it.
    PrefetchFar,
    /// Free slots only.
    WarmUp,
    /// Any unpinned object may leave, as long as the others have slots enough to take turns in.
    Keep,
}

impl Machine {
    /// Hands out what slots there are, and begins what prefetches may begin.
    pub(super) fn pump(&mut self) {
        self.settle_extents();
        for tier in (0..self.tiers.len()).rev() {
            for class in 0..self.tiers[tier].classes.len() {
                while self.serve_oldest(tier, class) {}
            }
        }
        self.pump_hints();
        self.pump_kept();
        self.pump_warm_up();
    }

    /// Puts a flight that needs a slot in line.
    pub(super) fn enqueue(&mut self, key: ExpertKey) {
        let flight = &self.flights[&key];
        let Stage::Waiting { tier, .. } = flight.stage else {
            return;
        };
        let (seq, decode) = (flight.seq, flight.decode);
        let class = self.class_of(tier, key);
        let pool = &mut self.tiers[tier].classes[class];
        let line = if decode {
            &mut pool.waiting_decode
        } else {
            &mut pool.waiting_prefill
        };
        line.insert(seq, key);
    }

    /// Takes a flight out of line.
    pub(super) fn dequeue(&mut self, key: ExpertKey) {
        let flight = &self.flights[&key];
        let Stage::Waiting { tier, .. } = flight.stage else {
            return;
        };
        let seq = flight.seq;
        let class = self.class_of(tier, key);
        let pool = &mut self.tiers[tier].classes[class];
        pool.waiting_decode.remove(&seq);
        pool.waiting_prefill.remove(&seq);
    }

    /// Gives one slot of a class to the oldest that may have one. Says whether it did.
    fn serve_oldest(&mut self, tier: usize, class: usize) -> bool {
        let pool = &self.tiers[tier].classes[class];
        let decode = pool
            .waiting_decode
            .first_key_value()
            .map(|(seq, key)| (*seq, *key, Claim::Decode));
        let prefill = pool
            .waiting_prefill
            .first_key_value()
            .map(|(seq, key)| (*seq, *key, Claim::Prefill));
        let mut line = [decode, prefill];
        line.sort_unstable_by_key(|entry| entry.map(|(seq, ..)| seq));
        for (_, key, claim) in line.into_iter().flatten() {
            if let Some(slot) = self.claim(tier, class, claim) {
                self.dequeue(key);
                self.begin(key, slot);
                return true;
            }
        }
        false
    }

    /// A free slot of a class, made by an eviction where the claim allows one. What is kept leaves only for a demand, and
    /// only where the class lacks room for it; shares of a class are of what takes turns.
    ///
    /// A prefetch evicts neither what a current hint names nor, once a quarter of the class holds prefetched objects
    /// without a use, anything but those of hints that were replaced; and it fills at most a quarter at a time.
    pub(super) fn claim(&mut self, tier: usize, class: usize, claim: Claim) -> Option<SlotId> {
        let pool = &mut self.tiers[tier].classes[class];
        let quarter = (pool.turning() / 4).max(1);
        let is_prefetch = matches!(claim, Claim::Prefetch | Claim::PrefetchFar);
        if is_prefetch && pool.census.prefetching >= quarter {
            return None;
        }
        if claim == Claim::Keep && !pool.has_room_to_keep_one_more() {
            return None;
        }
        let place = |index| SlotId { tier, class, index };
        if let Some(index) = pool.take_free() {
            return Some(place(index));
        }
        if claim == Claim::WarmUp {
            return None;
        }
        self.settle_warm_up();
        let pool = &self.tiers[tier].classes[class];
        let cold_only = claim == Claim::Prefill && pool.census.cold >= (pool.turning() / 2).max(1);
        let unused_only = is_prefetch && pool.census.unused >= quarter;
        let (resident, hints) = (&self.tiers[tier].resident, &self.hints);
        let pool = &self.tiers[tier].classes[class];
        let heat = |key| pool.slot(resident[&key].1).heat;
        let mut may_leave = |key| {
            let slot = pool.slot(resident[&key].1);
            let spared = match claim {
                Claim::Decode | Claim::WarmUp | Claim::Keep => false,
                Claim::Prefill => cold_only && slot.heat == Heat::Warm,
                Claim::Prefetch | Claim::PrefetchFar => {
                    hints.names(key) || (unused_only && !slot.unused)
                }
            };
            slot.pins == 0 && !slot.retiring && !spared
        };
        let victim = match claim {
            Claim::Prefill | Claim::Prefetch => {
                self.sweep.victim(&*pool.policy, &heat, &mut may_leave)
            }
            Claim::PrefetchFar => {
                let passed = &mut |key| self.sweep.has_passed(key) && may_leave(key);
                self.sweep.victim(&*pool.policy, &heat, passed)
            }
            Claim::Decode | Claim::WarmUp | Claim::Keep => pool.policy.victim(&mut may_leave),
        };
        let demanded = matches!(claim, Claim::Decode | Claim::Prefill);
        let victim = match victim {
            None if demanded => pool.last_resort(),
            victim => victim,
        }?;
        let slot = self
            .resident(tier, victim)
            .expect("policies hold what is resident");
        let reason = if is_prefetch {
            EvictionReason::Prefetch
        } else {
            EvictionReason::Demand
        };
        self.evict(slot, victim, reason);
        let index = self.pool(slot).take_free().expect("just freed");
        Some(place(index))
    }

    /// Begins the read or copy of a waiting flight into a claimed slot.
    pub(super) fn begin(&mut self, key: ExpertKey, slot: SlotId) {
        let flight = &self.flights[&key];
        let Stage::Waiting { tier, from } = flight.stage else {
            panic!("{key} waits for no slot")
        };
        assert_eq!(tier, slot.tier, "a flight goes up tier by tier");
        let (heat, priority) = (flight.heat(), flight.priority());
        self.begin_fill(slot, key, heat);
        let stage = match from {
            None => {
                let read = ReadId(self.fresh_id());
                let state = ReadInFlight {
                    key,
                    slot,
                    priority,
                    issued: self.now,
                    started: None,
                    cancelling: false,
                    lost: false,
                };
                self.reads.insert(read, state);
                self.commands.push(Command::Read {
                    read,
                    key,
                    slot,
                    priority,
                });
                Stage::Reading(read)
            }
            Some(from) => {
                let copy = CopyId(self.fresh_id());
                let state = CopyInFlight {
                    key,
                    from,
                    to: slot,
                    issued: self.now,
                    lost: false,
                };
                self.copies.insert(copy, state);
                self.commands.push(Command::Copy {
                    copy,
                    key,
                    from,
                    to: slot,
                });
                Stage::Copying(copy)
            }
        };
        self.flights.get_mut(&key).expect("still there").stage = stage;
    }
}
