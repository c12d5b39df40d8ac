//! Which experts the tokens of one sequence are sent to, as the engine asks its store for them.

use odmoe_engine::{EngineEvent, EngineObserver};
use odmoe_expert_store::{Phase, StoreEvent};
use odmoe_formats::ExpertKey;
use std::collections::BTreeSet;
use std::sync::Mutex;

/// Notes the experts of every decoded token. It is for one sequence at a time: with several, one layer of one token is
/// not told apart from that of another.
#[derive(Default)]
pub struct RoutingObserver(Mutex<Vec<ExpertKey>>);

impl EngineObserver for RoutingObserver {
    fn record(&self, event: &EngineEvent) {
        if let EngineEvent::Store(StoreEvent::Lookup {
            phase: Phase::Decode,
            key,
            ..
        }) = event
        {
            self.0.lock().expect("no panic while noting").push(*key);
        }
    }
}

impl RoutingObserver {
    /// What was decoded since the last call.
    pub fn take(&self) -> Routing {
        let keys = std::mem::take(&mut *self.0.lock().expect("no panic while noting"));
        Routing::of(&keys)
    }
}

/// The experts of tokens that follow one another, by layer.
pub struct Routing {
    /// By layer and token.
    layers: Vec<Vec<BTreeSet<u32>>>,
}

impl Routing {
    /// From lookups in their order: layer after layer of one token, then of the next.
    fn of(lookups: &[ExpertKey]) -> Self {
        let mut layers: Vec<Vec<BTreeSet<u32>>> = Vec::new();
        let mut before = None;
        for key in lookups {
            let layer = key.layer.0 as usize;
            if layers.len() <= layer {
                layers.resize_with(layer + 1, Vec::new);
            }
            if before != Some(layer) {
                layers[layer].push(BTreeSet::new());
            }
            let of_token = layers[layer].last_mut().expect("begun above");
            of_token.insert(key.index.0);
            before = Some(layer);
        }
        Self { layers }
    }

    /// Panics unless so many tokens have so many experts each in so many layers.
    #[track_caller]
    pub fn assert_shape(&self, layers: u32, tokens: usize, experts_a_token: u32) {
        assert_eq!(self.layers.len(), layers as usize);
        for tokens_of_layer in &self.layers {
            assert_eq!(tokens_of_layer.len(), tokens);
            let whole = |experts: &BTreeSet<u32>| experts.len() == experts_a_token as usize;
            assert!(tokens_of_layer.iter().all(whole));
        }
    }

    /// By layer, the share of a token's experts that the token `distance` later has too.
    pub fn recurrence(&self, distance: usize) -> Vec<f64> {
        let share = |tokens: &Vec<BTreeSet<u32>>| {
            let pairs = tokens.iter().zip(&tokens[distance..]);
            let common = pairs.map(|(token, later)| token.intersection(later).count());
            let (common, all): (Vec<usize>, usize) = (common.collect(), tokens[0].len());
            common.iter().sum::<usize>() as f64 / (common.len() * all) as f64
        };
        self.layers.iter().map(share).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lookups_are_told_apart_by_layer_and_token() {
        let token = |experts: [[u32; 2]; 2]| {
            let of_layer = |(layer, experts): (u32, [u32; 2])| {
                experts.map(|expert| ExpertKey::routed(layer, expert))
            };
            (0..).zip(experts).flat_map(of_layer)
        };
        let first = token([[0, 1], [2, 3]]);
        let lookups: Vec<ExpertKey> = first
            .chain(token([[1, 5], [3, 2]]))
            .chain(token([[1, 0], [6, 7]]))
            .collect();
        let routing = Routing::of(&lookups);
        routing.assert_shape(2, 3, 2);
        assert_eq!(routing.recurrence(1), [0.5, 0.5]);
        assert_eq!(routing.recurrence(2), [1.0, 0.0]);
    }
}
