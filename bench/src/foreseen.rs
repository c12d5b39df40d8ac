//! Recorded predictions of the fixture's model as hints of a recording, layer by layer.

use crate::judge::{Foresight, foresight};
use crate::policies::Policy;
use crate::recording::{Hint, Recording};
use crate::trace::Ranking;
use odmoe_expert_store::Phase;
use odmoe_formats::ExpertKey;
use std::collections::HashMap;

/// What predicts a layer's experts.
pub enum Predictor<'a> {
    /// A gate: entry `l` of a token's predictions is for layer `l + 1`.
    Gate(&'a Ranking),
    /// What the same token wanted at its last two uses, by token ids.
    Token(&'a [u16]),
}

/// What a predictor's first `most` knew of the misses of each layer, under a policy that follows no hint.
pub fn foresight_by_layer(
    chosen: &Ranking,
    predictor: &Predictor<'_>,
    policy: Policy,
    slots: usize,
    most: usize,
) -> Vec<Foresight> {
    let shape = chosen.shape();
    let of_layer = |layer| {
        let recording = Recording {
            experts: vec![shape.experts as u32; shape.layers],
            steps: chosen.decode_steps(),
            hints: hints(chosen, predictor, layer),
        };
        foresight(&recording, policy, slots, most)
    };
    (0..shape.layers).map(of_layer).collect()
}

fn hints(chosen: &Ranking, predictor: &Predictor<'_>, layer: usize) -> Vec<Hint> {
    let mut uses: HashMap<u16, Vec<u8>> = HashMap::new();
    let mut hints = Vec::new();
    for token in 0..chosen.tokens() {
        let named = match predictor {
            Predictor::Gate(predicted) => layer
                .checked_sub(1)
                .map_or(&[][..], |before| predicted.ranked(token, before))
                .to_vec(),
            Predictor::Token(ids) => {
                let known = uses.entry(ids[token]).or_default();
                let named = known.clone();
                let wanted = chosen.active(token, layer);
                known.retain(|expert| !wanted.contains(expert));
                known.splice(0..0, wanted.iter().copied());
                known.truncate(2 * wanted.len());
                named
            }
        };
        let key = |expert| ExpertKey::routed(layer as u32, u32::from(expert));
        let keys: Vec<ExpertKey> = named.into_iter().map(key).collect();
        if !keys.is_empty() {
            hints.push(Hint {
                at: token * chosen.shape().layers + layer,
                phase: Phase::Decode,
                keys,
            });
        }
    }
    hints
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::TraceShape;

    #[test]
    fn layers_are_judged_apart() {
        let shape = TraceShape {
            layers: 2,
            ranked: 1,
            active: 1,
            experts: 4,
        };
        // Three tokens, two layers; two slots hold nothing from token to token.
        let chosen = Ranking::from_bytes(vec![0, 1, 2, 3, 0, 2], shape).unwrap();
        let shape = TraceShape { layers: 1, ..shape };
        let gate = Ranking::from_bytes(vec![1, 1, 2], shape).unwrap();
        let lru = Policy::ALL[0];
        let of = |predictor| foresight_by_layer(&chosen, &predictor, lru, 2, 8);
        let counts = |found: &[Foresight]| -> Vec<(u64, u64)> {
            found.iter().map(|f| (f.misses, f.foreseen)).collect()
        };
        assert_eq!(counts(&of(Predictor::Gate(&gate))), [(0, 0), (3, 2)]);
        // The third token is the first again: it wanted 0, and wants it.
        let tokens = of(Predictor::Token(&[9, 8, 9]));
        assert_eq!(counts(&tokens), [(1, 1), (1, 0)]);
    }
}
