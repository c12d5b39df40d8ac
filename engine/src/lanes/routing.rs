//! From the router's choices to what is asked of the store.

use crate::model::pass::Pass;
use crate::model::queue::Queue;
use odmoe_backend::{BackendError, Choice, ExpertRow, ReadBack};
use odmoe_formats::ExpertKey;
use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

/// Choices and predictions on their way to the host.
pub struct RoutingReadBack {
    /// Of this layer's router.
    pub choices: ReadBack,
    /// Of the next layer's router, where it has one; enqueued after the choices.
    pub predicted: Option<ReadBack>,
}

/// What a [`RoutingReadBack`] brings.
pub struct RoutingBytes {
    /// [T, K] choices.
    pub choices: Vec<u8>,
    /// [T, P] choices of the next layer's router.
    pub predicted: Option<Vec<u8>>,
}

impl RoutingReadBack {
    /// The bytes of both, once they are there. Copies are made in stream order, so that the wait is for the last one
    /// alone.
    pub fn take(&mut self, queue: &Queue) -> Result<Option<RoutingBytes>, BackendError> {
        let mut predicted = None;
        if let Some(ticket) = &mut self.predicted {
            predicted = queue.take(ticket)?;
            if predicted.is_none() {
                return Ok(None);
            }
        }
        let choices = queue.take(&mut self.choices)?;
        assert!(
            choices.is_some() || predicted.is_none(),
            "choices are copied before predictions"
        );
        Ok(choices.map(|choices| RoutingBytes { choices, predicted }))
    }
}

/// The distinct experts that the live rows of a pass were routed to, each with its rows.
pub struct Demand {
    keys: Vec<ExpertKey>,
    rows: HashMap<ExpertKey, Arc<[ExpertRow]>>,
}

impl Demand {
    /// From the choices [T, K] of a layer, ascending by expert within a row: the output row is the choice's place.
    pub fn new(layer: u32, choices: &[u8], pass: &Pass, top_k: usize) -> Self {
        let choices: Vec<Choice> = Choice::decode(choices).collect();
        let mut by_expert: BTreeMap<u32, Vec<ExpertRow>> = BTreeMap::new();
        for token_row in pass.live_spans().flat_map(|span| span.rows.clone()) {
            let first = token_row * top_k;
            for (place, choice) in choices[first..first + top_k].iter().enumerate() {
                let row = ExpertRow {
                    token_row: token_row as u32,
                    out_row: (first + place) as u32,
                };
                by_expert.entry(choice.expert).or_default().push(row);
            }
        }
        let keyed = by_expert
            .into_iter()
            .map(|(expert, rows)| (ExpertKey::routed(layer, expert), rows.into()));
        let (keys, rows) = keyed.map(|(key, rows)| (key, (key, rows))).unzip();
        Self { keys, rows }
    }

    /// Distinct, ascending.
    pub fn keys(&self) -> &[ExpertKey] {
        &self.keys
    }

    /// The rows of one of the keys.
    pub fn rows(&self, key: ExpertKey) -> Arc<[ExpertRow]> {
        self.rows[&key].clone()
    }

    /// Whether a key is among them.
    pub fn contains(&self, key: ExpertKey) -> bool {
        self.rows.contains_key(&key)
    }
}

/// Choices for each expert of a layer from which on all of them are foreseen: were routing even, 1 in e^4 would be left
/// out.
const CHOICES_FOR_ALL: usize = 4;

/// The experts that a layer ahead will likely want, the most wanted first.
pub struct Prediction {
    keys: Vec<ExpertKey>,
}

impl Prediction {
    /// From the predicted choices [T, P] of a layer: by how many rows want an expert, then by the sum of its scores.
    pub fn new(layer: u32, predicted: &[u8], pass: &Pass, predict_top: usize) -> Self {
        let choices: Vec<Choice> = Choice::decode(predicted).collect();
        let mut wanted: BTreeMap<u32, (usize, f32)> = BTreeMap::new();
        for row in pass.live_spans().flat_map(|span| span.rows.clone()) {
            for choice in &choices[row * predict_top..(row + 1) * predict_top] {
                let (rows, score) = wanted.entry(choice.expert).or_default();
                *rows += 1;
                *score += choice.weight;
            }
        }
        let mut ranked: Vec<_> = wanted.into_iter().collect();
        ranked.sort_by(|(_, a), (_, b)| Reverse(a.0).cmp(&Reverse(b.0)).then(b.1.total_cmp(&a.1)));
        Self {
            keys: ranked
                .into_iter()
                .map(|(expert, _)| ExpertKey::routed(layer, expert))
                .collect(),
        }
    }

    /// Every expert of a layer, where a pass makes so many choices that hardly one will be left out.
    pub fn all(layer: u32, experts: usize, choices: usize) -> Option<Self> {
        let keys = (0..experts as u32).map(|expert| ExpertKey::routed(layer, expert));
        (choices >= CHOICES_FOR_ALL * experts).then(|| Self::of(keys.collect()))
    }

    /// Those of another after its own.
    pub fn and_then(mut self, rest: &Self) -> Self {
        let named: HashSet<ExpertKey> = self.keys.iter().copied().collect();
        let rest = rest.keys.iter().filter(|key| !named.contains(key));
        self.keys.extend(rest);
        self
    }

    /// Of experts in that order.
    pub fn of(keys: Vec<ExpertKey>) -> Self {
        Self { keys }
    }

    /// Most wanted first.
    pub fn keys(&self) -> &[ExpertKey] {
        &self.keys
    }

    /// How many of the demanded experts it names.
    pub fn hits(&self, demand: &Demand) -> usize {
        self.keys
            .iter()
            .filter(|key| demand.contains(**key))
            .count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::RequestId;
    use crate::scheduler::{LaneKind, LanePlan, LaneSpan};

    /// Two sequences: rows 0 and 1, and row 2.
    fn pass() -> Pass {
        let span = |id, tokens: &[u32], samples| LaneSpan {
            id: RequestId(id),
            first_position: 10,
            tokens: tokens.to_vec(),
            blocks: vec![4, 5].into(),
            samples,
        };
        let spans = vec![span(1, &[7, 8], false), span(2, &[9], true)];
        let plan = LanePlan {
            kind: LaneKind::Prefill,
            spans,
            preempted: vec![],
            lookups: Default::default(),
        };
        Pass::new(&plan, 8, |_| None)
    }

    fn encode(choices: &[(u32, f32)]) -> Vec<u8> {
        let bytes = |&(expert, weight): &(u32, f32)| {
            [expert.to_le_bytes(), f32::to_le_bytes(weight)].concat()
        };
        choices.iter().flat_map(bytes).collect()
    }

    fn experts(keys: &[ExpertKey]) -> Vec<u32> {
        keys.iter().map(|key| key.index.0).collect()
    }

    fn out_rows(demand: &Demand, expert: u32) -> Vec<(u32, u32)> {
        let rows = demand.rows(ExpertKey::routed(3, expert));
        rows.iter()
            .map(|row| (row.token_row, row.out_row))
            .collect()
    }

    #[test]
    fn each_expert_is_wanted_once_with_all_its_rows() {
        let choices = [(1, 0.5), (6, 0.5), (0, 0.5), (1, 0.5), (1, 0.5), (9, 0.5)];
        let mut pass = pass();
        let demand = Demand::new(3, &encode(&choices), &pass, 2);
        assert_eq!(experts(demand.keys()), [0, 1, 6, 9]);
        assert!(demand.keys().iter().all(|key| key.layer.0 == 3));
        assert_eq!(out_rows(&demand, 1), [(0, 0), (1, 3), (2, 4)]);
        assert_eq!(out_rows(&demand, 9), [(2, 5)]);

        assert!(pass.end(RequestId(1)) && !pass.end(RequestId(1)));
        let demand = Demand::new(3, &encode(&choices), &pass, 2);
        assert_eq!(
            experts(demand.keys()),
            [1, 9],
            "ended sequences want nothing"
        );
        assert_eq!(out_rows(&demand, 1), [(2, 4)]);
    }

    #[test]
    fn a_long_prompt_is_foreseen_to_ask_for_everything() {
        let all = |choices| Prediction::all(3, 8, choices);
        assert!(all(31).is_none());
        let keys = all(32).expect("four choices for each expert");
        assert_eq!(experts(keys.keys()), Vec::from_iter(0..8));
        assert!(keys.keys().iter().all(|key| key.layer.0 == 3));

        let ranked = [6, 2].map(|expert| ExpertKey::routed(3, expert));
        let ranked = Prediction::of(ranked.to_vec()).and_then(&keys);
        assert_eq!(experts(ranked.keys()), [6, 2, 0, 1, 3, 4, 5, 7]);
    }

    #[test]
    fn predictions_are_ranked_by_rows_and_then_by_score() {
        let predicted = [(5, 0.6), (2, 0.4), (2, 0.3), (8, 0.2), (7, 0.9), (8, 0.3)];
        let mut pass = pass();
        let prediction = Prediction::new(3, &encode(&predicted), &pass, 2);
        assert_eq!(experts(prediction.keys()), [2, 8, 7, 5]);
        let demand = Demand::new(3, &encode(&[(2, 1.0), (3, 1.0), (7, 1.0)]), &pass, 1);
        assert_eq!(prediction.hits(&demand), 2);

        pass.end(RequestId(2));
        let prediction = Prediction::new(3, &encode(&predicted), &pass, 2);
        assert_eq!(
            experts(prediction.keys()),
            [2, 5, 8],
            "ended sequences predict nothing"
        );
    }
}
