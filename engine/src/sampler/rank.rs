//! The most likely tokens first, sorted no further than is looked at.

use std::cmp::Ordering;

/// Descending logits; equal ones by ascending token. NaN is a bug.
fn by_likelihood(logits: &[f32], a: u32, b: u32) -> Ordering {
    let order = logits[b as usize].partial_cmp(&logits[a as usize]);
    order.expect("logits hold no NaN here").then(a.cmp(&b))
}

/// The tokens of a vocabulary, of which the first `ranked` are the most likely, in order.
///
/// The order is total, so what the first n are depends on the logits alone and not on how n was reached.
pub(super) struct Ranking<'a> {
    logits: &'a [f32],
    tokens: Vec<u32>,
    ranked: usize,
}

impl<'a> Ranking<'a> {
    pub fn new(logits: &'a [f32]) -> Self {
        Self {
            logits,
            tokens: (0..logits.len() as u32).collect(),
            ranked: 0,
        }
    }

    /// The `count` most likely, or all if there are fewer.
    pub fn first(&mut self, count: usize) -> &[u32] {
        let count = count.min(self.tokens.len());
        if count > self.ranked {
            let rest = &mut self.tokens[self.ranked..];
            let more = count - self.ranked;
            if more < rest.len() {
                rest.select_nth_unstable_by(more - 1, |&a, &b| by_likelihood(self.logits, a, b));
            }
            rest[..more].sort_unstable_by(|&a, &b| by_likelihood(self.logits, a, b));
            self.ranked = count;
        }
        &self.tokens[..count]
    }

    /// Forgets all but the `count` most likely.
    pub fn keep(&mut self, count: usize) {
        self.first(count);
        self.tokens.truncate(count);
        self.ranked = self.tokens.len();
    }

    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// What is kept: ascending by token until something is ranked.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// What is kept, ascending by token.
    pub fn into_tokens(mut self) -> Vec<u32> {
        self.tokens.sort_unstable();
        self.tokens
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sampler::philox::uniform;

    #[test]
    fn any_way_of_ranking_agrees_with_a_full_sort() {
        for seed in 0..50 {
            // Few distinct values: many ties.
            let logits: Vec<f32> = (0..200)
                .map(|i| (uniform(seed, 0, i) * 20.0).floor() as f32 - 10.0)
                .collect();
            let mut sorted: Vec<u32> = (0..200).collect();
            sorted.sort_by(|&a, &b| {
                logits[b as usize]
                    .total_cmp(&logits[a as usize])
                    .then(a.cmp(&b))
            });
            let mut ranking = Ranking::new(&logits);
            for count in [1, 2, 7, 64, 5, 199, 200, 1000] {
                assert_eq!(
                    ranking.first(count),
                    &sorted[..count.min(200)],
                    "seed {seed}, first {count}"
                );
            }
            let mut kept = Ranking::new(&logits);
            kept.keep(33);
            assert_eq!(kept.len(), 33);
            assert_eq!(kept.first(100), &sorted[..33]);
            let mut ascending = sorted[..33].to_vec();
            ascending.sort();
            assert_eq!(kept.into_tokens(), ascending);
        }
    }

    #[test]
    fn both_zeros_are_equal() {
        assert_eq!(Ranking::new(&[-0.0, 0.0, -0.0]).first(3), [0, 1, 2]);
    }
}
