//! What the executor reports: reads and copies that began, ended, or were called off.

use super::command::{Command, CopyId, Grant, Moment, ReadId, ReadReport, SlotId};
use super::eviction::Heat;
use super::flight::{Flight, ReadInFlight, Stage};
use super::machine::Machine;
use crate::api::{LoadError, StoreEvent};
use odmoe_formats::ExpertKey;

impl Machine {
    /// A reader took a read.
    pub fn read_started(&mut self, read: ReadId, at: Moment) {
        self.advance(at);
        self.last_progress = self.last_progress.max(at);
        if self.reads.values().all(|read| read.started.is_none()) {
            self.forecasts.begins(at);
        }
        self.reads
            .get_mut(&read)
            .expect("reads are answered once")
            .started = Some(at);
    }

    /// A read ended well: the slot holds the object, verified.
    pub fn read_done(&mut self, read: ReadId, report: ReadReport, at: Moment) {
        let state = self.end_read(read, at);
        self.health.succeeded();
        let ReadReport {
            bytes,
            seconds,
            source,
        } = report;
        self.reckon(&state, at);
        let prefetch = self.prefetched.contains(&state.key);
        self.events.push(StoreEvent::Loaded {
            key: state.key,
            bytes,
            seconds,
            prefetch,
            source,
        });
        if state.lost {
            self.adopt_or_free(state.slot, state.key);
        } else {
            self.arrived(state.key, state.slot);
        }
        self.pump();
    }

    /// A read ended badly.
    pub fn read_failed(&mut self, read: ReadId, error: LoadError, at: Moment) {
        let state = self.end_read(read, at);
        self.pool(state.slot).set_free(state.slot.index);
        if !state.lost {
            self.fail(state.key, error);
        }
        self.pump();
    }

    /// A read was called off before it started.
    pub fn read_cancelled(&mut self, read: ReadId) {
        let state = self.reads.remove(&read).expect("reads are answered once");
        assert!(state.started.is_none(), "a started read runs to its end");
        let wanted = !state.lost && !self.flights[&state.key].waiters.is_empty();
        if wanted {
            // Somebody came after all: the same slot, a new read.
            self.read_again(state);
        } else {
            self.pool(state.slot).set_free(state.slot.index);
            if !state.lost {
                self.flights.remove(&state.key);
                self.usage.never_came(state.key);
            }
            self.settle_prefetch(state.key);
        }
        self.pump();
    }

    fn read_again(&mut self, state: ReadInFlight) {
        let read = ReadId(self.fresh_id());
        let flight = self
            .flights
            .get_mut(&state.key)
            .expect("checked by the caller");
        flight.stage = Stage::Reading(read);
        let priority = flight.priority();
        let again = ReadInFlight {
            priority,
            issued: self.now,
            cancelling: false,
            ..state
        };
        self.reads.insert(read, again);
        self.commands.push(Command::Read {
            read,
            key: state.key,
            slot: state.slot,
            priority,
        });
    }

    /// What a read says of how long reads take, and of whether reading ahead pays.
    fn reckon(&mut self, state: &ReadInFlight, at: Moment) {
        self.forecasts.has_read(at);
        if state.lost {
            return;
        }
        if !self.flights[&state.key].waiters.is_empty() {
            self.waited_until = self.waited_until.max(at);
        } else if self.is_waited_for() {
            self.throttle.delayed();
        }
    }

    fn end_read(&mut self, read: ReadId, at: Moment) -> ReadInFlight {
        self.advance(at);
        self.last_progress = self.last_progress.max(at);
        let state = self.reads.remove(&read).expect("reads are answered once");
        assert!(state.started.is_some(), "a read starts before it ends");
        state
    }

    /// A copy ended well.
    pub fn copy_done(&mut self, copy: CopyId, at: Moment) {
        self.advance(at);
        let state = self.copies.remove(&copy).expect("copies are answered once");
        self.unpin(state.from);
        if state.lost {
            self.adopt_or_free(state.to, state.key);
        } else {
            self.arrived(state.key, state.to);
        }
        self.pump();
    }

    /// A copy ended badly; the object stays where it was.
    pub fn copy_failed(&mut self, copy: CopyId, reason: String, at: Moment) {
        self.advance(at);
        let state = self.copies.remove(&copy).expect("copies are answered once");
        self.unpin(state.from);
        self.pool(state.to).set_free(state.to.index);
        if !state.lost {
            self.fail(
                state.key,
                LoadError::Upload {
                    key: state.key,
                    reason,
                },
            );
        }
        self.pump();
    }

    /// A flight has reached a tier.
    fn arrived(&mut self, key: ExpertKey, slot: SlotId) {
        let flight = &self.flights[&key];
        let (heat, prefetch, wanted) = (flight.heat(), flight.prefetch, !flight.waiters.is_empty());
        self.make_resident(slot, key, heat);
        if slot.tier == 0 || !(wanted || prefetch) {
            let flight = self.flights.remove(&key).expect("looked up above");
            self.land(key, slot, flight);
            return;
        }
        self.pin(slot);
        let flight = self.flights.get_mut(&key).expect("looked up above");
        flight.stage = Stage::Waiting {
            tier: slot.tier - 1,
            from: Some(slot),
        };
        if wanted {
            self.enqueue(key);
        } else {
            self.prefetch_upwards(key);
        }
    }

    fn land(&mut self, key: ExpertKey, slot: SlotId, flight: Flight) {
        for ticket in flight.waiters {
            self.grant(ticket, key, slot);
        }
    }

    /// Ends a flight badly: everybody who waits is told, whoever comes later tries anew.
    pub(super) fn fail(&mut self, key: ExpertKey, error: LoadError) {
        self.events.push(StoreEvent::LoadFailed {
            key,
            kind: error.kind(),
        });
        self.health.failed(key, &error, self.now);
        let flight = self.flights.remove(&key).expect("only flights fail");
        self.usage.never_came(key);
        self.keep.failed(key);
        for ticket in flight.waiters {
            let state = self
                .tickets
                .get_mut(&ticket)
                .expect("a waiter's ticket is open");
            state.waiting.remove(&key);
            state.landed.push(Grant::Failed {
                key,
                error: error.clone(),
            });
        }
        self.settle_prefetch(key);
    }

    /// What was given up for late came after all: worth keeping, unless it is on its way anew.
    fn adopt_or_free(&mut self, slot: SlotId, key: ExpertKey) {
        let known = self.flights.contains_key(&key) || self.resident(slot.tier, key).is_some();
        if known {
            self.pool(slot).set_free(slot.index);
        } else {
            self.make_resident(slot, key, Heat::Cold);
        }
    }
}
