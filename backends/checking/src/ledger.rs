//! The books on one piece of memory: what was written, and who may still be using what.

use crate::clock::{Stamp, VectorClock};
use std::collections::BTreeMap;
use std::ops::Range;

/// A set of positions as disjoint ranges, start to end.
#[derive(Debug, Default)]
pub struct RangeSet(BTreeMap<usize, usize>);

impl RangeSet {
    /// Adds a range.
    pub fn insert(&mut self, range: Range<usize>) {
        if range.is_empty() {
            return;
        }
        let (mut start, mut end) = (range.start, range.end);
        while let Some((&other_start, &other_end)) = self.0.range(..=end).next_back() {
            if other_end < start {
                break;
            }
            self.0.remove(&other_start);
            (start, end) = (start.min(other_start), end.max(other_end));
        }
        self.0.insert(start, end);
    }

    /// The first position of the range that is not in the set.
    pub fn first_gap(&self, range: Range<usize>) -> Option<usize> {
        if range.is_empty() {
            return None;
        }
        let covered_to = self
            .0
            .range(..=range.start)
            .next_back()
            .map_or(range.start, |(_, &end)| end);
        let gap = covered_to.max(range.start);
        (gap < range.end).then_some(gap)
    }
}

/// How an op uses a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// It reads what must have been written before.
    Read,
    /// It writes; what was there before does not matter.
    Write,
}

#[derive(Debug)]
struct Past {
    range: Range<usize>,
    how: Use,
    stamp: Stamp,
    op: &'static str,
}

/// Why an access is wrong.
#[derive(Debug, PartialEq, Eq)]
pub enum Violation {
    /// A host window is open.
    WindowOpen,
    /// Nobody wrote this position.
    NeverWritten(usize),
    /// An op of another stream uses it, and nothing orders the two.
    Unordered {
        /// The other op.
        op: &'static str,
        /// What it does to the range.
        how: Use,
    },
}

/// The books. Positions are bytes of a buffer, or token slots of a KV layer.
#[derive(Debug, Default)]
pub struct Ledger {
    written: RangeSet,
    past: Vec<Past>,
    window_open: bool,
}

impl Ledger {
    /// Whether an access that comes after all of `before` is right.
    pub fn check(
        &self,
        range: &Range<usize>,
        how: Use,
        before: &VectorClock,
    ) -> Result<(), Violation> {
        if self.window_open {
            return Err(Violation::WindowOpen);
        }
        let conflicts = |past: &&Past| {
            (how == Use::Write || past.how == Use::Write)
                && overlap(&past.range, range)
                && !before.has_seen(past.stamp)
        };
        if let Some(past) = self.past.iter().find(conflicts) {
            return Err(Violation::Unordered {
                op: past.op,
                how: past.how,
            });
        }
        match self.written.first_gap(range.clone()) {
            Some(gap) if how == Use::Read => Err(Violation::NeverWritten(gap)),
            _ => Ok(()),
        }
    }

    /// Enters an access that was found right.
    pub fn note(
        &mut self,
        range: Range<usize>,
        how: Use,
        stamp: Stamp,
        op: &'static str,
        host: &VectorClock,
    ) {
        if how == Use::Write {
            self.written.insert(range.clone());
        }
        // What the host knows to be done orders nothing any more, and who comes after this access also comes after
        // earlier ones of its stream: those need no entry of their own.
        self.past.retain(|past| {
            let implied = past.stamp.stream == stamp.stream
                && (how == Use::Write || past.how == Use::Read)
                && range.start <= past.range.start
                && past.range.end <= range.end;
            !implied && !host.has_seen(past.stamp)
        });
        self.past.push(Past {
            range,
            how,
            stamp,
            op,
        });
    }

    /// An op that the host does not know to be done.
    pub fn pending(&self, host: &VectorClock) -> Option<&'static str> {
        self.past
            .iter()
            .find(|past| !host.has_seen(past.stamp))
            .map(|past| past.op)
    }

    /// Whether a host window is open.
    pub fn window_open(&self) -> bool {
        self.window_open
    }

    /// A host window opens: it replaces all that was there.
    pub fn open_window(&mut self) {
        self.window_open = true;
        self.written = RangeSet::default();
    }

    /// It closes, having written the first `bytes`.
    pub fn close_window(&mut self, bytes: usize) {
        self.window_open = false;
        self.written.insert(0..bytes);
    }
}

fn overlap(a: &Range<usize>, b: &Range<usize>) -> bool {
    a.start < b.end && b.start < a.end
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_merge_and_gaps_are_found() {
        let mut set = RangeSet::default();
        assert_eq!(set.first_gap(0..1), Some(0));
        assert_eq!(set.first_gap(5..5), None);
        set.insert(10..20);
        set.insert(30..40);
        set.insert(3..3);
        assert_eq!(set.first_gap(10..20), None);
        assert_eq!(set.first_gap(9..20), Some(9));
        assert_eq!(set.first_gap(12..31), Some(20));
        set.insert(15..30);
        assert_eq!(set.first_gap(10..40), None);
        assert_eq!(set.first_gap(10..41), Some(40));
        set.insert(0..100);
        assert_eq!(set.first_gap(0..100), None);
        assert_eq!(set.0.len(), 1);
    }

    #[test]
    fn ranges_agree_with_a_table_of_flags() {
        let (mut set, mut flags, mut state) = (RangeSet::default(), [false; 64], 7u64);
        for _ in 0..2000 {
            state = state
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            let (a, b) = ((state >> 33) as usize % 65, (state >> 45) as usize % 65);
            let range = a.min(b)..a.max(b);
            let expected = range.clone().find(|&i| !flags[i]);
            assert_eq!(
                set.first_gap(range.clone()),
                expected,
                "{range:?} in {set:?}"
            );
            if state >> 62 == 0 && range.len() < 8 {
                flags[range.clone()].fill(true);
                set.insert(range);
            }
            if flags.iter().all(|&flag| flag) {
                (set, flags) = (RangeSet::default(), [false; 64]);
            }
        }
    }
}
