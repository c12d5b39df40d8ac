//! Temperature, the cuts, and the draw. Sums are in f64 and in an order that the logits alone decide.

use super::exp::exp;
use super::rank::Ranking;
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
    fn of(&self, token: u32) -> f64 {
        self.of_logit(self.logits[token as usize])
    }

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
        let all = |places: Range<usize>, out: &mut [f64]| {
            let logits = &logits[places];
            out.iter_mut()
                .zip(logits)
                .for_each(|(out, &logit)| *out = weights.of_logit(logit));
        };
        return inverse_cdf(logits.len(), all, uniform) as u32;
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
    let some = |places: Range<usize>, out: &mut [f64]| {
        let tokens = &kept[places];
        out.iter_mut()
            .zip(tokens)
            .for_each(|(out, &token)| *out = weights.of(token));
    };
    kept[inverse_cdf(kept.len(), some, uniform)]
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

/// The first of `count` places at which the sum of weights, which `weigh` writes for a range of places, exceeds
/// `uniform` of all.
///
/// Both passes sum in the same order, so `uniform` < 1 makes the target less than the last sum reached: there always
/// is a place, and its weight is above 0.
fn inverse_cdf(count: usize, weigh: impl Fn(Range<usize>, &mut [f64]), uniform: f64) -> usize {
    let places = |part: usize| part * PART_TOKENS..count.min((part + 1) * PART_TOKENS);
    let mut buffer = [0.0; PART_TOKENS];
    let mut sums = Vec::new();
    for part in 0..count.div_ceil(PART_TOKENS) {
        let weights = &mut buffer[..places(part).len()];
        weigh(places(part), weights);
        sums.push(weights.iter().sum::<f64>());
    }
    let target = uniform * sums.iter().sum::<f64>();
    let mut before_part = 0.0;
    for (part, sum) in sums.into_iter().enumerate() {
        if before_part + sum > target {
            let weights = &mut buffer[..places(part).len()];
            weigh(places(part), weights);
            let mut within = 0.0;
            for (place, weight) in places(part).zip(weights) {
                within += *weight;
                if before_part + within > target {
                    return place;
                }
            }
        }
        before_part += sum;
    }
    unreachable!("{count} weights sum to {before_part} and never exceed {target}")
}
