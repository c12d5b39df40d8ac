//! Which plan to read by. Decides from measured speeds alone: it has no clock and reads nothing.

use crate::io::{Access, DEFAULT_PIECE, Method, ReadPlan};
use odmoe_formats::ByteCount;
use std::time::Duration;

/// How long a plan is measured at a time. Plans take turns, for disks are not equally fast from moment to moment.
const TURN: Duration = Duration::from_millis(25);
const TURNS: usize = 4;
/// A plan that two turns did not bring to this share of the best is not measured further.
const HOPELESS: f64 = 0.7;
/// Another plan must be better than one before it by this factor: turns of one plan differ by as much.
const BETTER: f64 = 1.1;
/// More reads at once by this one: a demand that comes waits for all of them.
const BETTER_DEEPER: f64 = 1.2;

/// Pieces that are tried, besides the default and uncut reads.
const PIECES: [u64; 2] = [1 << 20, 256 << 10];
/// Reads at once that are tried. Never one alone: the disk would idle between two, and a read that hangs would be all
/// of storage.
const AT_ONCE: [usize; 3] = [2, 4, 8];

/// What is settled beforehand; None is measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// By which calls.
    pub method: Option<Method>,
    /// Past the page cache or through it.
    pub access: Option<Access>,
    /// Reads at once.
    pub at_once: Option<usize>,
    /// Whether reads are cut, and how.
    pub piece: Option<Option<ByteCount>>,
}

/// What was found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Choice {
    /// The plan.
    pub plan: ReadPlan,
    /// What it brought.
    pub bytes_per_s: f64,
}

impl Wanted {
    /// The default, as far as nothing else is wanted.
    pub fn plan(&self) -> ReadPlan {
        let default = ReadPlan::default();
        ReadPlan {
            method: self.method.unwrap_or(default.method),
            access: self.access.unwrap_or(default.access),
            at_once: self.at_once.unwrap_or(default.at_once),
            piece: self.piece.unwrap_or(default.piece),
        }
    }

    /// Whether nothing is left to measure.
    pub fn is_settled(&self) -> bool {
        let piece = self.piece.is_some() || self.method == Some(Method::Threads);
        self.method.is_some() && self.access.is_some() && self.at_once.is_some() && piece
    }

    /// Whether a plan is one of those wanted.
    pub fn allows(&self, plan: ReadPlan) -> bool {
        self.method.is_none_or(|method| method == plan.method)
            && self.access.is_none_or(|access| access == plan.access)
            && self.at_once.is_none_or(|at_once| at_once == plan.at_once)
            && (plan.method == Method::Threads
                || self.piece.is_none_or(|piece| piece == plan.piece))
    }

    /// Ways to read objects of `object_bytes`, the one that is kept unless another is faster first.
    fn ways(&self, object_bytes: u64) -> Vec<ReadPlan> {
        let base = self.plan();
        let way = |method, access, piece| ReadPlan {
            method,
            access,
            piece,
            ..base
        };
        let (ring, threads) = (Method::IoUring, Method::Threads);
        let pieces = PIECES.into_iter().filter(|piece| *piece < object_bytes);
        let wanted = self.piece.flatten().into_iter();
        let mut ways = vec![way(ring, Access::Direct, Some(DEFAULT_PIECE))];
        if DEFAULT_PIECE.0 < object_bytes || self.piece == Some(None) {
            ways.push(way(ring, Access::Direct, None));
        }
        for piece in pieces.map(ByteCount).chain(wanted) {
            ways.push(way(ring, Access::Direct, Some(piece)));
        }
        ways.push(way(threads, Access::Direct, None));
        for method in [ring, threads] {
            ways.push(way(
                method,
                Access::Buffered,
                self.piece.flatten().filter(|_| method == ring),
            ));
        }
        ways.dedup();
        ways.retain(|plan| self.allows(*plan));
        ways
    }
}

/// Finds the plan that reads objects of about `object_bytes` fastest; of those about equal, the simplest, with the
/// fewest reads at once. `speed` reads by a plan for about a time and says how many bytes a second came, or None where
/// nothing did or the time for measuring is up. None where nothing was measured.
pub fn choose(
    wanted: &Wanted,
    object_bytes: u64,
    speed: &mut dyn FnMut(ReadPlan, Duration) -> Option<f64>,
) -> Option<Choice> {
    let way = best(&wanted.ways(object_bytes), BETTER, speed)?;
    if wanted.at_once.is_some() {
        return Some(way);
    }
    let depths = AT_ONCE.map(|at_once| ReadPlan {
        at_once,
        ..way.plan
    });
    Some(best(&depths, BETTER_DEEPER, speed).unwrap_or(way))
}

/// The first plan that no later one beats by the factor `better`.
fn best(
    plans: &[ReadPlan],
    better: f64,
    speed: &mut dyn FnMut(ReadPlan, Duration) -> Option<f64>,
) -> Option<Choice> {
    let mut turns: Vec<(ReadPlan, Vec<f64>)> = plans.iter().map(|p| (*p, Vec::new())).collect();
    for turn in 0..TURNS {
        for (plan, speeds) in &mut turns {
            speeds.extend(speed(*plan, TURN));
        }
        if turn > 0 {
            let fastest = turns.iter().map(|(_, s)| top(s)).fold(0.0, f64::max);
            turns.retain(|(_, speeds)| top(speeds) >= HOPELESS * fastest);
        }
    }
    turns.retain(|(_, speeds)| !speeds.is_empty());
    let (plan, speeds) = turns.into_iter().reduce(|simpler, other| {
        if top(&other.1) > top(&simpler.1) * better {
            other
        } else {
            simpler
        }
    })?;
    Some(Choice {
        plan,
        bytes_per_s: median(speeds),
    })
}

/// The best turn: what else uses the disk only ever makes a turn worse.
fn top(speeds: &[f64]) -> f64 {
    speeds.iter().copied().fold(0.0, f64::max)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

#[cfg(test)]
mod tests {
    use super::*;

    const OBJECT: u64 = 3 << 20;

    fn chosen(wanted: Wanted, disk: impl Fn(ReadPlan) -> f64) -> Option<Choice> {
        choose(&wanted, OBJECT, &mut |plan, _| Some(disk(plan)))
    }

    /// Pieces under way at once.
    fn depth(plan: ReadPlan) -> f64 {
        let pieces = plan.piece.map_or(1, |piece| OBJECT.div_ceil(piece.0));
        plan.at_once as f64 * pieces as f64
    }

    #[test]
    fn a_disk_that_is_busy_with_little_gets_little() {
        let choice = chosen(Wanted::default(), |_| 2e9).unwrap();
        assert_eq!(
            (choice.plan, choice.bytes_per_s),
            (ReadPlan::default(), 2e9)
        );
    }

    #[test]
    fn a_disk_that_wants_depth_gets_pieces_and_then_reads() {
        let choice = chosen(Wanted::default(), |plan| depth(plan).min(96.0)).unwrap();
        assert_eq!(choice.plan.piece, Some(ByteCount(256 << 10)));
        assert_eq!(choice.plan.at_once, 8);
        let choice = chosen(Wanted::default(), |plan| depth(plan).min(12.0)).unwrap();
        assert_eq!(
            (choice.plan.piece, choice.plan.at_once),
            (Some(ByteCount(512 << 10)), 2)
        );
    }

    #[test]
    fn a_file_system_that_is_slow_past_its_cache_is_read_through_it() {
        let disk = |plan: ReadPlan| {
            if plan.access == Access::Direct {
                1e8
            } else {
                1e9
            }
        };
        assert_eq!(
            chosen(Wanted::default(), disk).unwrap().plan.access,
            Access::Buffered
        );
        let wanted = Wanted {
            access: Some(Access::Direct),
            ..Wanted::default()
        };
        assert_eq!(chosen(wanted, disk).unwrap().plan.access, Access::Direct);
    }

    #[test]
    fn what_is_wanted_is_kept() {
        for method in [Method::IoUring, Method::Threads] {
            for piece in [None, Some(ByteCount(4096)), Some(ByteCount(1 << 20))] {
                for at_once in [1, 3] {
                    for access in [Access::Direct, Access::Buffered] {
                        let wanted = Wanted {
                            method: Some(method),
                            access: Some(access),
                            at_once: Some(at_once),
                            piece: Some(piece),
                        };
                        assert!(wanted.is_settled());
                        let plan = chosen(wanted, depth).unwrap().plan;
                        assert!(wanted.allows(plan), "{wanted:?}: {plan:?}");
                        assert!(wanted.allows(wanted.plan()));
                    }
                }
            }
        }
        assert!(!Wanted::default().is_settled());
    }

    #[test]
    fn a_disk_that_brings_nothing_decides_nothing() {
        assert_eq!(choose(&Wanted::default(), OBJECT, &mut |_, _| None), None);
        let mut left = 2;
        let choice = choose(&Wanted::default(), OBJECT, &mut |_, _| {
            left -= 1;
            (left >= 0).then_some(1.0)
        });
        assert_eq!(
            choice.unwrap().plan,
            ReadPlan::default(),
            "the time was up early"
        );
    }
}
