//! Policies, predictions and budgets over one recording, side by side.

use crate::belady::belady;
use crate::policies::Policy;
use crate::recording::Recording;
use crate::replay::{HitCount, replay, replay_hinted};
use crate::steps::Steps;

/// One budget.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Of all experts.
    pub percent: f64,
    /// Slots that are replayed with.
    pub slots: usize,
    /// Of each policy that was asked for, in that order.
    pub policies: Vec<(Policy, HitCount)>,
    /// What LRU does.
    pub lru: HitCount,
    /// The most that can be.
    pub best: HitCount,
}

impl Row {
    /// Replays a budget of so many percent of `experts`; never fewer slots than a step takes.
    pub fn of(steps: &Steps, experts: usize, percent: f64, policies: &[Policy]) -> Self {
        let slots = (experts as f64 * percent / 100.0) as usize;
        let slots = slots.max(steps.widest()).max(1);
        let of = |policy: Policy| replay(policy.policy(slots), steps, slots);
        let found = policies.iter().map(|policy| (*policy, of(*policy)));
        Self {
            percent,
            slots,
            policies: found.collect(),
            lru: of(Policy::ALL[0]),
            best: belady(steps, slots),
        }
    }

    /// The share of the way from LRU to the optimum that a policy goes.
    pub fn gap_closed(&self, found: HitCount) -> f64 {
        found.gap_closed(self.lru, self.best)
    }
}

/// What recorded predictions knew of a policy's misses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Foresight {
    /// Misses of demands that a hint had preceded.
    pub misses: u64,
    /// Of them, those that were among the hint's first so many.
    pub foreseen: u64,
    /// Objects among those that were absent: what it would have read.
    pub named: u64,
}

impl Foresight {
    /// Of the misses, the share that was foreseen.
    pub fn recall(self) -> Option<f64> {
        (self.misses > 0).then(|| self.foreseen as f64 / self.misses as f64)
    }

    /// Of what would have been read, the share that was wanted.
    pub fn precision(self) -> Option<f64> {
        (self.named > 0).then(|| self.foreseen as f64 / self.named as f64)
    }
}

/// Recall on misses of the first `most` of each hint, under a policy with so many slots that follows no hint.
pub fn foresight(recording: &Recording, policy: Policy, slots: usize, most: usize) -> Foresight {
    let mut sum = Foresight::default();
    let mut hints = recording.hints.iter().peekable();
    let mut last: [Option<&crate::recording::Hint>; 2] = [None, None];
    let mut at = 0;
    replay_hinted(
        policy.policy(slots),
        &recording.steps,
        slots,
        |step, resident| {
            while let Some(hint) = hints.next_if(|hint| hint.at <= at) {
                last[hint.phase as usize] = Some(hint);
            }
            at += 1;
            let hint = last[step.phase as usize].take();
            let Some(hint) = hint.filter(|hint| hint.keys[0].layer == step.keys[0].layer) else {
                return;
            };
            let first = &hint.keys[..most.min(hint.keys.len())];
            sum.named += first.iter().filter(|key| !resident(**key)).count() as u64;
            for key in step.keys.iter().filter(|key| !resident(**key)) {
                sum.misses += 1;
                sum.foreseen += u64::from(first.contains(key));
            }
        },
    );
    sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recording::Hint;
    use odmoe_expert_store::Phase;
    use odmoe_formats::ExpertKey;

    #[test]
    fn recall_counts_misses_alone() {
        let key = |layer, index| ExpertKey::routed(layer, index);
        let mut recording = Recording {
            experts: vec![8, 8],
            ..Recording::default()
        };
        for pass in 0..2 {
            recording.steps.push(Phase::Decode, [key(0, 0)]);
            recording.hints.push(Hint {
                at: 2 * pass + 1,
                phase: Phase::Decode,
                keys: vec![key(1, 5), key(1, 6), key(1, 7)],
            });
            let other = pass as u32;
            recording
                .steps
                .push(Phase::Decode, [key(1, other), key(1, 6)]);
        }
        let lru = Policy::ALL[0];
        // First pass: 0 and 6 miss, 6 was named; second: 6 is there, 1 misses unnamed.
        let found = foresight(&recording, lru, 8, 3);
        let wanted = Foresight {
            misses: 3,
            foreseen: 1,
            named: 5,
        };
        assert_eq!(found, wanted);
        assert_eq!(foresight(&recording, lru, 8, 1).foreseen, 0);
        let row = Row::of(&recording.steps, 16, 50.0, &Policy::ALL);
        assert_eq!((row.slots, row.policies.len()), (8, Policy::ALL.len()));
        assert_eq!(row.gap_closed(row.best), 0.0, "nothing had to leave");
    }
}
