//! How long lanes waited for experts while nothing else could run.

use crate::api::{LayerStall, RequestId};
use odmoe_formats::LayerIndex;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Who waits for experts, and where.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Waiting {
    /// Sequences.
    pub sequences: Vec<RequestId>,
    /// The layer of each lane that waits.
    pub layers: Vec<LayerIndex>,
}

/// A stall begins with a sleep while a lane waits for experts and ends when any lane moves.
#[derive(Default)]
pub struct StallClock {
    stall: Option<(Instant, Waiting)>,
    layers: BTreeMap<LayerIndex, (Duration, u64)>,
}

impl StallClock {
    /// Nothing can run, and these wait for experts. Goes on if it had begun.
    pub fn begin(&mut self, now: Instant, waiting: Waiting) {
        self.stall.get_or_insert((now, waiting));
    }

    /// Something ran: how long the stall was, and who waited.
    pub fn end(&mut self, now: Instant) -> Option<(Duration, Vec<RequestId>)> {
        let (since, waiting) = self.stall.take()?;
        let stall = now.saturating_duration_since(since);
        let lanes = waiting.layers.len().max(1) as u32;
        for layer in waiting.layers {
            let (sum, count) = self.layers.entry(layer).or_default();
            *sum += stall / lanes;
            *count += 1;
        }
        Some((stall, waiting.sequences))
    }

    /// Ended stalls by layer. Where lanes waited in two layers, each has half of the time.
    pub fn by_layer(&self) -> Vec<LayerStall> {
        let of = |(&layer, &(stall, count)): (&LayerIndex, &(Duration, u64))| LayerStall {
            layer,
            stall,
            count,
        };
        self.layers.iter().map(of).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting(id: u64, layers: &[u32]) -> Waiting {
        Waiting {
            sequences: vec![RequestId(id)],
            layers: layers.iter().copied().map(LayerIndex).collect(),
        }
    }

    #[test]
    fn a_stall_lasts_from_its_first_sleep_to_the_next_move() {
        let begin = Instant::now();
        let at = |ms| begin + Duration::from_millis(ms);
        let mut clock = StallClock::default();
        assert_eq!(clock.end(at(0)), None);
        clock.begin(at(10), waiting(1, &[3]));
        clock.begin(at(30), waiting(2, &[4]));
        assert_eq!(
            clock.end(at(60)),
            Some((Duration::from_millis(50), vec![RequestId(1)]))
        );
        assert_eq!(clock.end(at(70)), None);
    }

    #[test]
    fn layers_share_what_lanes_wait_for() {
        let begin = Instant::now();
        let mut clock = StallClock::default();
        for (layers, ms) in [(vec![3, 7], 10), (vec![3], 20), (vec![7, 7], 40)] {
            clock.begin(begin, waiting(1, &layers));
            clock.end(begin + Duration::from_millis(ms));
        }
        let by_layer: Vec<_> = clock
            .by_layer()
            .iter()
            .map(|l| (l.layer.0, l.stall.as_millis()))
            .collect();
        assert_eq!(by_layer, [(3, 25), (7, 45)]);
    }
}
