//! When an accepted request's time is up.

use super::config::Timeouts;
use super::error::ApiError;
use super::job::Delivery;
use std::time::{Duration, Instant};

/// The deadlines of one request.
pub(crate) struct Deadlines {
    /// Of the whole answer: how long it may take, and until when.
    end: Option<(Duration, Instant)>,
    is_streamed: bool,
    stall: Option<Duration>,
    last_heard: Instant,
}

impl Deadlines {
    pub(crate) fn new(timeouts: &Timeouts, delivery: Delivery, arrived: Instant) -> Self {
        let is_streamed = delivery != Delivery::Whole;
        let limit = match is_streamed {
            true => timeouts.stream,
            false => timeouts.request,
        };
        Self {
            end: limit.and_then(|limit| Some((limit, arrived.checked_add(limit)?))),
            is_streamed,
            stall: timeouts.stall,
            last_heard: Instant::now(),
        }
    }

    /// Something came from the engine.
    pub(crate) fn heard(&mut self, now: Instant) {
        self.last_heard = now;
    }

    /// When the whole answer's time is up.
    pub(crate) fn ends_at(&self) -> Option<Instant> {
        self.end.map(|(_, end)| end)
    }

    /// How long to wait until the next look, at most `most`.
    pub(crate) fn next_within(&self, most: Duration) -> Duration {
        let stalled_at = self.stall.map(|stall| self.last_heard + stall);
        let next = self.ends_at().into_iter().chain(stalled_at).min();
        let now = Instant::now();
        next.map_or(most, |next| next.saturating_duration_since(now).min(most))
    }

    /// The error of a deadline that has passed.
    pub(crate) fn missed(&self, now: Instant) -> Option<ApiError> {
        if let Some((limit, end)) = self.end
            && now >= end
        {
            return Some(match self.is_streamed {
                true => ApiError::timed_out("the stream did not end", "stream_timeout", limit),
                false => ApiError::request_timed_out(limit),
            });
        }
        let stall = self.stall?;
        (now >= self.last_heard + stall)
            .then(|| ApiError::timed_out("no token came", "generation_stalled", stall))
    }
}
