//! Whether storage answers, judged by how reads end.

use super::command::Moment;
use crate::api::{LoadError, LoadFailureKind, StoreHealth};
use odmoe_formats::ExpertKey;
use std::collections::BTreeSet;
use std::time::Duration;

/// As many failures in a row are storage's fault, not one shard's.
const FAILURES_MAX: usize = 3;
/// Between probes of storage that fails.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);

/// Counts failures in a row.
#[derive(Debug, Default)]
pub(super) struct Health {
    failures: u32,
    /// Objects whose bytes were wrong or too few since the last success.
    damaged: BTreeSet<ExpertKey>,
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
        self.damaged.clear();
        self.failing = None;
    }

    /// Refusals and silence count each time. Wrong or too few bytes say nothing about other shards, so they count once
    /// an object: one bad shard among good ones never turns storage bad, a store of nothing but bad ones does.
    pub(super) fn failed(&mut self, key: ExpertKey, error: &LoadError, now: Moment) {
        match error {
            LoadError::Upload { .. } => return,
            _ if matches!(error.kind(), LoadFailureKind::Io | LoadFailureKind::Timeout) => {
                self.failures += 1;
            }
            _ => {
                self.damaged.insert(key);
            }
        }
        self.last_failed = Some(key);
        let failures = self.failures as usize + self.damaged.len();
        if failures >= FAILURES_MAX || self.failing.is_some() {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn damaged(key: ExpertKey) -> LoadError {
        let (expected, found) = ("0".repeat(32), "1".repeat(32));
        LoadError::Checksum {
            key,
            expected,
            found,
        }
    }

    #[test]
    fn one_damaged_object_is_not_storage() {
        let (mut health, key) = (Health::default(), ExpertKey::routed(0, 7));
        for _ in 0..10 {
            health.failed(key, &damaged(key), Moment::default());
        }
        assert_eq!(health.state(), StoreHealth::Healthy);
    }

    #[test]
    fn nothing_but_damaged_objects_is_storage_until_one_is_whole() {
        let mut health = Health::default();
        for index in 0..FAILURES_MAX as u32 {
            assert_eq!(health.state(), StoreHealth::Healthy);
            let key = ExpertKey::routed(0, index);
            health.failed(key, &damaged(key), Moment::default());
        }
        assert!(matches!(health.state(), StoreHealth::Failing { .. }));
        health.succeeded();
        assert_eq!(health.state(), StoreHealth::Healthy);
    }
}
