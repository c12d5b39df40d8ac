//! How long lanes waited for experts while nothing else could run.

use crate::api::RequestId;
use std::time::{Duration, Instant};

/// A stall begins with a sleep while a lane waits for experts and ends when any lane moves.
#[derive(Default)]
pub struct StallClock {
    stall: Option<(Instant, Vec<RequestId>)>,
}

impl StallClock {
    /// Nothing can run, and these sequences wait for experts. Goes on if it had begun.
    pub fn begin(&mut self, now: Instant, waiting: Vec<RequestId>) {
        self.stall.get_or_insert((now, waiting));
    }

    /// Something ran: how long the stall was, and who waited.
    pub fn end(&mut self, now: Instant) -> Option<(Duration, Vec<RequestId>)> {
        let (since, waiting) = self.stall.take()?;
        Some((now.saturating_duration_since(since), waiting))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stall_lasts_from_its_first_sleep_to_the_next_move() {
        let begin = Instant::now();
        let at = |ms| begin + Duration::from_millis(ms);
        let mut clock = StallClock::default();
        assert_eq!(clock.end(at(0)), None);
        clock.begin(at(10), vec![RequestId(1)]);
        clock.begin(at(30), vec![RequestId(2)]);
        assert_eq!(
            clock.end(at(60)),
            Some((Duration::from_millis(50), vec![RequestId(1)]))
        );
        assert_eq!(clock.end(at(70)), None);
    }
}
