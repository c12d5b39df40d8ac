//! Keeping to a mask of tokens.

use crate::api::TokenMask;

/// Gives tokens outside of the mask a logit of -inf.
pub(super) fn exclude(logits: &mut [f32], mask: &TokenMask) {
    for (logits, word) in logits.chunks_mut(32).zip(mask.words()) {
        match *word {
            u32::MAX => {}
            0 => logits.fill(f32::NEG_INFINITY),
            word => {
                for (bit, logit) in logits.iter_mut().enumerate() {
                    if word >> bit & 1 == 0 {
                        *logit = f32::NEG_INFINITY;
                    }
                }
            }
        }
    }
}

/// Makes the mask's tokens, at least one, equally likely: the model gave none of them a chance. Returns the first.
pub(super) fn level(logits: &mut [f32], mask: &TokenMask) -> u32 {
    logits.fill(0.0);
    exclude(logits, mask);
    let first = logits.iter().position(|logit| *logit == 0.0);
    first.expect("a mask has a token") as u32
}
