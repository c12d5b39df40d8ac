//! What must hold between any two events. Simulations check it after each step.

use super::flight::Stage;
use super::machine::Machine;
use super::slots::{Census, SlotState};
use super::{Grant, SlotId};
use std::collections::HashMap;

impl Machine {
    /// Panics where the books disagree. Takes time in proportion to the slots.
    pub fn check(&self) {
        let mut pins: HashMap<SlotId, u32> = HashMap::new();
        self.pins
            .values()
            .for_each(|slot| *pins.entry(*slot).or_default() += 1);
        self.check_flights(&mut pins);
        self.check_slots(&pins);
        self.check_layers();
        self.check_tickets();
    }

    fn check_layers(&self) {
        for (layer, absent) in &self.absent {
            let objects = self.objects.iter().filter(|key| key.layer == *layer);
            let away = objects.filter(|key| self.resident(0, **key).is_none());
            assert_eq!(*absent, away.count(), "what tier 0 lacks of {layer:?}");
        }
    }

    /// Prefetched objects, in memory or on the way, that were not used so far.
    pub fn unused_prefetches(&self) -> usize {
        self.prefetched.len()
    }

    /// Each flight is in exactly one place; slots that flights and copies read from are pinned once for each.
    fn check_flights(&self, pins: &mut HashMap<SlotId, u32>) {
        let mut in_line = 0;
        for (key, flight) in &self.flights {
            match flight.stage {
                Stage::Waiting { tier, from } => {
                    let pool = &self.tiers[tier].classes[self.class_of(tier, *key)];
                    let line = if flight.decode {
                        &pool.waiting_decode
                    } else {
                        &pool.waiting_prefill
                    };
                    assert_eq!(line.get(&flight.seq), Some(key), "{key} waits in line");
                    assert!(!flight.waiters.is_empty(), "only demands wait for slots");
                    from.into_iter()
                        .for_each(|slot| *pins.entry(slot).or_default() += 1);
                    in_line += 1;
                }
                Stage::Reading(read) => {
                    let read = &self.reads[&read];
                    assert!(read.key == *key && !read.lost, "a flight's read is its own");
                }
                Stage::Copying(copy) => {
                    let copy = &self.copies[&copy];
                    assert!(copy.key == *key && !copy.lost, "a flight's copy is its own");
                }
            }
            assert!(
                self.resident(0, *key).is_none(),
                "{key} is in tier 0 and on its way there"
            );
        }
        let classes = || self.tiers.iter().flat_map(|t| &t.classes);
        let lines: usize = classes()
            .map(|c| c.waiting_decode.len() + c.waiting_prefill.len())
            .sum();
        assert_eq!(lines, in_line, "nobody else waits in line");
        self.copies
            .values()
            .for_each(|copy| *pins.entry(copy.from).or_default() += 1);
        let live = self.reads.values().filter(|r| !r.lost).count()
            + self.copies.values().filter(|c| !c.lost).count();
        assert_eq!(
            live + in_line,
            self.flights.len(),
            "each read and copy is one flight's"
        );
    }

    /// Each slot has one owner, which knows it; pins, lists and sums agree.
    fn check_slots(&self, pins: &HashMap<SlotId, u32>) {
        let mut writers: HashMap<SlotId, usize> = HashMap::new();
        self.reads
            .values()
            .for_each(|r| *writers.entry(r.slot).or_default() += 1);
        self.copies
            .values()
            .for_each(|c| *writers.entry(c.to).or_default() += 1);
        for (tier, state) in self.tiers.iter().enumerate() {
            let mut resident = 0;
            for (class, pool) in state.classes.iter().enumerate() {
                let mut census = Census::default();
                let (mut free, mut listed) = (0, 0);
                for (index, slot) in pool.slots().iter().enumerate() {
                    let id = SlotId { tier, class, index };
                    census = census.plus(Census::of(slot));
                    let writing = matches!(slot.state, SlotState::Filling | SlotState::Lost);
                    assert_eq!(
                        writers.remove(&id).unwrap_or(0),
                        usize::from(writing),
                        "one writer a filling slot"
                    );
                    assert_eq!(
                        slot.pins,
                        pins.get(&id).copied().unwrap_or(0),
                        "pins of {id:?}"
                    );
                    assert!(
                        slot.pins == 0 || slot.state == SlotState::Resident,
                        "pins hold what is resident"
                    );
                    assert!(slot.bytes <= pool.slot_bytes, "objects fit their slots");
                    match slot.state {
                        SlotState::Free => free += 1,
                        SlotState::Resident => {
                            let key = slot.key.expect("resident");
                            assert_eq!(
                                state.resident.get(&key),
                                Some(&(class, index)),
                                "{key} is found where it is"
                            );
                            assert_eq!(
                                slot.unused,
                                self.prefetched.contains(&key),
                                "{key}: first use to come"
                            );
                            listed += usize::from(!slot.kept);
                            resident += 1;
                        }
                        SlotState::Filling | SlotState::Lost => assert!(slot.key.is_some()),
                        SlotState::Absent => assert!(slot.key.is_none()),
                    }
                }
                pool.check_extents();
                assert_eq!(census, pool.census, "sums of tier {tier} class {class}");
                assert_eq!(
                    free,
                    pool.free_slots().len(),
                    "free slots of tier {tier} class {class}"
                );
                assert_eq!(
                    listed,
                    pool.policy.order().len(),
                    "the policy knows what may leave"
                );
            }
            assert_eq!(
                resident,
                state.resident.len(),
                "every resident object has a slot"
            );
        }
        assert!(writers.is_empty(), "every read and copy has a slot");
        let there = |key| self.highest_resident(key).is_some() || self.flights.contains_key(&key);
        assert!(
            self.prefetched.iter().all(|key| there(*key)),
            "a prefetched object is somewhere"
        );
    }

    /// Tickets wait for flights that know them, and hold the pins of what they have not taken.
    fn check_tickets(&self) {
        let mut waiting = 0;
        for (ticket, state) in &self.tickets {
            for key in &state.waiting {
                assert!(
                    self.flights[key].waiters.contains(ticket),
                    "{key} is on its way for {ticket:?}"
                );
                waiting += 1;
            }
            for grant in &state.landed {
                let Grant::Ready { key, slot, pin } = grant else {
                    continue;
                };
                assert_eq!(self.pins.get(pin), Some(slot), "what landed is pinned");
                assert_eq!(self.resident(0, *key), Some(*slot), "what is pinned stays");
            }
        }
        let waiters: usize = self.flights.values().map(|f| f.waiters.len()).sum();
        assert_eq!(waiting, waiters, "flights know no other tickets");
    }
}
