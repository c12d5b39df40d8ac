//! What happens when nothing happens: late reads, and probes of storage that fails.

use super::command::{Command, CopyId, Moment, ReadId};
use super::flight::{Flight, Stage};
use super::machine::Machine;
use super::slots::SlotState;
use crate::api::LoadError;
use odmoe_formats::ExpertKey;

impl Machine {
    /// Time has passed: what is late fails, a probe may be due.
    pub fn tick(&mut self, now: Moment) {
        self.advance(now);
        let late: Vec<_> = self
            .flights
            .iter()
            .filter(|(key, flight)| {
                self.deadline(**key, flight)
                    .is_some_and(|at| at <= self.now)
            })
            .map(|(key, _)| *key)
            .collect();
        for key in late {
            self.give_up(key);
        }
        self.health
            .note_readers(self.readers_stuck(), self.settings.readers, self.now);
        if let Some(key) = self.health.take_due_probe(&self.objects, self.now) {
            self.commands.push(Command::Probe { key });
        }
        self.pump();
    }

    /// A probe ended.
    pub fn probe_done(&mut self, result: Result<(), LoadError>, at: Moment) {
        self.advance(at);
        self.health.probed(result, self.now);
        self.pump();
    }

    /// When [`Self::tick`] has something to do if nothing else happens before.
    pub fn next_deadline(&self) -> Option<Moment> {
        let flights = self
            .flights
            .iter()
            .filter_map(|(key, flight)| self.deadline(*key, flight));
        flights.chain(self.health.next_probe()).min()
    }

    /// Until when a flight may take. A read that a reader has: the time-out from its start. One that waits for a
    /// reader: from the last sign of life of any read, for its turn may just be far off. One that waits for a slot
    /// waits for callers, who have all the time they want, unless storage holds every slot.
    fn deadline(&self, key: ExpertKey, flight: &Flight) -> Option<Moment> {
        let from = match flight.stage {
            Stage::Reading(read) => {
                let state = &self.reads[&read];
                state
                    .started
                    .unwrap_or(state.issued.max(self.last_progress))
            }
            Stage::Copying(copy) => self.copies[&copy].issued,
            Stage::Waiting { tier, .. } => {
                let pool = &self.tiers[tier].classes[self.class_of(tier, key)];
                if !pool.all_lost() {
                    return None;
                }
                pool.lost_since
            }
        };
        Some(from.max(flight.since).after(self.settings.read_timeout))
    }

    /// Fails a late flight. Its slot stays taken until the read or copy returns.
    fn give_up(&mut self, key: ExpertKey) {
        self.dequeue(key);
        let waited = self.now.0.saturating_sub(self.flights[&key].since.0);
        match self.flights[&key].stage {
            Stage::Waiting { from, .. } => from.into_iter().for_each(|slot| self.unpin(slot)),
            Stage::Reading(read) => self.lose_read(read),
            Stage::Copying(copy) => self.lose_copy(copy),
        }
        self.fail(key, LoadError::Timeout { key, waited });
    }

    fn lose_read(&mut self, read: ReadId) {
        let state = self.reads.get_mut(&read).expect("a flight's read is known");
        state.lost = true;
        if state.started.is_none() && !state.cancelling {
            state.cancelling = true;
            self.commands.push(Command::CancelRead { read });
        }
        let slot = state.slot;
        self.lose_slot(slot);
    }

    fn lose_copy(&mut self, copy: CopyId) {
        let state = self
            .copies
            .get_mut(&copy)
            .expect("a flight's copy is known");
        state.lost = true;
        let slot = state.to;
        self.lose_slot(slot);
    }

    fn lose_slot(&mut self, slot: super::SlotId) {
        let now = self.now;
        let pool = self.pool(slot);
        pool.update(slot.index, |s| {
            (s.state, s.unused) = (SlotState::Lost, false)
        });
        pool.lost_since = now;
    }
}
