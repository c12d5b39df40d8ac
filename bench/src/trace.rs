//! Recorded routing: which experts each token's router ranked highest, layer by layer.

use crate::steps::Steps;
use odmoe_expert_store::Phase;
use odmoe_formats::ExpertKey;

/// The shape that a trace file does not carry itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceShape {
    /// Sparse layers.
    pub layers: usize,
    /// Experts recorded for a token and layer, best first.
    pub ranked: usize,
    /// Of them, how many the token is sent to (top-k).
    pub active: usize,
    /// Experts a layer.
    pub experts: usize,
}

/// Bytes that are no trace of the given shape.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TraceError {
    /// The length is no whole number of tokens.
    #[error(
        "{bytes} bytes are no whole number of tokens of {per_token} bytes; check --layers and --ranked"
    )]
    Length {
        /// Bytes given.
        bytes: usize,
        /// Bytes of one token.
        per_token: usize,
    },
    /// An expert that the model has not.
    #[error("expert {expert} at byte {at}, but a layer has {experts}; check --experts")]
    Expert {
        /// The byte's place.
        at: usize,
        /// Its value.
        expert: u8,
        /// Experts a layer.
        experts: usize,
    },
    /// More active experts than ranked ones, or a zero.
    #[error("{0:?} is no shape: each number is at least one, and active is at most ranked")]
    Shape(TraceShape),
}

/// Expert ids `[token][layer][rank]`, best first.
#[derive(Clone, Debug)]
pub struct Ranking {
    shape: TraceShape,
    ids: Vec<u8>,
}

impl Ranking {
    /// From a file's bytes, one byte an id, in C order.
    pub fn from_bytes(ids: Vec<u8>, shape: TraceShape) -> Result<Self, TraceError> {
        let counts = [shape.layers, shape.ranked, shape.active, shape.experts];
        if counts.contains(&0) || shape.active > shape.ranked {
            return Err(TraceError::Shape(shape));
        }
        let per_token = shape.layers * shape.ranked;
        if ids.is_empty() || !ids.len().is_multiple_of(per_token) {
            return Err(TraceError::Length {
                bytes: ids.len(),
                per_token,
            });
        }
        if let Some(at) = ids.iter().position(|&id| usize::from(id) >= shape.experts) {
            return Err(TraceError::Expert {
                at,
                expert: ids[at],
                experts: shape.experts,
            });
        }
        Ok(Self { shape, ids })
    }

    /// The shape.
    pub fn shape(&self) -> TraceShape {
        self.shape
    }

    /// Tokens recorded.
    pub fn tokens(&self) -> usize {
        self.ids.len() / (self.shape.layers * self.shape.ranked)
    }

    /// All ranked experts of a token at a layer, best first.
    pub fn ranked(&self, token: usize, layer: usize) -> &[u8] {
        let start = (token * self.shape.layers + layer) * self.shape.ranked;
        &self.ids[start..start + self.shape.ranked]
    }

    /// The experts that the token was sent to.
    pub fn active(&self, token: usize, layer: usize) -> &[u8] {
        &self.ranked(token, layer)[..self.shape.active]
    }

    /// What decode would ask for: token by token, layer by layer.
    pub fn decode_steps(&self) -> Steps {
        let mut steps = Steps::default();
        for token in 0..self.tokens() {
            for layer in 0..self.shape.layers {
                let mut ids = self.active(token, layer).to_vec();
                ids.sort_unstable();
                let key = |id: u8| ExpertKey::routed(layer as u32, u32::from(id));
                steps.push(Phase::Decode, ids.into_iter().map(key));
            }
        }
        steps
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: TraceShape = TraceShape {
        layers: 2,
        ranked: 3,
        active: 2,
        experts: 8,
    };

    #[test]
    fn decode_goes_token_by_token_and_layer_by_layer() {
        let trace = Ranking::from_bytes(vec![5, 1, 0, 2, 3, 4, 7, 6, 0, 1, 0, 2], SHAPE).unwrap();
        assert_eq!(trace.tokens(), 2);
        assert_eq!(trace.ranked(1, 0), [7, 6, 0]);
        let want: [&[(u32, u32)]; 4] = [
            &[(0, 1), (0, 5)],
            &[(1, 2), (1, 3)],
            &[(0, 6), (0, 7)],
            &[(1, 0), (1, 1)],
        ];
        let steps = trace.decode_steps();
        assert_eq!(steps.iter().len(), want.len());
        for (step, want) in steps.iter().zip(want) {
            let keys = want.iter().map(|&(layer, id)| ExpertKey::routed(layer, id));
            assert!(step.phase == Phase::Decode && step.keys.iter().copied().eq(keys));
        }
    }

    #[test]
    fn wrong_bytes_are_named() {
        let length = Ranking::from_bytes(vec![0; 7], SHAPE).unwrap_err();
        assert_eq!(
            length,
            TraceError::Length {
                bytes: 7,
                per_token: 6
            }
        );
        let expert = Ranking::from_bytes(vec![0, 1, 2, 3, 8, 0], SHAPE).unwrap_err();
        assert_eq!(
            expert,
            TraceError::Expert {
                at: 4,
                expert: 8,
                experts: 8
            }
        );
        let shape = TraceShape { active: 4, ..SHAPE };
        assert_eq!(
            Ranking::from_bytes(vec![0; 6], shape).unwrap_err(),
            TraceError::Shape(shape)
        );
    }
}
