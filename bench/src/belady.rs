//! Belady's optimum: evict what is needed furthest in the future.
//!
//! L. A. Belady, "A study of replacement algorithms for a virtual-storage computer", IBM Systems Journal 5 (1966).
//! Every missed expert must be admitted, as in the store: it has to be in memory to be used. What a step wants stays
//! until the step is over, for every policy alike.

use crate::replay::HitCount;
use crate::steps::Steps;
use odmoe_formats::ExpertKey;
use std::collections::{BTreeSet, HashMap};

/// The most hits that any policy can reach on `steps` with `capacity` slots, at least [`Steps::widest`].
pub fn belady(steps: &Steps, capacity: usize) -> HitCount {
    assert!(capacity >= steps.widest(), "a step must fit");
    let next_use = next_uses(steps);
    let mut later = next_use.iter();
    // Residents by when they are needed next; each resident has exactly one entry.
    let mut by_next_use: BTreeSet<(usize, ExpertKey)> = BTreeSet::new();
    let mut count = HitCount::default();
    for (now, step) in steps.iter().enumerate() {
        // A resident's entry carries the time of its next use: for those used now, that is now.
        let hits = step
            .keys
            .iter()
            .filter(|key| by_next_use.remove(&(now, **key)));
        let hits = hits.count();
        while by_next_use.len() + step.keys.len() > capacity {
            by_next_use.pop_last();
        }
        by_next_use.extend(later.by_ref().zip(step.keys).map(|(at, key)| (*at, *key)));
        count.hits += hits as u64;
        count.uses += step.keys.len() as u64;
    }
    count
}

/// For each use, the step that uses the same key next; past the end for a last use.
fn next_uses(steps: &Steps) -> Vec<usize> {
    let mut upcoming: HashMap<ExpertKey, usize> = HashMap::new();
    let mut next = Vec::with_capacity(steps.uses());
    for (now, step) in steps.iter().enumerate().rev() {
        let later = step.keys.iter().rev();
        next.extend(later.map(|&key| upcoming.insert(key, now).unwrap_or(usize::MAX)));
    }
    next.reverse();
    next
}

#[cfg(test)]
mod tests {
    use super::*;
    use odmoe_expert_store::Phase;

    /// Letters are uses, each a step.
    fn uses(letters: &str) -> Steps {
        let mut steps = Steps::default();
        for letter in letters.bytes() {
            let key = ExpertKey::routed(0, u32::from(letter - b'a'));
            steps.push(Phase::Decode, [key]);
        }
        steps
    }

    #[test]
    fn hand_computed() {
        // Three slots: a b c miss; d evicts c (needed after a and b); a b hit; e evicts d (needed
        // last); a b hit; c and d miss.
        assert_eq!(
            belady(&uses("abcdabeabcd"), 3),
            HitCount { hits: 4, uses: 11 }
        );
        // Two slots, cyclic: a b miss; c evicts b; a hits; b evicts a; c hits; a evicts c; b hits.
        assert_eq!(belady(&uses("abcabcab"), 2), HitCount { hits: 3, uses: 8 });
        assert_eq!(belady(&uses("aaaa"), 1), HitCount { hits: 3, uses: 4 });
    }

    #[test]
    fn a_step_keeps_what_it_wants_until_it_is_over() {
        let key = |index| ExpertKey::routed(0, index);
        let mut steps = Steps::default();
        for wanted in [[0, 1], [1, 2], [0, 1]] {
            steps.push(Phase::Decode, wanted.map(key));
        }
        // The second step has to evict 0; singly, 2 could have gone into the place of 1 when that was over.
        assert_eq!(belady(&steps, 2), HitCount { hits: 2, uses: 6 });
        assert_eq!(belady(&steps.one_by_one(), 2).hits, 2);
    }

    #[test]
    fn never_below_exhaustive_search() {
        // Traces of 8 uses over 4 keys with 2 slots, against every choice of victim.
        for code in (0..4_u32.pow(8)).step_by(7) {
            let letters: String = (0..8)
                .map(|place| char::from(b'a' + (code / 4_u32.pow(place) % 4) as u8))
                .collect();
            let steps = uses(&letters);
            let trace: Vec<ExpertKey> = steps.iter().map(|step| step.keys[0]).collect();
            assert_eq!(
                belady(&steps, 2).hits,
                best_hits(&trace, &mut Vec::new(), 2),
                "trace {letters}"
            );
        }
    }

    fn best_hits(uses: &[ExpertKey], resident: &mut Vec<ExpertKey>, capacity: usize) -> u64 {
        let Some((key, rest)) = uses.split_first() else {
            return 0;
        };
        if resident.contains(key) {
            return 1 + best_hits(rest, resident, capacity);
        }
        if resident.len() < capacity {
            resident.push(*key);
            let best = best_hits(rest, resident, capacity);
            resident.pop();
            return best;
        }
        (0..capacity)
            .map(|victim| {
                let mut next = resident.clone();
                next[victim] = *key;
                best_hits(rest, &mut next, capacity)
            })
            .max()
            .unwrap_or(0)
    }
}
