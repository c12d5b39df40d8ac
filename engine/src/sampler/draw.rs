//! Temperature, the cuts, and the draw. Sums are in f64 and in an order that the logits alone decide.

use super::rank::Ranking;
use crate::api::SamplingParams;

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
        let logit = f64::from(self.logits[token as usize]);
        if logit == f64::NEG_INFINITY {
            return 0.0; // At an infinite temperature too.
        }
        ((logit - self.greatest) / self.temperature).exp()
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
    let mut ranking = Ranking::new(logits);
    let top_k = params.top_k as usize;
    if top_k > 0 && top_k < ranking.len() {
        ranking.keep(top_k);
    }
    if params.top_p < 1.0 {
        cut_top_p(&mut ranking, &weights, f64::from(params.top_p));
    }
    let mut kept = ranking.into_tokens();
    let least = f64::from(params.min_p.min(1.0));
    if least > 0.0 {
        kept.retain(|&token| weights.of(token) >= least);
    }
    inverse_cdf(&kept, &weights, uniform)
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

/// Both passes sum in the same order, so `uniform` < 1 makes the target less than the last sum reached: there always
/// is a token, and its weight is above 0.
fn inverse_cdf(tokens: &[u32], weights: &Weights<'_>, uniform: f64) -> u32 {
    let parts: Vec<f64> = tokens
        .chunks(PART_TOKENS)
        .map(|part| weights.sum(part))
        .collect();
    let target = uniform * parts.iter().sum::<f64>();
    let mut before_part = 0.0;
    for (part, sum) in tokens.chunks(PART_TOKENS).zip(parts) {
        if before_part + sum > target {
            let mut within = 0.0;
            for &token in part {
                within += weights.of(token);
                if before_part + within > target {
                    return token;
                }
            }
        }
        before_part += sum;
    }
    unreachable!(
        "the weights of {} tokens sum to {before_part} and never exceed {target}",
        tokens.len()
    )
}
