//! From the router's choices to what is asked of the store.

use crate::model::pass::Pass;
use odmoe_backend::{Choice, ExpertRow};
use odmoe_formats::ExpertKey;
use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

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
            for out_row in token_row * top_k..(token_row + 1) * top_k {
                let row = ExpertRow { token_row: token_row as u32, out_row: out_row as u32 };
                by_expert.entry(choices[out_row].expert).or_default().push(row);
            }
        }
        let keyed = by_expert.into_iter().map(|(expert, rows)| (ExpertKey::routed(layer, expert), rows.into()));
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
        Self { keys: ranked.into_iter().map(|(expert, _)| ExpertKey::routed(layer, expert)).collect() }
    }

    /// Most wanted first.
    pub fn keys(&self) -> &[ExpertKey] {
        &self.keys
    }

    /// How many of the demanded experts it names.
    pub fn hits(&self, demand: &Demand) -> usize {
        self.keys.iter().filter(|key| demand.contains(**key)).count()
    }
}
