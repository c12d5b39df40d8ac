//! When experts give memory back to the system, and when they take it again. Pure: samples and times in, a ceiling out.

mod signals;
mod watch;

pub use watch::watch;

use std::time::Duration;

/// Of the limit, what is to stay free; at most [`MARGIN_MAX_BYTES`].
const MARGIN_PART: u64 = 32;
const MARGIN_MAX_BYTES: u64 = 64 << 20;
/// Of the budget, what is given back or taken at once, at least.
const STEP_PART: u64 = 16;
/// Tasks that wait for memory for this share of the time suffer from its lack.
const STALL_SHARE: f64 = 0.25;
/// They are believed after so many samples in a row, and only where less than this part of the limit is free: with more,
/// they wait for something that fewer experts would not give them.
const STALLS_IN_A_ROW: u32 = 2;
const STALL_FREE_PART: u64 = 8;
/// What was given back takes a while to be seen.
const SETTLE: Duration = Duration::from_secs(3);
/// Calm for so long, and budgets grow again, a step each time that this has passed.
const CALM: Duration = Duration::from_secs(30);
const REGROW_INTERVAL: Duration = Duration::from_secs(5);

/// What the system says at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sample {
    /// The tightest place: the machine, or a control group.
    pub tightest: Option<Room>,
    /// For what share of the time since the last sample some task waited for memory, 0 to 1.
    pub stalled: f64,
}

/// Memory that can be had without swapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Bytes in all.
    pub limit: u64,
    /// Of them, free, or in a page cache that can be dropped.
    pub free: u64,
}

impl Room {
    fn margin(self) -> u64 {
        (self.limit / MARGIN_PART).min(MARGIN_MAX_BYTES)
    }
}

/// Decides on a ceiling for the experts' budget.
#[derive(Debug, Default)]
pub struct Pressure {
    ceiling: Option<u64>,
    stalls: u32,
    /// When the last sign of pressure was, or a step up was taken.
    last_sign: Option<Duration>,
    last_step: Option<Duration>,
}

impl Pressure {
    /// What experts may have at most from now on; None: what was asked for. `asked` is that, `applied` what they have,
    /// `least` what they must have.
    pub fn observe(&mut self, now: Duration, sample: Sample, budget: Budget) -> Option<u64> {
        if let Some(wanted) = self.wanted_back(sample, budget) {
            self.last_sign = Some(now);
            let settled = self.last_step.is_none_or(|at| now >= at + SETTLE);
            if settled && budget.applied > budget.least {
                let step = wanted.max(budget.asked / STEP_PART);
                self.ceiling = Some(budget.applied.saturating_sub(step).max(budget.least));
                self.last_step = Some(now);
                self.stalls = 0;
            }
        } else if self.may_regrow(now, sample, budget) {
            let step = (budget.asked / STEP_PART).max(1);
            let higher = self.ceiling.map(|ceiling| ceiling.saturating_add(step));
            self.ceiling = higher.filter(|higher| *higher < budget.asked);
            self.last_step = Some(now);
        }
        self.ceiling
    }

    /// Bytes that are missing, if there is pressure.
    fn wanted_back(&mut self, sample: Sample, budget: Budget) -> Option<u64> {
        let room = sample.tightest?;
        let short = room.margin().saturating_sub(room.free);
        let stalls = sample.stalled >= STALL_SHARE && room.free < room.limit / STALL_FREE_PART;
        self.stalls = if stalls { self.stalls + 1 } else { 0 };
        if short > 0 {
            Some(short)
        } else {
            (self.stalls >= STALLS_IN_A_ROW).then_some(budget.asked / STEP_PART)
        }
    }

    fn may_regrow(&self, now: Duration, sample: Sample, budget: Budget) -> bool {
        let step = budget.asked / STEP_PART;
        let has_room = sample
            .tightest
            .is_none_or(|room| room.free >= room.margin() + 2 * step);
        let calm = self.last_sign.is_none_or(|at| now >= at + CALM);
        let rested = self.last_step.is_none_or(|at| now >= at + REGROW_INTERVAL);
        self.ceiling.is_some() && has_room && calm && rested
    }
}

/// The experts' budget as [`Pressure`] sees it, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// What was asked for.
    pub asked: u64,
    /// What they have.
    pub applied: u64,
    /// What they must have.
    pub least: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    struct Scene {
        pressure: Pressure,
        now: u64,
        budget: Budget,
    }

    impl Scene {
        fn new() -> Self {
            let budget = Budget {
                asked: 1600 * MIB,
                applied: 1600 * MIB,
                least: 100 * MIB,
            };
            Self {
                pressure: Pressure::default(),
                now: 0,
                budget,
            }
        }

        /// Seconds with so much free of 3200 MiB; what experts have after them.
        fn pass(&mut self, seconds: u64, free_mib: u64, stalled: f64) -> u64 {
            for _ in 0..seconds {
                self.now += 1;
                let tightest = Some(Room {
                    limit: 3200 * MIB,
                    free: free_mib * MIB,
                });
                let sample = Sample { tightest, stalled };
                let now = Duration::from_secs(self.now);
                let ceiling = self.pressure.observe(now, sample, self.budget);
                self.budget.applied = ceiling.unwrap_or(self.budget.asked);
            }
            self.budget.applied / MIB
        }
    }

    #[test]
    fn little_free_memory_takes_a_step_and_waits_for_its_effect() {
        let mut scene = Scene::new();
        assert_eq!(scene.pass(60, 64, 0.0), 1600, "the margin is free");
        assert_eq!(scene.pass(1, 63, 0.0), 1500);
        assert_eq!(scene.pass(2, 63, 0.0), 1500, "what left is not seen yet");
        assert_eq!(scene.pass(1, 0, 0.0), 1400);
        assert_eq!(scene.pass(600, 0, 0.0), 100, "never below the least");
    }

    #[test]
    fn memory_comes_back_after_calm_a_step_at_a_time() {
        let mut scene = Scene::new();
        scene.pass(4, 10, 0.0);
        assert_eq!(scene.pass(29, 2000, 0.0), 1400);
        assert_eq!(scene.pass(1, 2000, 0.0), 1500);
        assert_eq!(scene.pass(5, 2000, 0.0), 1600);
        assert_eq!(scene.pressure.ceiling, None);
        assert_eq!(scene.pass(1, 10, 0.0), 1600, "the last step has to settle");
        assert_eq!(scene.pass(3, 10, 0.0), 1500);
        assert_eq!(scene.pass(600, 200, 0.0), 1500, "calm, and no room to grow");
    }

    #[test]
    fn stalls_count_twice_in_a_row_and_where_memory_is_scarce() {
        let mut scene = Scene::new();
        assert_eq!(scene.pass(20, 500, 0.9), 1600, "much is free");
        assert_eq!(scene.pass(1, 300, 0.9), 1600);
        assert_eq!(scene.pass(1, 300, 0.1), 1600);
        assert_eq!(scene.pass(2, 300, 0.3), 1500);
    }

    #[test]
    fn where_nothing_is_known_nothing_changes() {
        let mut scene = Scene::new();
        let sample = Sample {
            tightest: None,
            stalled: 1.0,
        };
        let ceiling = scene.pressure.observe(Duration::ZERO, sample, scene.budget);
        assert_eq!(ceiling, None);
    }
}
