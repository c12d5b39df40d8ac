//! Belady's optimum: evict what is needed furthest in the future.
//!
//! L. A. Belady, "A study of replacement algorithms for a virtual-storage computer", IBM Systems Journal 5 (1966).
//! Every missed expert must be admitted, as in the store: it has to be in memory to be used.

use crate::replay::HitCount;
use odmoe_formats::ExpertKey;
use std::collections::{BTreeSet, HashMap};

/// The most hits that any policy can reach on `uses` with `capacity` slots.
pub fn belady(uses: &[ExpertKey], capacity: usize) -> HitCount {
    assert!(capacity > 0, "a cache without slots cannot serve");
    let next_use = next_uses(uses);
    // Residents by when they are needed next; each resident has exactly one entry.
    let mut by_next_use: BTreeSet<(usize, ExpertKey)> = BTreeSet::new();
    let mut count = HitCount::default();
    for (now, &key) in uses.iter().enumerate() {
        // A resident's entry carries the time of its next use: for the key used now, that is now.
        let hit = by_next_use.remove(&(now, key));
        if !hit && by_next_use.len() == capacity {
            by_next_use.pop_last();
        }
        by_next_use.insert((next_use[now], key));
        count.record(hit);
    }
    count
}

/// For each use, when the same key is used next; past the end for a last use.
fn next_uses(uses: &[ExpertKey]) -> Vec<usize> {
    let mut upcoming: HashMap<ExpertKey, usize> = HashMap::new();
    let mut next = vec![usize::MAX; uses.len()];
    for (now, &key) in uses.iter().enumerate().rev() {
        if let Some(later) = upcoming.insert(key, now) {
            next[now] = later;
        }
    }
    next
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uses(letters: &str) -> Vec<ExpertKey> {
        letters
            .bytes()
            .map(|letter| ExpertKey::routed(0, u32::from(letter - b'a')))
            .collect()
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
    fn never_below_exhaustive_search() {
        // Traces of 8 uses over 4 keys with 2 slots, against every choice of victim.
        for code in (0..4_u32.pow(8)).step_by(7) {
            let trace: Vec<ExpertKey> = (0..8)
                .map(|place| ExpertKey::routed(0, code / 4_u32.pow(place) % 4))
                .collect();
            assert_eq!(
                belady(&trace, 2).hits,
                best_hits(&trace, &mut Vec::new(), 2),
                "trace {code}"
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
