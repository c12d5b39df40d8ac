//! What the model thinks of the tokens.

use super::rank::Ranking;
use crate::api::{PositionLogprobs, TokenLogprob};

/// Log-softmax at the chosen token and at the `top` most likely. Logits hold no NaN or +inf, and `greatest` is the
/// greatest of them. A token with a logit of -inf has a logprob of -inf.
pub(super) fn logprobs(logits: &[f32], greatest: f32, chosen: u32, top: u32) -> PositionLogprobs {
    let greatest = f64::from(greatest);
    // Ascending by token, in f64.
    let sum: f64 = logits
        .iter()
        .map(|&logit| (f64::from(logit) - greatest).exp())
        .sum();
    let log_sum = sum.ln();
    let of = |token: u32| TokenLogprob {
        token,
        logprob: (f64::from(logits[token as usize]) - greatest - log_sum) as f32,
    };
    let top = match top {
        0 => Vec::new(),
        top => Ranking::new(logits)
            .first(top as usize)
            .iter()
            .map(|&token| of(token))
            .collect(),
    };
    PositionLogprobs {
        chosen: of(chosen),
        top,
    }
}
