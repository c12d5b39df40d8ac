//! What is replayed: sets of experts, each wanted at once.

use odmoe_expert_store::Phase;
use odmoe_formats::ExpertKey;

/// Demands in the order in which they were made. One demand is what a layer of a pass wants, in ascending order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Steps {
    keys: Vec<ExpertKey>,
    /// Of each step: the end of its keys, and who asked.
    ends: Vec<(usize, Phase)>,
}

/// One demand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step<'a> {
    /// Who asked.
    pub phase: Phase,
    /// Distinct, at least one, all of one layer.
    pub keys: &'a [ExpertKey],
}

impl Steps {
    /// Adds a demand; one for nothing is none.
    pub fn push(&mut self, phase: Phase, keys: impl IntoIterator<Item = ExpertKey>) {
        let before = self.keys.len();
        self.keys.extend(keys);
        if self.keys.len() > before {
            self.ends.push((self.keys.len(), phase));
        }
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = Step<'_>> + ExactSizeIterator {
        (0..self.ends.len()).map(|at| {
            let begin = at.checked_sub(1).map_or(0, |before| self.ends[before].0);
            let (end, phase) = self.ends[at];
            Step {
                phase,
                keys: &self.keys[begin..end],
            }
        })
    }

    /// Every use by itself, as caches are usually compared. The store pins the hits of a layer before it makes room for
    /// the misses; here an earlier use of the layer may evict a later one.
    pub fn one_by_one(&self) -> Self {
        let mut steps = Self::default();
        for step in self.iter() {
            step.keys
                .iter()
                .for_each(|key| steps.push(step.phase, [*key]));
        }
        steps
    }

    /// Uses in all steps.
    pub fn uses(&self) -> usize {
        self.keys.len()
    }

    /// The most that one step wants: the least capacity with which it can be replayed.
    pub fn widest(&self) -> usize {
        self.iter().map(|step| step.keys.len()).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_come_back_as_they_were_put_in() {
        let key = |index| ExpertKey::routed(2, index);
        let mut steps = Steps::default();
        steps.push(Phase::Prefill, [key(1), key(4)]);
        steps.push(Phase::Decode, []);
        steps.push(Phase::Decode, [key(0)]);
        let found: Vec<(Phase, usize)> = steps.iter().map(|s| (s.phase, s.keys.len())).collect();
        assert_eq!(found, [(Phase::Prefill, 2), (Phase::Decode, 1)]);
        assert_eq!((steps.uses(), steps.widest()), (3, 2));
        let singly = steps.one_by_one();
        assert_eq!((singly.iter().len(), singly.widest()), (3, 1));
        assert!(
            singly
                .iter()
                .flat_map(|s| s.keys)
                .eq([key(1), key(4), key(0)].iter())
        );
    }
}
