//! From logits to a token.
//!
//! A mask comes first, if there is one: what it leaves out does not exist. The order of the other steps is that of
//! [`SamplingParams`]: logit bias, repetition penalty, presence and frequency
//! penalties; here logprobs are taken; then temperature, top-k, top-p, min-p, and the draw. Equal logits are ordered
//! by ascending token. A result is a function of logits, parameters, the tokens so far and the position: sums have a
//! fixed order, and random numbers come from a counter, so that neither batching, nor preemption, nor the order of
//! calls for other sequences can change a bit.

mod allowed;
mod draw;
mod exp;
mod logprobs;
mod penalties;
mod philox;
mod rank;
#[cfg(test)]
mod tests;
mod wide;

use crate::api::{PositionLogprobs, SamplingParams, TokenMask};
use penalties::Penalties;

/// What [`SequenceSampler::next`] chose.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampled {
    /// The token.
    pub token: u32,
    /// If asked for.
    pub logprobs: Option<PositionLogprobs>,
}

/// Chooses the tokens of one sequence. Lives as long as its request: a preemption neither resets nor repeats it.
#[derive(Clone, Debug)]
pub struct SequenceSampler {
    /// Less the logit bias, which moved into `penalties`.
    params: SamplingParams,
    penalties: Penalties,
    vocab: usize,
}

impl SequenceSampler {
    /// For a sequence that begins with `prompt`. Parameters out of range do not panic: a temperature that is not
    /// above 0 takes the most likely token, and every cut keeps at least that one.
    pub fn new(mut params: SamplingParams, prompt: &[u32], vocab: usize) -> Self {
        assert!(
            vocab > 0 && u32::try_from(vocab).is_ok(),
            "a vocabulary of {vocab} tokens"
        );
        let penalties = Penalties::new(&mut params, prompt);
        Self {
            params,
            penalties,
            vocab,
        }
    }

    /// Chooses and counts the token at `position` (its own absolute position, `LaneSpan::sample_position`) from
    /// `logits` (V of them), which are changed. `logprobs`: how many of the most likely tokens to report.
    ///
    /// A logit of NaN counts as -inf; tokens at +inf share all probability; if none is above -inf, all tokens are
    /// equally likely, and the most likely is token 0.
    pub fn next(&mut self, logits: &mut [f32], position: usize, logprobs: Option<u32>) -> Sampled {
        let best = self.prepare(logits);
        self.choose(best, logits, position, logprobs)
    }

    /// As [`Self::next`], among the tokens of `mask`, of which there is at least one.
    pub fn next_of(
        &mut self,
        mask: &TokenMask,
        logits: &mut [f32],
        position: usize,
        logprobs: Option<u32>,
    ) -> Sampled {
        allowed::exclude(logits, mask);
        let mut best = self.prepare(logits);
        if !mask.contains(best) {
            best = allowed::level(logits, mask);
        }
        self.choose(best, logits, position, logprobs)
    }

    fn choose(
        &mut self,
        best: u32,
        logits: &mut [f32],
        position: usize,
        logprobs: Option<u32>,
    ) -> Sampled {
        let token = if self.params.temperature > 0.0 {
            let uniform = philox::uniform(self.params.seed, self.params.choice, position);
            draw::draw(logits, logits[best as usize], &self.params, uniform)
        } else {
            best
        };
        self.count(token, best, logits, logprobs)
    }

    /// As [`Self::next`], but takes `token`, which is below the vocabulary's size, whatever the logits say.
    pub fn take(&mut self, token: u32, logits: &mut [f32], logprobs: Option<u32>) -> Sampled {
        let best = self.prepare(logits);
        self.count(token, best, logits, logprobs)
    }

    /// Penalises and cleans logits; returns the most likely token.
    fn prepare(&self, logits: &mut [f32]) -> u32 {
        assert_eq!(
            logits.len(),
            self.vocab,
            "one logit for each token of the vocabulary"
        );
        self.penalties.apply(logits);
        make_comparable(logits)
    }

    fn count(&mut self, token: u32, best: u32, logits: &[f32], logprobs: Option<u32>) -> Sampled {
        self.penalties.count(token);
        let greatest = logits[best as usize];
        Sampled {
            token,
            logprobs: logprobs.map(|top| logprobs::logprobs(logits, greatest, token, top)),
        }
    }
}

/// Leaves finite logits and -inf, at least one of them finite, and returns the most likely token.
fn make_comparable(logits: &mut [f32]) -> u32 {
    let (greatest, has_nan) = wide::max(logits);
    if has_nan {
        wide::exclude_nan(logits);
    }
    let best = logits.iter().position(|&logit| logit == greatest);
    if greatest.is_infinite() {
        for logit in logits.iter_mut() {
            *logit = if *logit == greatest {
                0.0
            } else {
                f32::NEG_INFINITY
            };
        }
    }
    best.expect("it is one of them") as u32
}
