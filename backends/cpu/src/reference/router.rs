//! From a token's router logits to its experts.

use crate::reference::dot::{maximum, sum};
use crate::reference::exp::exp;
use odmoe_backend::{Choice, ChoiceOrder, Scoring};

/// x = e^(x - max x), and returns their sum (in lanes).
#[inline(always)]
pub fn exponentials(x: &mut [f32], largest: f32) -> f32 {
    for x in x.iter_mut() {
        *x = exp(*x - largest);
    }
    sum(x)
}

/// Scores the logits [E] of one token and writes its choices [K]. The logits become scores.
#[inline(always)]
pub fn choose(logits: &mut [f32], scoring: Scoring, order: ChoiceOrder, out: &mut [Choice]) {
    assert!(
        out.len() <= logits.len(),
        "top {} of {} experts",
        out.len(),
        logits.len()
    );
    let Scoring::SoftmaxTopK { renormalise } = scoring;
    let largest = maximum(logits);
    let total = exponentials(logits, largest);
    for score in logits.iter_mut() {
        *score /= total;
    }
    select_top(logits, out);
    if renormalise {
        let total: f32 = out.iter().map(|choice| choice.weight).sum();
        for choice in out.iter_mut() {
            choice.weight /= total;
        }
    }
    if order == ChoiceOrder::ByExpert {
        out.sort_unstable_by_key(|choice| choice.expert);
    }
}

/// The K highest scores, descending; equal scores in ascending order of expert. NaN ranks above all numbers, so
/// that every choice names a different expert whatever comes in.
#[inline(always)]
fn select_top(scores: &[f32], out: &mut [Choice]) {
    let mut filled = 0;
    for (expert, &weight) in scores.iter().enumerate() {
        let place =
            out[..filled].partition_point(|better| better.weight.total_cmp(&weight).is_ge());
        if place == out.len() {
            continue;
        }
        filled = (filled + 1).min(out.len());
        out.copy_within(place..filled - 1, place + 1);
        out[place] = Choice {
            expert: expert as u32,
            weight,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: Choice = Choice {
        expert: 0,
        weight: 0.0,
    };

    fn experts(choices: &[Choice]) -> Vec<u32> {
        choices.iter().map(|choice| choice.expert).collect()
    }

    #[test]
    fn ties_go_to_the_lower_expert() {
        let mut out = [NONE; 3];
        let scoring = Scoring::SoftmaxTopK { renormalise: false };
        choose(
            &mut [1.0, 2.0, 1.0, 2.0, 1.0],
            scoring,
            ChoiceOrder::ByScore,
            &mut out,
        );
        assert_eq!(experts(&out), [1, 3, 0]);
    }

    #[test]
    fn renormalised_weights_sum_to_one_and_go_by_expert() {
        let mut out = [NONE; 2];
        let scoring = Scoring::SoftmaxTopK { renormalise: true };
        choose(
            &mut [3.0, 0.0, 0.0, 4.0],
            scoring,
            ChoiceOrder::ByExpert,
            &mut out,
        );
        assert_eq!(experts(&out), [0, 3]);
        assert!((out[0].weight + out[1].weight - 1.0).abs() < 1e-6);
        assert!((out[1].weight / out[0].weight - 1.0f32.exp()).abs() < 1e-5);
    }

    #[test]
    fn without_renormalising_weights_are_shares_of_all() {
        let mut out = [NONE; 1];
        let scoring = Scoring::SoftmaxTopK { renormalise: false };
        choose(&mut [0.0; 8], scoring, ChoiceOrder::ByExpert, &mut out);
        assert_eq!(
            out,
            [Choice {
                expert: 0,
                weight: 0.125
            }]
        );
    }

    #[test]
    fn choices_differ_even_where_logits_are_not_numbers() {
        let mut out = [NONE; 4];
        let scoring = Scoring::SoftmaxTopK { renormalise: true };
        choose(&mut [f32::NAN; 6], scoring, ChoiceOrder::ByExpert, &mut out);
        assert_eq!(experts(&out), [0, 1, 2, 3]);
    }
}
