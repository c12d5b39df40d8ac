//! What changes logits before they become probabilities.

use crate::api::SamplingParams;
use std::collections::BTreeMap;

/// Logit bias and penalties, with what they need to know of prompt and answer.
#[derive(Clone, Debug)]
pub(super) struct Penalties {
    bias: Vec<(u32, f32)>,
    repetition: f32,
    presence: f32,
    frequency: f32,
    /// How often the answer holds a token; 0 for one of the prompt alone. Kept only where a penalty looks at it.
    seen: BTreeMap<u32, u32>,
}

impl Penalties {
    pub fn new(params: &mut SamplingParams, prompt: &[u32]) -> Self {
        let repetition = params.repetition_penalty;
        let relevant = if repetition == 1.0 { &[] } else { prompt };
        Self {
            bias: std::mem::take(&mut params.logit_bias),
            repetition,
            presence: params.presence_penalty,
            frequency: params.frequency_penalty,
            seen: relevant.iter().map(|&token| (token, 0)).collect(),
        }
    }

    /// Counts a token of the answer.
    pub fn count(&mut self, token: u32) {
        if self.repetition != 1.0 || self.presence != 0.0 || self.frequency != 0.0 {
            *self.seen.entry(token).or_default() += 1;
        }
    }

    /// Bias, then repetition, then presence and frequency. Tokens beyond the vocabulary are ignored.
    ///
    /// Repetition as published with CTRL (Keskar et al. 2019, section 4.1) and changed by everybody since: negative
    /// logits are multiplied, or they would be rewarded. Presence and frequency as in OpenAI's API reference.
    pub fn apply(&self, logits: &mut [f32]) {
        for &(token, bias) in &self.bias {
            if let Some(logit) = logits.get_mut(token as usize) {
                *logit += bias;
            }
        }
        for (&token, &count) in &self.seen {
            let Some(logit) = logits.get_mut(token as usize) else {
                continue;
            };
            if *logit < 0.0 {
                *logit *= self.repetition;
            } else {
                *logit /= self.repetition;
            }
            if count > 0 {
                *logit -= self.presence + self.frequency * count as f32;
            }
        }
    }
}
