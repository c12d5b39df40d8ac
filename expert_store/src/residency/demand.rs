//! What callers ask: demands, what landed, pins, cancellation.

use super::command::{Command, Grant, Moment, PinId, SlotId};
use super::eviction::Heat;
use super::flight::{Flight, Stage};
use super::machine::{Machine, TicketState};
use crate::api::{LookupResult, MissCause, Phase, StoreEvent, Ticket};
use odmoe_formats::ExpertKey;
use rustc_hash::FxHashSet;

fn heat_of(phase: Phase) -> Heat {
    match phase {
        Phase::Prefill => Heat::Cold,
        Phase::Decode => Heat::Warm,
    }
}

impl Machine {
    /// A set of distinct objects is wanted. What is in tier 0 is pinned now, before any slot is taken for the rest,
    /// so that a ticket never evicts what it waits to use.
    pub fn demand(&mut self, keys: &[ExpertKey], phase: Phase, now: Moment) -> Ticket {
        self.advance(now);
        let ticket = Ticket(self.fresh_id());
        self.tickets.insert(ticket, TicketState::default());
        if phase == Phase::Decode {
            self.tell_policies(keys);
        }
        self.sweep.demanded(keys, phase);
        let mut distinct = FxHashSet::default();
        let mut foresight = self.judge_hints(keys, phase);
        for &key in keys {
            assert!(
                distinct.insert(key),
                "{key} is asked for twice by one ticket"
            );
            let result = self.look_up_and_tell(ticket, key, phase);
            if let Some(foresight) = &mut foresight {
                foresight.count(key, result);
            }
        }
        if let Some(foresight) = foresight {
            self.tell_foresight(phase, &foresight);
        }
        self.pump();
        ticket
    }

    fn look_up_and_tell(&mut self, ticket: Ticket, key: ExpertKey, phase: Phase) -> LookupResult {
        let cause = self.cause_of_absence(key);
        let result = self.look_up(ticket, key, phase);
        self.events.push(StoreEvent::Lookup { phase, result, key });
        if let Some(cause) = cause {
            self.events.push(StoreEvent::Missed { phase, cause, key });
        }
        let bytes = self.bytes_of_slots(key);
        self.usage.looked_up(key, phase, result, cause, bytes);
        result
    }

    /// Why an object is in no tier; None where it is in one.
    fn cause_of_absence(&self, key: ExpertKey) -> Option<MissCause> {
        if let Some(flight) = self.flights.get(&key) {
            return flight.cause;
        }
        let absent = self.highest_resident(key).is_none();
        absent.then(|| self.usage.cause(key))
    }

    /// Of an object in the largest tier: its slot, and all slots.
    fn bytes_of_slots(&self, key: ExpertKey) -> (u64, u64) {
        let room = |tier: &usize| self.tiers[*tier].layout.bytes().0;
        let largest = (0..self.tiers.len())
            .max_by_key(room)
            .expect("at least one tier");
        let class = self.class_of(largest, key);
        (
            self.tiers[largest].classes[class].slot_bytes,
            room(&largest),
        )
    }

    /// Lets policies know where decode is.
    fn tell_policies(&mut self, keys: &[ExpertKey]) {
        let Some(first) = keys.first() else { return };
        let pools = self.tiers.iter_mut().flat_map(|tier| &mut tier.classes);
        pools.for_each(|pool| pool.policy.reached(first.layer));
    }

    fn look_up(&mut self, ticket: Ticket, key: ExpertKey, phase: Phase) -> LookupResult {
        if let Some(slot) = self.resident(0, key) {
            let first = self.touch(key, heat_of(phase));
            self.grant(ticket, key, slot);
            return if first {
                LookupResult::PrefetchHit
            } else {
                LookupResult::Hit
            };
        }
        self.tickets
            .get_mut(&ticket)
            .expect("just made")
            .waiting
            .insert(key);
        if self.flights.contains_key(&key) {
            self.join(ticket, key, phase);
            return LookupResult::Coalesced;
        }
        let Some(below) = self.highest_resident(key) else {
            self.start_demand(
                ticket,
                key,
                phase,
                Stage::Waiting {
                    tier: self.last_tier(),
                    from: None,
                },
            );
            return LookupResult::Miss;
        };
        let first = self.touch(key, heat_of(phase));
        self.pin(below);
        self.start_demand(
            ticket,
            key,
            phase,
            Stage::Waiting {
                tier: below.tier - 1,
                from: Some(below),
            },
        );
        if first {
            LookupResult::PrefetchHit
        } else {
            LookupResult::Hit
        }
    }

    fn start_demand(&mut self, ticket: Ticket, key: ExpertKey, phase: Phase, stage: Stage) {
        let seq = self.fresh_id();
        let decode = phase == Phase::Decode;
        let cause = self.cause_of_absence(key);
        let flight = Flight {
            seq,
            stage,
            waiters: vec![ticket],
            decode,
            prefetch: false,
            cause,
            since: self.now,
        };
        self.flights.insert(key, flight);
        self.enqueue(key);
    }

    /// One more ticket waits for a flight; a prefetch is thereby promoted.
    fn join(&mut self, ticket: Ticket, key: ExpertKey, phase: Phase) {
        self.dequeue(key);
        self.touch(key, heat_of(phase));
        let now = self.now;
        let flight = self.flights.get_mut(&key).expect("checked by the caller");
        flight.prefetch = false;
        if flight.waiters.is_empty() {
            flight.since = now;
        }
        flight.waiters.push(ticket);
        flight.decode |= phase == Phase::Decode;
        let (stage, heat, priority) = (flight.stage, flight.heat(), flight.priority());
        if let Some(slot) = self.filling_slot(stage) {
            self.pool(slot)
                .update(slot.index, |s| (s.heat, s.unused) = (heat, false));
        }
        if let Stage::Reading(read) = stage {
            let state = self.reads.get_mut(&read).expect("a flight's read is known");
            if state.started.is_none() && priority < state.priority {
                state.priority = priority;
                self.commands.push(Command::Reprioritise { read, priority });
            }
        }
        self.enqueue(key);
    }

    /// The slot that a flight's read or copy writes.
    pub(super) fn filling_slot(&self, stage: Stage) -> Option<SlotId> {
        match stage {
            Stage::Waiting { .. } => None,
            Stage::Reading(read) => Some(self.reads[&read].slot),
            Stage::Copying(copy) => Some(self.copies[&copy].to),
        }
    }

    /// Moves what has landed for a ticket since the last call into `out`; returns how many are still to come. At
    /// zero the ticket is over.
    pub fn take(&mut self, ticket: Ticket, out: &mut Vec<Grant>) -> usize {
        let Some(state) = self.tickets.get_mut(&ticket) else {
            return 0;
        };
        out.append(&mut state.landed);
        let remaining = state.waiting.len();
        if remaining == 0 {
            self.tickets.remove(&ticket);
        }
        remaining
    }

    /// Nothing reads slots by these pins any more.
    pub fn pins_released(&mut self, pins: impl IntoIterator<Item = PinId>) {
        pins.into_iter().for_each(|pin| self.drop_pin(pin));
        self.pump();
    }

    fn drop_pin(&mut self, pin: PinId) {
        let slot = self.pins.remove(&pin).expect("a pin is released once");
        self.unpin(slot);
    }

    /// Gives a ticket up: what landed and was not taken is unpinned, what nobody else wants is not read.
    pub fn cancel(&mut self, ticket: Ticket) {
        let Some(state) = self.tickets.remove(&ticket) else {
            return;
        };
        for grant in state.landed {
            if let Grant::Ready { pin, .. } = grant {
                self.drop_pin(pin);
            }
        }
        for key in state.waiting {
            let flight = self
                .flights
                .get_mut(&key)
                .expect("a ticket waits for flights only");
            flight.waiters.retain(|waiter| *waiter != ticket);
            if flight.waiters.is_empty() {
                self.abandon(key);
            }
        }
        self.pump();
    }

    /// Nobody wants a flight any more. One that has no slot ends; a read that no reader has taken is called back; the
    /// rest completes and stays for whoever comes, cold.
    pub(super) fn abandon(&mut self, key: ExpertKey) {
        self.dequeue(key);
        let now = self.now;
        let flight = self.flights.get_mut(&key).expect("checked by the caller");
        (flight.decode, flight.prefetch, flight.since) = (false, false, now);
        match flight.stage {
            Stage::Waiting { from, .. } => {
                self.flights.remove(&key);
                self.usage.never_came(key);
                from.into_iter().for_each(|slot| self.unpin(slot));
                self.settle_prefetch(key);
            }
            Stage::Reading(read) => {
                let state = self.reads.get_mut(&read).expect("a flight's read is known");
                if state.started.is_none() && !state.cancelling {
                    state.cancelling = true;
                    self.commands.push(Command::CancelRead { read });
                }
                let slot = self.reads[&read].slot;
                self.pool(slot).update(slot.index, |s| s.heat = Heat::Cold);
            }
            Stage::Copying(copy) => {
                let slot = self.copies[&copy].to;
                self.pool(slot).update(slot.index, |s| s.heat = Heat::Cold);
            }
        }
    }
}
