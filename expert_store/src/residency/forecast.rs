//! Whether reading ahead pays: what came of hints, and what can be read before the demand comes.
//!
//! Hints are judged whether or not they are followed, so that learning what they are worth costs no read.

use super::command::Moment;
use std::ops::Range;
use std::time::Duration;

/// What a hint names first comes true most often: each eighth of it is judged apart.
const PARTS: usize = 8;
/// Until it is known better.
const FIRST_CHANCE: f64 = 0.5;
/// The weight of what was seen last.
const LEARNING: f64 = 1.0 / 32.0;
/// What a read for nothing costs where it delays nobody, as a share of the read's time: it takes memory bandwidth and
/// a processor for its verification, and something left memory for it.
const IDLE_WASTE: f64 = 0.25;

/// Whose hints are alike: in what they come to, and in how long it takes until then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pace {
    /// Tokens of answers.
    Decode,
    /// A prompt.
    Prefill,
    /// A prompt so long that it wants whole layers.
    Sweep,
}

/// Of each pace, what its hints are worth; and how long reads take.
#[derive(Debug, Default)]
pub(super) struct Forecasts {
    of: [Forecast; 3],
    /// What one read takes of the disk's time, in seconds.
    read: Option<f64>,
    /// When the disk last ended a read, or began one after it had none.
    busy_since: Moment,
}

#[derive(Debug)]
struct Forecast {
    /// That an object which was absent at the hint is wanted.
    chances: [f64; PARTS],
    /// From the moment when no demand had a read under way to the next demand, in seconds.
    window: Option<f64>,
}

impl Default for Forecast {
    fn default() -> Self {
        Self {
            chances: [FIRST_CHANCE; PARTS],
            window: None,
        }
    }
}

/// A place in a hint.
#[derive(Clone, Copy, Debug)]
pub(super) enum Place {
    /// Among those of the layer whose turn is next, most likely first.
    Next { at: usize, of: usize },
    /// Of a layer behind that one, in no order; asked for after so many windows.
    Beyond { turns: u32 },
}

impl Place {
    /// The parts of a hint that speak for it.
    fn parts(self) -> Range<usize> {
        match self {
            Self::Next { at, of } => at * PARTS / of..at * PARTS / of + 1,
            Self::Beyond { .. } => 0..PARTS,
        }
    }

    /// Windows until it is asked for.
    fn turns(self) -> f64 {
        match self {
            Self::Next { .. } => 1.0,
            Self::Beyond { turns } => f64::from(turns),
        }
    }
}

impl Forecasts {
    /// The disk began a read and had none before.
    pub(super) fn begins(&mut self, at: Moment) {
        self.busy_since = self.busy_since.max(at);
    }

    /// A read ended. Of several at once each has the time since the one before it, so that their mean is the disk's.
    pub(super) fn has_read(&mut self, at: Moment) {
        let took = at.0.saturating_sub(self.busy_since.0);
        self.busy_since = self.busy_since.max(at);
        learn(&mut self.read, took.as_secs_f64());
    }

    /// The demand that a hint foresaw has come; reads ahead had so long.
    pub(super) fn demanded(&mut self, pace: Pace, window: Duration) {
        learn(&mut self.of[pace as usize].window, window.as_secs_f64());
    }

    /// Whether an object that was absent at the hint is wanted.
    pub(super) fn judged(&mut self, pace: Pace, place: Place, wanted: bool) {
        for chance in &mut self.of[pace as usize].chances[place.parts()] {
            *chance += (f64::from(u8::from(wanted)) - *chance) * LEARNING;
        }
    }

    /// Whether a read ahead is expected to save more than it costs, `elapsed` into the window and with so many reads
    /// before it. If right it saves what is read before the demand comes; if wrong the rest delays the demand.
    pub(super) fn pays(&self, pace: Pace, place: Place, elapsed: Duration, ahead: usize) -> bool {
        let forecast = &self.of[pace as usize];
        let chances = &forecast.chances[place.parts()];
        let chance = chances.iter().sum::<f64>() / chances.len() as f64;
        let in_time = match (self.read, forecast.window) {
            (Some(read), Some(window)) if read > 0.0 => {
                let left = window * place.turns() - elapsed.as_secs_f64();
                (left / read - ahead as f64).clamp(0.0, 1.0)
            }
            _ => 1.0,
        };
        chance * in_time > (1.0 - chance) * (1.0 - in_time + IDLE_WASTE)
    }
}

fn learn(known: &mut Option<f64>, seen: f64) {
    match known {
        Some(known) => *known += (seen - *known) * LEARNING,
        None => *known = Some(seen),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Place = Place::Next { at: 0, of: 16 };
    const LAST: Place = Place::Next { at: 15, of: 16 };
    const BEYOND: Place = Place::Beyond { turns: 2 };

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn reads_ahead_stop_where_the_window_ends() {
        let mut forecasts = Forecasts::default();
        let pays = |f: &Forecasts, elapsed, ahead| f.pays(Pace::Decode, FIRST, elapsed, ahead);
        assert!(pays(&forecasts, ms(0), 100), "nothing is known yet");
        forecasts.begins(Moment(ms(10)));
        forecasts.has_read(Moment(ms(12)));
        forecasts.demanded(Pace::Decode, ms(5));
        assert!(pays(&forecasts, ms(0), 0) && pays(&forecasts, ms(0), 1));
        assert!(!pays(&forecasts, ms(0), 2), "2 ms each, of which 1 is left");
        assert!(!pays(&forecasts, ms(4), 0));
        (0..200).for_each(|_| forecasts.judged(Pace::Decode, FIRST, true));
        assert!(pays(&forecasts, ms(0), 2), "what is sure may come late");
        assert!(!pays(&forecasts, ms(0), 3));
        let beyond = |f: &Forecasts, ahead| f.pays(Pace::Decode, BEYOND, ms(0), ahead);
        (0..200).for_each(|_| forecasts.judged(Pace::Decode, BEYOND, true));
        assert!(beyond(&forecasts, 4), "it has two windows");
        assert!(!beyond(&forecasts, 5));
    }

    #[test]
    fn parts_of_a_hint_and_paces_are_judged_apart() {
        let mut forecasts = Forecasts::default();
        let pays = |f: &Forecasts, pace, place| f.pays(pace, place, ms(0), 0);
        for round in 0..200 {
            forecasts.judged(Pace::Decode, FIRST, round % 2 == 0);
            forecasts.judged(Pace::Decode, LAST, round % 20 == 0);
        }
        assert!(pays(&forecasts, Pace::Decode, FIRST));
        assert!(!pays(&forecasts, Pace::Decode, LAST), "one in twenty");
        assert!(pays(&forecasts, Pace::Prefill, LAST));
        (0..200).for_each(|round| forecasts.judged(Pace::Decode, LAST, round % 2 == 0));
        assert!(pays(&forecasts, Pace::Decode, LAST), "it has changed");
    }
}
