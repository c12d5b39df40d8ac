//! S3-FIFO: a small queue for what is new, a main queue for what was used again, and the names of what left.
//!
//! J. Yang et al., "FIFO queues are all you need for cache eviction", SOSP 2023.

use odmoe_expert_store::residency::eviction::{EvictionPolicy, Heat};
use odmoe_formats::ExpertKey;
use std::collections::{HashMap, VecDeque};

/// The most uses that are remembered of one object.
const MOST_USES: u8 = 3;

/// See the module. The small queue has a tenth of the slots.
pub struct S3Fifo {
    small: VecDeque<ExpertKey>,
    main: VecDeque<ExpertKey>,
    ghosts: VecDeque<ExpertKey>,
    uses: HashMap<ExpertKey, u8>,
    capacity: usize,
}

impl S3Fifo {
    /// For so many slots.
    pub fn new(capacity: usize) -> Self {
        Self {
            small: VecDeque::new(),
            main: VecDeque::new(),
            ghosts: VecDeque::new(),
            uses: HashMap::new(),
            capacity,
        }
    }

    fn uses(&self, key: ExpertKey) -> u8 {
        self.uses.get(&key).copied().unwrap_or(0)
    }

    /// The order in which objects would leave: of the small queue those without a second use, then the main queue in
    /// rounds, each of which takes a use. The queues themselves move when something leaves.
    fn leaving(&self) -> impl Iterator<Item = ExpertKey> {
        let promoted = |key: &&ExpertKey| self.uses(**key) > 1;
        let (up, out): (Vec<_>, Vec<_>) = self.small.iter().partition(promoted);
        let mut main: Vec<ExpertKey> = self.main.iter().chain(up).copied().collect();
        main.sort_by_key(|key| self.uses(*key).min(MOST_USES));
        let small: Vec<ExpertKey> = out.into_iter().copied().collect();
        let small_first = self.small.len() >= (self.capacity / 10).max(1);
        let (first, then) = if small_first {
            (small, main)
        } else {
            (main, small)
        };
        first.into_iter().chain(then)
    }
}

impl EvictionPolicy for S3Fifo {
    fn insert(&mut self, key: ExpertKey, heat: Heat) {
        self.uses.insert(key, 0);
        let ghost = self.ghosts.iter().position(|ghost| *ghost == key);
        match ghost.filter(|_| heat == Heat::Warm) {
            Some(place) => {
                self.ghosts.remove(place);
                self.main.push_back(key);
            }
            None => self.small.push_back(key),
        }
    }

    fn touch(&mut self, key: ExpertKey, heat: Heat) {
        if heat == Heat::Warm
            && let Some(uses) = self.uses.get_mut(&key)
        {
            *uses = (*uses + 1).min(MOST_USES);
        }
    }

    fn remove(&mut self, key: ExpertKey) {
        let taken = self.uses(key);
        if let Some(place) = self.small.iter().position(|other| *other == key) {
            self.small.remove(place);
            // Those before it that were used again have been passed over: they are promoted.
            let passed: Vec<ExpertKey> = self.small.drain(..place).collect();
            for other in passed.into_iter().rev() {
                if self.uses(other) > 1 {
                    self.uses.insert(other, 0);
                    self.main.push_back(other);
                } else {
                    self.small.push_front(other);
                }
            }
            self.ghosts.push_back(key);
            if self.ghosts.len() > self.capacity {
                self.ghosts.pop_front();
            }
        } else if let Some(place) = self.main.iter().position(|other| *other == key) {
            self.main.remove(place);
            // The rounds that it took to come to this one.
            self.main.rotate_left(place.min(self.main.len()));
            for other in &self.main {
                let uses = self.uses.get_mut(other).expect("resident");
                *uses = uses.saturating_sub(taken);
            }
        }
        self.uses.remove(&key);
    }

    fn victim(&self, may_leave: &mut dyn FnMut(ExpertKey) -> bool) -> Option<ExpertKey> {
        self.leaving().find(|key| may_leave(*key))
    }

    fn order(&self) -> Vec<ExpertKey> {
        self.leaving().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(index: u32) -> ExpertKey {
        ExpertKey::routed(0, index)
    }

    #[test]
    fn what_is_not_used_again_leaves_the_small_queue_and_returns_to_the_main_one() {
        let mut policy = S3Fifo::new(4);
        (0..3).for_each(|index| policy.insert(key(index), Heat::Warm));
        (0..2).for_each(|_| policy.touch(key(0), Heat::Warm));
        assert_eq!(policy.order(), [1, 2, 0].map(key));
        policy.remove(key(1));
        policy.insert(key(1), Heat::Warm);
        // 0 was promoted as 1 passed it, and 1 came back from among the ghosts.
        assert_eq!(policy.order(), [2, 0, 1].map(key));
        policy.remove(key(2));
        policy.touch(key(0), Heat::Warm);
        assert_eq!(policy.order(), [1, 0].map(key));
    }
}
