//! A token bucket: so much a minute, evenly refilled, at most a minute's worth at once. Pure.

use std::time::{Duration, Instant};

const MINUTE_S: f64 = 60.0;

/// See the module. The level may fall below zero: what a request takes is known only when it has taken it, and whoever
/// comes next waits until the debt is paid.
#[derive(Debug)]
pub(crate) struct Bucket {
    per_minute: f64,
    level: f64,
    at: Instant,
}

impl Bucket {
    /// A full one.
    pub(crate) fn new(per_minute: u32, now: Instant) -> Self {
        let per_minute = f64::from(per_minute);
        Self {
            per_minute,
            level: per_minute,
            at: now,
        }
    }

    /// How long until there is `amount`, at most a minute's worth; None if there is now.
    pub(crate) fn wait_for(&mut self, amount: f64, now: Instant) -> Option<Duration> {
        self.refill(now);
        let missing = amount.min(self.per_minute) - self.level;
        (missing > 0.0).then(|| Duration::from_secs_f64(missing / self.per_minute * MINUTE_S))
    }

    /// What there is now, never less than nothing.
    pub(crate) fn left(&mut self, now: Instant) -> f64 {
        self.refill(now);
        self.level.max(0.0)
    }

    /// What it holds when it is full.
    pub(crate) fn most(&self) -> f64 {
        self.per_minute
    }

    fn refill(&mut self, now: Instant) {
        let minutes = now.saturating_duration_since(self.at).as_secs_f64() / MINUTE_S;
        self.at = self.at.max(now);
        self.level = (self.level + minutes * self.per_minute).min(self.per_minute);
    }

    pub(crate) fn take(&mut self, amount: f64) {
        self.level -= amount;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minutes_worth_at_once_and_then_evenly() {
        let start = Instant::now();
        let at = |seconds: f64| start + Duration::from_secs_f64(seconds);
        let mut bucket = Bucket::new(6, start);
        for _ in 0..6 {
            assert_eq!(bucket.wait_for(1.0, start), None);
            bucket.take(1.0);
        }
        assert_eq!(bucket.wait_for(1.0, start), Some(Duration::from_secs(10)));
        assert_eq!(bucket.wait_for(1.0, at(5.0)), Some(Duration::from_secs(5)));
        assert_eq!(bucket.wait_for(1.0, at(10.0)), None);
        bucket.take(1.0);
        // A clock that stands still or goes back gives nothing.
        assert!(bucket.wait_for(1.0, at(3.0)).is_some());
        assert_eq!(bucket.wait_for(6.0, at(3600.0)), None);
        bucket.take(6.0);
        assert!(
            bucket.wait_for(1.0, at(3600.0)).is_some(),
            "never more than a minute's worth"
        );
    }

    #[test]
    fn a_debt_is_waited_for_and_no_amount_is_out_of_reach() {
        let start = Instant::now();
        let mut bucket = Bucket::new(60, start);
        bucket.take(180.0);
        assert_eq!(bucket.wait_for(1.0, start), Some(Duration::from_secs(121)));
        assert_eq!((bucket.left(start), bucket.most()), (0.0, 60.0));
        let half = start + Duration::from_secs(150);
        assert_eq!(bucket.left(half), 30.0);
        assert_eq!(bucket.wait_for(1e9, start + Duration::from_secs(180)), None);
    }
}
