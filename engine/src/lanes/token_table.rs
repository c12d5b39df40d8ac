//! What tokens asked for before: predicts the first layers with experts, where a token's routing is nearly its own.
//!
//! The next-layer gate knows nothing of the first layer and little of the second (decision 18 has the figures).

use super::routing::Demand;
use crate::model::pass::Pass;
use odmoe_formats::ExpertKey;
use std::collections::{BTreeMap, HashMap};

/// Layers that are predicted this way, from the first one with experts on.
const LAYERS: usize = 2;
/// Tokens that are remembered; those that share a place push each other out.
const TOKENS: usize = 4096;
/// Experts that are remembered of a token and layer, in multiples of those that it is sent to.
const CHOICES: usize = 2;

/// The last choices of tokens. Bounded: at eight experts a token, half a megabyte.
#[derive(Default)]
pub struct TokenTable {
    layers: Vec<Layer>,
}

struct Layer {
    layer: usize,
    /// By token modulo [`TOKENS`].
    places: HashMap<u32, Remembered>,
}

/// A token's experts, those of its last use first.
struct Remembered {
    token: u32,
    experts: Vec<u32>,
}

impl TokenTable {
    /// Learns from a layer's demand, if it is one of those.
    pub fn learn(&mut self, layer: usize, demand: &Demand, pass: &Pass) {
        let known = self.layers.iter().position(|known| known.layer == layer);
        let place = match known {
            Some(place) => place,
            // Layers come in order, so those that are seen first are the first.
            None if self.layers.len() < LAYERS => {
                let places = HashMap::new();
                self.layers.push(Layer { layer, places });
                self.layers.len() - 1
            }
            None => return,
        };
        let mut by_row: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        for key in demand.keys() {
            for row in demand.rows(*key).iter() {
                by_row.entry(row.token_row).or_default().push(key.index.0);
            }
        }
        for (row, experts) in by_row {
            self.layers[place].remember(pass.ids[row as usize], experts);
        }
    }

    /// What a pass will likely ask a layer for, by how many rows want it; None where of four tokens more than one is not
    /// known.
    pub fn predict(&self, layer: usize, pass: &Pass) -> Option<Vec<ExpertKey>> {
        let known = self.layers.iter().find(|known| known.layer == layer)?;
        let mut wanted: HashMap<u32, (usize, usize)> = HashMap::new();
        let (mut all, mut unknown) = (0, 0);
        for row in pass.live_spans().flat_map(|span| span.rows.clone()) {
            all += 1;
            let Some(experts) = known.of(pass.ids[row]) else {
                unknown += 1;
                continue;
            };
            for (place, expert) in experts.iter().enumerate() {
                let (rows, places) = wanted.entry(*expert).or_default();
                *rows += 1;
                *places += place;
            }
        }
        if all == 0 || unknown * 4 > all {
            return None;
        }
        let mut ranked: Vec<_> = wanted.into_iter().collect();
        // Most rows first, then the latest uses; the expert's number makes it one order.
        ranked.sort_unstable_by_key(|&(expert, (rows, places))| {
            (std::cmp::Reverse(rows), places / rows, expert)
        });
        let key = |(expert, _)| ExpertKey::routed(layer as u32, expert);
        Some(ranked.into_iter().map(key).collect())
    }
}

impl Layer {
    fn of(&self, token: u32) -> Option<&[u32]> {
        let known = self.places.get(&(token % TOKENS as u32));
        let known = known.filter(|known| known.token == token);
        known.map(|known| known.experts.as_slice())
    }

    fn remember(&mut self, token: u32, mut experts: Vec<u32>) {
        let most = experts.len() * CHOICES;
        let older = self.of(token).unwrap_or_default();
        let older: Vec<u32> = older
            .iter()
            .filter(|expert| !experts.contains(expert))
            .copied()
            .collect();
        experts.extend(older);
        experts.truncate(most);
        let remembered = Remembered { token, experts };
        self.places.insert(token % TOKENS as u32, remembered);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::RequestId;
    use crate::scheduler::{LaneKind, LanePlan, LaneSpan, PrefixLookups};
    use odmoe_backend::Choice;

    fn pass(tokens: &[u32]) -> Pass {
        let span = LaneSpan {
            id: RequestId(1),
            first_position: 0,
            tokens: tokens.to_vec(),
            blocks: vec![1, 2].into(),
            samples: true,
        };
        let plan = LanePlan {
            kind: LaneKind::Decode,
            spans: vec![span],
            preempted: vec![],
            lookups: PrefixLookups::default(),
        };
        Pass::new(&plan, 8, |_| None)
    }

    /// A pass whose tokens are sent to two experts each.
    fn learn(table: &mut TokenTable, layer: usize, tokens: &[(u32, [u32; 2])]) {
        let ids: Vec<u32> = tokens.iter().map(|(token, _)| *token).collect();
        let pass = pass(&ids);
        let encode = |expert: &u32| [expert.to_le_bytes(), 0.5_f32.to_le_bytes()].concat();
        let bytes: Vec<u8> = tokens
            .iter()
            .flat_map(|(_, experts)| experts)
            .flat_map(encode)
            .collect();
        assert_eq!(bytes.len(), tokens.len() * 2 * Choice::BYTES);
        table.learn(layer, &Demand::new(layer as u32, &bytes, &pass, 2), &pass);
    }

    fn predicted(table: &TokenTable, layer: usize, tokens: &[u32]) -> Option<Vec<u32>> {
        let keys = table.predict(layer, &pass(tokens))?;
        assert!(keys.iter().all(|key| key.layer.0 as usize == layer));
        Some(keys.iter().map(|key| key.index.0).collect())
    }

    #[test]
    fn a_token_is_expected_to_want_what_it_wanted_last() {
        let mut table = TokenTable::default();
        assert_eq!(predicted(&table, 3, &[7]), None);
        learn(&mut table, 3, &[(7, [1, 4]), (8, [4, 5])]);
        assert_eq!(predicted(&table, 3, &[7]), Some(vec![1, 4]));
        learn(&mut table, 3, &[(7, [2, 4])]);
        assert_eq!(predicted(&table, 3, &[7]), Some(vec![2, 4, 1]));
        learn(&mut table, 3, &[(7, [0, 9])]);
        assert_eq!(
            predicted(&table, 3, &[7]),
            Some(vec![0, 9, 2, 4]),
            "the oldest is forgotten"
        );
        assert_eq!(
            predicted(&table, 3, &[8, 7]),
            Some(vec![4, 0, 5, 9, 2]),
            "4 is wanted twice"
        );
        assert_eq!(predicted(&table, 3, &[7, 6]), None, "6 is not known");
        learn(&mut table, 3, &[(7 + TOKENS as u32, [0, 1])]);
        assert_eq!(predicted(&table, 3, &[7]), None, "pushed out");
    }

    #[test]
    fn only_the_first_layers_are_learnt() {
        let mut table = TokenTable::default();
        for layer in [1, 2, 4, 1] {
            learn(&mut table, layer, &[(7, [1, 4])]);
        }
        assert!(predicted(&table, 1, &[7]).is_some() && predicted(&table, 2, &[7]).is_some());
        assert_eq!(predicted(&table, 4, &[7]), None);
    }
}
