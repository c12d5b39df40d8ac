//! Blocks for sequences that decode, taken from younger ones where none is left.

use super::Scheduler;
use super::plan::LaneKind;
use super::sequence::Age;
use std::ops::Bound;

impl Scheduler {
    /// Gives each sequence that is ready to decode the block of its next position, oldest first. One that gets none
    /// stays out of the next lane: everything younger is in a lane, and it is served when that ends.
    pub(super) fn grow_decoding(&mut self) {
        let block_tokens = self.config.kv_block_tokens;
        let needy: Vec<Age> = self
            .running
            .iter()
            .filter(|(_, sequence)| {
                sequence.is_ready(LaneKind::Decode) && !sequence.has_room(block_tokens)
            })
            .map(|(&age, _)| age)
            .collect();
        // No sequence from here on can be preempted: it was, or it is in a lane.
        let mut end = Bound::Unbounded;
        for age in needy {
            while let Some(sequence) = self.running.get_mut(&age) {
                if sequence
                    .table
                    .grow_to(sequence.computed / block_tokens + 1, &mut self.pool)
                {
                    break;
                }
                let Some(victim) = self.youngest_outside_lanes((Bound::Excluded(age), end)) else {
                    return;
                };
                self.preempt(victim);
                end = Bound::Excluded(victim);
            }
        }
    }

    fn youngest_outside_lanes(&self, ages: (Bound<Age>, Bound<Age>)) -> Option<Age> {
        self.running
            .range(ages)
            .rev()
            .find(|(_, sequence)| sequence.lane.is_none())
            .map(|(&age, _)| age)
    }

    fn preempt(&mut self, age: Age) {
        let mut sequence = self
            .running
            .remove(&age)
            .expect("only what is running is preempted");
        sequence.preempt(&mut self.pool);
        self.preempted.push(sequence.id);
        self.put_back.insert(age);
        self.waiting.insert(age, sequence);
    }
}
