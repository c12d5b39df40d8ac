//! What must hold between any two calls.

use super::Scheduler;
use super::plan::LaneKind;
use super::sequence::{Age, Sequence};

impl Scheduler {
    /// Panics where the books do not agree. Walks everything: for tests.
    pub fn check_invariants(&self) {
        self.pool.check_owners(
            self.running
                .values()
                .map(|sequence| sequence.table.blocks()),
        );
        assert!(
            self.running.len() <= self.config.max_running,
            "more run than may"
        );
        assert_eq!(
            self.ages.len(),
            self.waiting.len() + self.running.len(),
            "a request is nowhere or twice"
        );
        for (age, sequence) in self.waiting.iter().chain(&self.running) {
            assert_eq!(
                self.ages.get(&sequence.id),
                Some(age),
                "{:?} has another age",
                sequence.id
            );
            let most = sequence.most_positions() + 1;
            assert!(
                sequence.tokens.len() <= most,
                "{:?} has more tokens than it asked for",
                sequence.id
            );
        }
        assert!(
            self.put_back
                .iter()
                .all(|age| self.waiting.contains_key(age)),
            "put back and not waiting"
        );
        assert_eq!(
            self.shares.queued() + self.put_back.len(),
            self.waiting.len(),
            "a request waits in no queue or in two"
        );
        for sequence in self.waiting.values() {
            let fresh = sequence.needs == LaneKind::Prefill
                && sequence.computed == 0
                && sequence.lane.is_none();
            assert!(
                fresh && !sequence.removed && sequence.table.blocks().is_empty(),
                "{sequence:?} waits"
            );
        }
        for (&age, sequence) in &self.running {
            self.check_running(age, sequence);
        }
        for kind in [LaneKind::Prefill, LaneKind::Decode] {
            let flights = self.lanes.get(kind).unwrap_or_default();
            let inside = self
                .running
                .values()
                .filter(|sequence| sequence.lane == Some(kind))
                .count();
            assert_eq!(
                flights.len(),
                inside,
                "the {kind:?} lane and the sequences in it disagree"
            );
        }
    }

    fn check_running(&self, age: Age, sequence: &Sequence) {
        let id = sequence.id;
        let block_tokens = self.config.kv_block_tokens;
        let blocks = sequence.table.blocks().len();
        assert!(
            blocks <= sequence.most_positions().div_ceil(block_tokens),
            "{id:?} holds blocks beyond its need"
        );
        assert!(
            sequence.computed < sequence.tokens.len(),
            "{id:?} has nothing to compute"
        );
        assert!(
            !sequence.removed || sequence.lane.is_some(),
            "{id:?} was removed and stays"
        );
        assert!(
            sequence.table.remembered() * block_tokens <= sequence.computed,
            "{id:?} writes into remembered blocks"
        );
        match sequence.needs {
            LaneKind::Prefill => assert!(
                sequence.tokens.len() <= blocks * block_tokens,
                "{id:?} lacks blocks"
            ),
            LaneKind::Decode => {
                assert_eq!(
                    sequence.computed + 1,
                    sequence.tokens.len(),
                    "{id:?} decodes behind its last token"
                );
                assert!(
                    sequence.computed <= blocks * block_tokens,
                    "{id:?} computed beyond its blocks"
                );
            }
        }
        let Some(kind) = sequence.lane else {
            return;
        };
        let mut flights = self
            .lanes
            .get(kind)
            .unwrap_or_default()
            .iter()
            .filter(|flight| flight.age == age);
        let flight = flights
            .next()
            .unwrap_or_else(|| panic!("{id:?} is in a {kind:?} lane that is not out"));
        assert!(flights.next().is_none(), "{id:?} is twice in a lane");
        let end = sequence.computed + flight.tokens;
        assert!(
            end <= blocks * block_tokens,
            "the lane of {id:?} writes beyond its blocks"
        );
        assert_eq!(
            flight.samples,
            end == sequence.tokens.len(),
            "{id:?} samples elsewhere than at its end"
        );
    }
}
