//! Whether storage answers, judged by how reads end.

use super::command::Moment;
use crate::api::{LoadError, LoadFailureKind, StoreHealth};
use odmoe_formats::ExpertKey;
use std::time::Duration;

/// As many failures in a row are storage's fault, not one shard's.
const FAILURES_MAX: u32 = 3;
/// Between probes of storage that fails.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);

/// Counts failures in a row.
#[derive(Debug, Default)]
pub(super) struct Health {
    failures: u32,
    /// The last error, while failing.
    failing: Option<String>,
    last_failed: Option<ExpertKey>,
    /// Probes since storage began to fail.
    probes: usize,
    probe_at: Moment,
    probing: bool,
}

impl Health {
    /// Bytes came.
    pub(super) fn succeeded(&mut self) {
        self.failures = 0;
        self.failing = None;
    }

    /// A damaged or truncated shard says nothing about the others, so only refusals and silence count.
    pub(super) fn failed(&mut self, key: ExpertKey, error: &LoadError, now: Moment) {
        if !matches!(error.kind(), LoadFailureKind::Io | LoadFailureKind::Timeout) {
            return;
        }
        if matches!(error, LoadError::Upload { .. }) {
            return;
        }
        self.failures += 1;
        self.last_failed = Some(key);
        if self.failures >= FAILURES_MAX || self.failing.is_some() {
            self.fail(error.to_string(), now);
        }
    }

    /// With every reader inside a read that does not return, nothing can succeed.
    pub(super) fn note_readers(&mut self, stuck: usize, readers: usize, now: Moment) {
        if stuck >= readers && self.failing.is_none() {
            self.fail(
                format!("all {readers} readers wait for storage that does not answer"),
                now,
            );
        }
    }

    fn fail(&mut self, error: String, now: Moment) {
        if self.failing.is_none() {
            self.probes = 0;
            self.probe_at = now.after(PROBE_INTERVAL);
        }
        self.failing = Some(error);
    }

    /// The object to probe with, if a probe is due: first what failed last, then each object in turn, for what
    /// failed may be gone for good while the rest is there.
    pub(super) fn take_due_probe(
        &mut self,
        objects: &[ExpertKey],
        now: Moment,
    ) -> Option<ExpertKey> {
        if self.next_probe()? > now || objects.is_empty() {
            return None;
        }
        let start = objects
            .iter()
            .position(|key| Some(*key) == self.last_failed)
            .unwrap_or(0);
        let key = objects[(start + self.probes) % objects.len()];
        self.probes += 1;
        self.probing = true;
        Some(key)
    }

    /// A probe ended.
    pub(super) fn probed(&mut self, result: Result<(), LoadError>, now: Moment) {
        self.probing = false;
        self.probe_at = now.after(PROBE_INTERVAL);
        match result {
            Ok(()) => self.succeeded(),
            Err(error) if self.failing.is_some() => self.failing = Some(error.to_string()),
            Err(_) => {}
        }
    }

    /// When the next probe is due.
    pub(super) fn next_probe(&self) -> Option<Moment> {
        (self.failing.is_some() && !self.probing).then_some(self.probe_at)
    }

    pub(super) fn state(&self) -> StoreHealth {
        match &self.failing {
            None => StoreHealth::Healthy,
            Some(last_error) => StoreHealth::Failing {
                last_error: last_error.clone(),
            },
        }
    }
}

impl super::Machine {
    /// Whether storage answers.
    pub fn health(&self) -> StoreHealth {
        self.health.state()
    }
}
