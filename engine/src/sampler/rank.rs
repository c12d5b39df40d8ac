//! The most likely tokens first, sorted no further than is looked at.

use std::cmp::Ordering;

/// Tokens of which the greatest logit is taken at once, see [`Ranking::gather`].
const PART_TOKENS: usize = 256;

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
            let end = self.gather(count);
            let rest = &mut self.tokens[self.ranked..end];
            let more = count - self.ranked;
            if more < rest.len() {
                rest.select_nth_unstable_by(more - 1, |&a, &b| by_likelihood(self.logits, a, b));
            }
            rest[..more].sort_unstable_by(|&a, &b| by_likelihood(self.logits, a, b));
            self.ranked = count;
        }
        &self.tokens[..count]
    }

    /// Brings the `count` most likely tokens, and as few others as two cheap passes can tell, to the front; returns
    /// how many these are. The `count`-th of the parts' greatest logits is a bound that at least `count` tokens reach;
    /// what is ranked already reaches it too and stays where it is.
    fn gather(&mut self, count: usize) -> usize {
        if count > self.logits.len() / PART_TOKENS {
            return self.tokens.len();
        }
        let parts = self.logits.chunks(PART_TOKENS);
        let mut greatest: Vec<f32> = parts
            .map(|part| part.iter().copied().fold(f32::NEG_INFINITY, f32::max))
            .collect();
        let bound = *greatest
            .select_nth_unstable_by(count - 1, |a, b| b.total_cmp(a))
            .1;
        let mut end = 0;
        for i in 0..self.tokens.len() {
            if self.logits[self.tokens[i] as usize] >= bound {
                self.tokens.swap(i, end);
                end += 1;
            }
        }
        end
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

    /// Not whole parts.
    const VOCAB: usize = 9 * PART_TOKENS + 7;

    #[test]
    fn any_way_of_ranking_agrees_with_a_full_sort() {
        for seed in 0..50 {
            // Few distinct values, so many ties; or many.
            let distinct = [3.0, 20.0, 1e6][seed as usize % 3];
            let logits: Vec<f32> = (0..VOCAB)
                .map(|i| (uniform(seed, 0, i) * distinct).floor() as f32 - 2.0)
                .collect();
            let mut sorted: Vec<u32> = (0..VOCAB as u32).collect();
            sorted.sort_by(|&a, &b| {
                logits[b as usize]
                    .total_cmp(&logits[a as usize])
                    .then(a.cmp(&b))
            });
            let mut ranking = Ranking::new(&logits);
            for count in [1, 2, 7, 64, 5, VOCAB - 1, VOCAB, VOCAB + 9] {
                assert_eq!(
                    ranking.first(count),
                    &sorted[..count.min(VOCAB)],
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
