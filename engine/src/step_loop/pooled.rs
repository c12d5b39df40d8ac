//! One vector out of the states of a text's tokens, as they come chunk by chunk.

use crate::api::Pooling;

/// A sum of states [H]. It is taken in ascending position, so how the text was cut into chunks changes no bit.
#[derive(Debug)]
pub struct Pooled {
    sum: Vec<f64>,
    tokens: usize,
    pooling: Pooling,
}

impl Pooled {
    /// Of nothing yet.
    pub fn new(pooling: Pooling) -> Self {
        Self {
            sum: Vec::new(),
            tokens: 0,
            pooling,
        }
    }

    /// Which states count.
    pub fn pooling(&self) -> Pooling {
        self.pooling
    }

    /// Takes in the states [T, H] of the tokens from `first_position` on, little-endian F32. Those of position 0 begin
    /// anew: the text was preempted and is computed again. A mean's text is always computed from there on.
    pub fn add(&mut self, first_position: usize, states: &[u8], hidden: usize) {
        if first_position == 0 {
            self.sum.clear();
            self.tokens = 0;
        }
        self.sum.resize(hidden, 0.0);
        for state in states.chunks_exact(hidden * size_of::<f32>()) {
            let values = state.as_chunks().0.iter().copied().map(f32::from_le_bytes);
            for (sum, value) in self.sum.iter_mut().zip(values) {
                *sum += f64::from(value);
            }
            self.tokens += 1;
        }
    }

    /// The vector [H].
    pub fn finish(self) -> Vec<f32> {
        let tokens = self.tokens as f64;
        self.sum.iter().map(|sum| (sum / tokens) as f32).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(states: &[f32]) -> Vec<u8> {
        states
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect()
    }

    #[test]
    fn a_text_that_is_computed_again_counts_once() {
        let mut pooled = Pooled::new(Pooling::Mean);
        pooled.add(0, &bytes(&[9.0, 9.0, 9.0, 9.0]), 2);
        pooled.add(0, &bytes(&[1.0, 2.0]), 2);
        pooled.add(1, &bytes(&[3.0, 4.0, 5.0, 9.0]), 2);
        assert_eq!(pooled.finish(), [3.0, 5.0]);
    }
}
