//! Lanes as the engine has them: demand, compute with what landed, release, wait; sometimes give up.

use crate::world::World;
use odmoe_expert_store::residency::{Grant, PinId, SlotId};
use odmoe_expert_store::{LoadError, Phase, Ticket};
use odmoe_formats::ExpertKey;
use std::collections::BTreeSet;

pub struct Lane {
    source: u32,
    ticket: Option<Ticket>,
    /// What the ticket is owed.
    owed: BTreeSet<ExpertKey>,
    /// What the backend computes with.
    pins: Vec<(PinId, SlotId)>,
}

impl Lane {
    pub fn new(source: u32) -> Self {
        Self {
            source,
            ticket: None,
            owed: BTreeSet::new(),
            pins: Vec::new(),
        }
    }

    pub fn is_idle(&self) -> bool {
        self.ticket.is_none() && self.pins.is_empty()
    }
}

impl World {
    /// One thing that a lane does.
    pub fn run_lane(&mut self, lane: usize) {
        let (waits, pins) = (
            self.lanes[lane].ticket.is_some(),
            self.lanes[lane].pins.len(),
        );
        // Pins end when the backend is done with them, in any order, whatever the lane does next.
        if pins > 0 && self.random.percent(50) {
            return self.release_one(lane);
        }
        if !waits {
            if self.stormy {
                self.demand(lane);
            }
        } else if self.stormy && self.random.percent(2) {
            self.give_up(lane);
        } else {
            self.take(lane);
        }
    }

    fn demand(&mut self, lane: usize) {
        let phase = if self.random.percent(30) {
            Phase::Prefill
        } else {
            Phase::Decode
        };
        let count = if phase == Phase::Prefill {
            self.random.within(1..=24)
        } else {
            self.random.within(1..=6)
        };
        let keys = self.choose(count);
        self.tally.asked += keys.len();
        let ticket = self.machine.demand(&keys, phase, self.now);
        self.lanes[lane].ticket = Some(ticket);
        self.lanes[lane].owed = keys.into_iter().collect();
        self.after_step();
        if self.random.percent(50) {
            let count = self.random.within(0..=6);
            let keys = self.choose(count);
            self.machine
                .hint(10 + self.lanes[lane].source, phase, &keys);
            self.after_step();
        }
    }

    fn take(&mut self, lane: usize) {
        let ticket = self.lanes[lane].ticket.expect("checked by the caller");
        let mut grants = Vec::new();
        let remaining = self.machine.take(ticket, &mut grants);
        for grant in grants {
            match grant {
                Grant::Ready { key, slot, pin } => {
                    assert!(self.lanes[lane].owed.remove(&key), "{key} lands once");
                    assert_eq!(slot.tier, 0, "computing is done in tier 0");
                    assert_eq!(
                        self.executor.holds(slot),
                        Some(key),
                        "a slot holds what it is said to"
                    );
                    *self.held.entry(slot).or_default() += 1;
                    self.lanes[lane].pins.push((pin, slot));
                    self.tally.landed += 1;
                }
                Grant::Failed { key, error } => {
                    assert!(self.lanes[lane].owed.remove(&key), "{key} fails once");
                    self.tally.failed += 1;
                    self.tally.timed_out += usize::from(matches!(error, LoadError::Timeout { .. }));
                }
            }
        }
        assert_eq!(
            remaining,
            self.lanes[lane].owed.len(),
            "what is not there yet is still owed"
        );
        if remaining == 0 {
            self.lanes[lane].ticket = None;
        }
        self.after_step();
    }

    fn give_up(&mut self, lane: usize) {
        let lane = &mut self.lanes[lane];
        self.tally.abandoned += std::mem::take(&mut lane.owed).len();
        self.machine
            .cancel(lane.ticket.take().expect("checked by the caller"));
        self.after_step();
    }

    fn release_one(&mut self, lane: usize) {
        let (pin, slot) = self.random.take(&mut self.lanes[lane].pins);
        let held = self.held.get_mut(&slot).expect("held");
        *held -= 1;
        if *held == 0 {
            self.held.remove(&slot);
        }
        self.machine.pins_released([pin]);
        self.after_step();
    }
}
