//! Temperature, the cuts, and the draw. Sums are in f64 and in an order that the logits alone decide.

use super::exp::exp;
use super::rank::Ranking;
use super::wide;
use crate::api::SamplingParams;
use std::ops::Range;

/// How many tokens top-p ranks at first, and the factor by which it then ranks more.
const FIRST_RANKED: usize = 64;
const RANK_GROWTH: usize = 4;
/// Tokens whose weights are summed at once: the draw looks again at one such part only.
const PART_TOKENS: usize = 1024;

/// Probabilities before cuts, up to a factor: exp((logit - greatest) / temperature), 1 for the most likely.
struct Weights<'a> {
    logits: &'a [f32],
    greatest: f64,
    temperature: f64,
}

impl Weights<'_> {
    #[inline(always)]
    fn of(&self, token: u32) -> f64 {
        self.of_logit(self.logits[token as usize])
    }

    #[inline(always)]
    fn of_logit(&self, logit: f32) -> f64 {
        let weight = exp((f64::from(logit) - self.greatest) / self.temperature);
        // At an infinite temperature too.
        if logit == f32::NEG_INFINITY {
            0.0
        } else {
            weight
        }
    }

    fn sum(&self, tokens: &[u32]) -> f64 {
        tokens.iter().map(|&token| self.of(token)).sum()
    }
}

/// Draws a token at a temperature above 0 with `uniform` from [0, 1). Logits hold no NaN or +inf, and `greatest` is
/// the greatest of them.
///
/// The order is temperature, top-k, top-p (of what top-k kept), min-p; then the first token by ascending id at which
/// the sum of kept probabilities exceeds `uniform`.
pub(super) fn draw(logits: &[f32], greatest: f32, params: &SamplingParams, uniform: f64) -> u32 {
    let weights = Weights {
        logits,
        greatest: f64::from(greatest),
        temperature: f64::from(params.temperature),
    };
    let least = f64::from(params.min_p.min(1.0));
    if params.top_k == 0 && params.top_p >= 1.0 && least <= 0.0 {
        return inverse_cdf(&All(&weights), uniform) as u32;
    }
    let mut ranking = Ranking::new(logits);
    let top_k = params.top_k as usize;
    if top_k > 0 && top_k < ranking.len() {
        ranking.keep(top_k);
    }
    if params.top_p < 1.0 {
        cut_top_p(&mut ranking, &weights, f64::from(params.top_p));
    }
    let mut kept = ranking.into_tokens();
    if least > 0.0 {
        kept.retain(|&token| weights.of(token) >= least);
    }
    let left = Kept {
        weights: &weights,
        tokens: &kept,
    };
    kept[inverse_cdf(&left, uniform)]
}

/// Nucleus sampling (Holtzman et al. 2020, section 3.1): the smallest set of most likely tokens that reaches `top_p`.
fn cut_top_p(ranking: &mut Ranking<'_>, weights: &Weights<'_>, top_p: f64) {
    let target = top_p * weights.sum(ranking.tokens());
    let (mut counted, mut reached, mut ahead) = (0, 0.0, FIRST_RANKED);
    while counted < ranking.len() {
        let first = ranking.first(ahead);
        for &token in &first[counted..] {
            counted += 1;
            reached += weights.of(token);
            if reached >= target {
                return ranking.keep(counted);
            }
        }
        ahead *= RANK_GROWTH;
    }
}

/// Weights at places that follow each other.
trait Places {
    fn count(&self) -> usize;

    /// Writes those of a range of places.
    fn weigh(&self, places: Range<usize>, out: &mut [f64]);
}

/// The whole vocabulary.
struct All<'a>(&'a Weights<'a>);

impl Places for All<'_> {
    fn count(&self) -> usize {
        self.0.logits.len()
    }

    fn weigh(&self, places: Range<usize>, out: &mut [f64]) {
        wide::map(&self.0.logits[places], out, |&logit| self.0.of_logit(logit));
    }
}

/// What cuts left of it.
struct Kept<'a> {
    weights: &'a Weights<'a>,
    tokens: &'a [u32],
}

impl Places for Kept<'_> {
    fn count(&self) -> usize {
        self.tokens.len()
    }

    fn weigh(&self, places: Range<usize>, out: &mut [f64]) {
        wide::map(&self.tokens[places], out, |&token| self.weights.of(token));
    }
}

/// The first place at which the sum of weights exceeds `uniform` of all; its weight is above 0.
///
/// Parts are summed in another order than their places, so the sum of a part's places may end a rounding below the
/// part's: then it is the last of them that has a weight.
fn inverse_cdf(of: &impl Places, uniform: f64) -> usize {
    let count = of.count();
    let places = |part: usize| part * PART_TOKENS..count.min((part + 1) * PART_TOKENS);
    let mut buffer = [0.0; PART_TOKENS];
    let mut sums = Vec::new();
    for part in 0..count.div_ceil(PART_TOKENS) {
        let weights = &mut buffer[..places(part).len()];
        of.weigh(places(part), weights);
        sums.push(wide::sum(weights));
    }
    let target = uniform * sums.iter().sum::<f64>();
    let mut before_part = 0.0;
    for (part, sum) in sums.into_iter().enumerate() {
        if before_part + sum > target {
            let weights = &mut buffer[..places(part).len()];
            of.weigh(places(part), weights);
            let (mut within, mut last) = (0.0, None);
            for (place, weight) in places(part).zip(weights).filter(|(_, w)| **w > 0.0) {
                within += *weight;
                last = Some(place);
                if before_part + within > target {
                    break;
                }
            }
            return last.expect("a part that adds to the sum has a weight");
        }
        before_part += sum;
    }
    unreachable!("{count} weights sum to {before_part} and never exceed {target}")
}
