//! Figures over repeats: median, least and most.

use super::Round;
use super::count::Lookups;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// One quantity, measured several times.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Figure(Vec<f64>);

impl Figure {
    /// Adds a value, if there is one.
    pub fn add(&mut self, value: Option<f64>) {
        self.0.extend(value.filter(|value| value.is_finite()));
    }

    /// Median (of an even number the mean of the middle two), least, most; None where nothing was measured.
    pub fn spread(&self) -> Option<(f64, f64, f64)> {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let (least, most) = (*sorted.first()?, *sorted.last()?);
        let middle = sorted.len() / 2;
        let median = if sorted.len() % 2 == 1 {
            sorted[middle]
        } else {
            f64::midpoint(sorted[middle - 1], sorted[middle])
        };
        Some((median, least, most))
    }

    /// `{"median", "min", "max"}`, nulls where nothing was measured.
    pub fn json(&self) -> Value {
        match self.spread() {
            Some((median, least, most)) => json!({"median": median, "min": least, "max": most}),
            None => json!({"median": null, "min": null, "max": null}),
        }
    }

    /// For people.
    pub fn human(&self, unit: &str) -> String {
        match self.spread() {
            Some((median, least, most)) => {
                let digits = if most >= 1000.0 { 0 } else { 3 };
                format!("{median:.digits$} ({least:.digits$} to {most:.digits$}) {unit}")
            }
            None => format!("none {unit}"),
        }
    }
}

/// Everything that is measured in each round.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Measured {
    /// Prompt tokens of all streams over the time until the last stream's first token.
    pub prefill_tokens_per_s: Figure,
    /// Tokens of all streams after that moment, over the time until the last one.
    pub decode_tokens_per_s: Figure,
    /// From submission to a stream's first token, the mean over streams.
    pub ttft_s: Figure,
    /// Share of lookups that found the expert in memory.
    pub hit_rate_prefill: Figure,
    /// The same in decode.
    pub hit_rate_decode: Figure,
    /// Bytes that storage had to give for prefill: of lookups that no earlier use had left in memory.
    pub missed_bytes_prefill: Figure,
    /// The same for decode.
    pub missed_bytes_decode: Figure,
    /// Bytes read from storage, those that nobody used with them.
    pub bytes_read: Figure,
    /// Of them, read ahead of demand and then used.
    pub prefetch_used_bytes: Figure,
    /// Read ahead of demand, and gone without a use.
    pub prefetch_wasted_bytes: Figure,
    /// Of decode's lookups that only a prefetch could have made hits, the share that was predicted.
    pub recall_on_misses: Figure,
    /// Waiting for experts with nothing else to do.
    pub stall_s: Figure,
}

impl Measured {
    /// Adds a round.
    pub fn add(&mut self, round: &Round, prompt_tokens: u32) {
        let firsts: Vec<Instant> = round
            .tokens
            .iter()
            .filter_map(|times| times.first().copied())
            .collect();
        let until = |at: Instant| at.saturating_duration_since(round.start).as_secs_f64();
        let streams = firsts.len() as f64;
        self.ttft_s.add(
            (streams > 0.0).then(|| firsts.iter().map(|at| until(*at)).sum::<f64>() / streams),
        );
        if let Some(all_began) = firsts.iter().max() {
            self.prefill_tokens_per_s
                .add(Some(f64::from(prompt_tokens) * streams / until(*all_began)));
            self.decode_tokens_per_s
                .add(decode_rate(&round.tokens, *all_began));
        }
        self.hit_rate_prefill.add(round.counts.prefill.rate());
        self.hit_rate_decode.add(round.counts.decode.rate());
        let missed = |lookups: Lookups| Some(lookups.missed_bytes as f64);
        self.missed_bytes_prefill.add(missed(round.counts.prefill));
        self.missed_bytes_decode.add(missed(round.counts.decode));
        self.bytes_read.add(Some(round.counts.bytes_read as f64));
        let counts = &round.counts;
        self.prefetch_used_bytes
            .add(Some(counts.prefetch_used_bytes as f64));
        self.prefetch_wasted_bytes
            .add(Some(counts.prefetch_wasted_bytes as f64));
        self.recall_on_misses.add(counts.foreseen.rate());
        self.stall_s.add(Some(round.counts.stall_s));
    }
}

fn decode_rate(tokens: &[Vec<Instant>], all_began: Instant) -> Option<f64> {
    let later: Vec<Duration> = tokens
        .iter()
        .flatten()
        .filter(|at| **at > all_began)
        .map(|at| at.saturating_duration_since(all_began))
        .collect();
    let last = later.iter().max()?;
    Some(later.len() as f64 / last.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::super::Counts;
    use super::*;

    #[test]
    fn the_median_of_an_even_number_is_between_the_middle_two() {
        let figure = Figure(vec![4.0, 1.0, 3.0, 10.0]);
        assert_eq!(figure.spread(), Some((3.5, 1.0, 10.0)));
        assert_eq!(Figure(vec![7.0]).spread(), Some((7.0, 7.0, 7.0)));
        assert_eq!(
            Figure::default().json(),
            json!({"median": null, "min": null, "max": null})
        );
    }

    #[test]
    fn decoding_counts_from_when_every_stream_has_begun() {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let round = Round {
            start,
            tokens: vec![
                vec![at(100), at(200), at(300), at(400)],
                vec![at(200), at(300), at(400)],
            ],
            counts: Counts::default(),
        };
        let mut measured = Measured::default();
        measured.add(&round, 10);
        let close = |figure: &Figure, wanted: f64| {
            let (median, ..) = figure.spread().unwrap();
            assert!((median - wanted).abs() < 1e-9, "{median} is not {wanted}");
        };
        close(&measured.prefill_tokens_per_s, 100.0);
        close(&measured.decode_tokens_per_s, 20.0);
        close(&measured.ttft_s, 0.15);
        assert_eq!(measured.hit_rate_decode.spread(), None);
    }
}
