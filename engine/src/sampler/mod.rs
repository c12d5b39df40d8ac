//! From logits to a token.

use crate::api::{PositionLogprobs, SamplingParams};

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
pub struct SequenceSampler {}

#[allow(unused_variables)]
impl SequenceSampler {
    /// For a sequence that begins with `prompt`.
    pub fn new(params: SamplingParams, prompt: &[u32], vocab: usize) -> Self {
        todo!()
    }

    /// Chooses and counts the token at `position` (its own absolute position: `LaneSpan::sample_position`) from
    /// `logits` [vocab], which are changed. `logprobs`: how many of the most likely tokens to report.
    pub fn next(&mut self, logits: &mut [f32], position: usize, logprobs: Option<u32>) -> Sampled {
        todo!()
    }
}
