//! How far into the source everything has been read.

use super::units::{SourcePosition, Unit};
use std::collections::BTreeSet;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Bytes before the frontier belong to no unit that is still to be done. Whoever reads the source for another purpose
/// stays behind it: there the bytes have just been read, and nobody needs them afterwards.
pub(super) struct Frontier {
    state: Mutex<State>,
    moved: Condvar,
}

struct State {
    /// Where the units that are not done begin.
    starts: BTreeSet<(SourcePosition, usize)>,
    stopped: bool,
}

/// Where the frontier is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reached {
    /// At a place in the source.
    At(SourcePosition),
    /// Behind its end.
    End,
    /// The work has been given up.
    Stopped,
}

impl Frontier {
    pub fn new(units: &[Unit]) -> Self {
        let starts = units.iter().enumerate();
        Self {
            state: Mutex::new(State {
                starts: starts.map(|(index, unit)| (unit.start, index)).collect(),
                stopped: false,
            }),
            moved: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A unit has been done.
    pub fn done(&self, index: usize, unit: &Unit) {
        self.lock().starts.remove(&(unit.start, index));
        self.moved.notify_all();
    }

    /// Nobody needs to wait any more.
    pub fn stop(&self) {
        self.lock().stopped = true;
        self.moved.notify_all();
    }

    /// Waits until the frontier lies behind `position`.
    pub fn wait_behind(&self, position: SourcePosition) -> Reached {
        let mut state = self.lock();
        loop {
            match state.starts.first() {
                _ if state.stopped => return Reached::Stopped,
                None => return Reached::End,
                Some((start, _)) if *start > position => return Reached::At(*start),
                Some(_) => {
                    let woken = self.moved.wait(state);
                    state = woken.unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(start: SourcePosition) -> Unit {
        Unit {
            file: 0,
            tensors: 0..1,
            name: String::new(),
            step: 0,
            bytes: 1,
            start,
        }
    }

    #[test]
    fn it_is_where_the_first_unfinished_unit_begins() {
        let units = [unit((0, 0)), unit((0, 50)), unit((1, 7))];
        let frontier = Frontier::new(&units);
        frontier.done(1, &units[1]);
        frontier.done(0, &units[0]);
        assert_eq!(frontier.wait_behind((0, 20)), Reached::At((1, 7)));
        frontier.done(2, &units[2]);
        assert_eq!(frontier.wait_behind((1, 7)), Reached::End);
    }

    #[test]
    fn a_stop_wakes_who_waits() {
        let frontier = Frontier::new(&[unit((0, 0))]);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| frontier.wait_behind((0, 0)));
            frontier.stop();
            assert_eq!(waiting.join().unwrap(), Reached::Stopped);
        });
    }
}
