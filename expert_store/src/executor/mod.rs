//! Reader threads: take the most urgent read, fill its slot, verify it, report.

mod queue;
mod worker;

use crate::api::{LoadError, ShardReader};
use crate::catalog::Catalog;
use crate::io::HostSlot;
use crate::residency::{Priority, ReadId, ReadReport};
use odmoe_backend::{Capabilities, HostWindow, Waker};
use odmoe_formats::ExpertKey;
use queue::Queue;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};
use worker::Worker;

/// Where a read's bytes go. It belongs to the reader until the report.
pub(crate) enum Target {
    /// A slot of a backend whose memory the host can address.
    Window(HostWindow),
    /// A slot of the host tier.
    Host(HostSlot),
}

impl Target {
    fn bytes_mut(&mut self) -> &mut [u8] {
        match self {
            Self::Window(window) => window.bytes_mut(),
            Self::Host(slot) => slot.bytes_mut(),
        }
    }

    /// Ends the write; what is left goes back to the store.
    fn finish(self) -> Option<HostSlot> {
        match self {
            Self::Window(window) => {
                drop(window);
                None
            }
            Self::Host(slot) => Some(slot),
        }
    }
}

/// One thing for a reader to do.
pub(crate) enum Job {
    /// Fill a slot with an object and verify it.
    Read {
        read: ReadId,
        key: ExpertKey,
        target: Target,
    },
    /// See whether an object's first bytes can be read.
    Probe { key: ExpertKey },
}

/// What became of a job.
pub(crate) enum Report {
    Started {
        read: ReadId,
        at: Instant,
    },
    Ended(Ended),
    Probed {
        result: Result<(), LoadError>,
        at: Instant,
    },
}

/// A read that ended.
pub(crate) struct Ended {
    pub read: ReadId,
    pub key: ExpertKey,
    /// Goes back to the store, where it was one of the host tier.
    pub slot: Option<HostSlot>,
    pub result: Result<ReadReport, LoadError>,
    /// Whether the bytes were wrong the first time.
    pub reread: bool,
    pub at: Instant,
}

/// Whether bytes are verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Checks {
    /// Always, but for measuring what it costs.
    Checksum,
    /// To measure storage alone.
    None,
}

/// Threads that read. Dropping it ends those that are idle; one inside a read ends when the read does.
pub(crate) struct ReaderPool {
    queue: Arc<Queue>,
    reports: Receiver<Report>,
}

/// Threads beyond one a read: they hold no read back while others verify what they read.
const VERIFYING_MAX: usize = 2;

impl ReaderPool {
    /// Starts threads that have `at_once` jobs at storage at most. What they have verified they lay out as a backend takes
    /// it; None: it stays as it is stored.
    pub fn start(
        at_once: usize,
        catalog: &Arc<Catalog>,
        laid_out_for: Option<&Capabilities>,
        reader: &Arc<dyn ShardReader>,
        checks: Checks,
        waker: &Waker,
    ) -> std::io::Result<Self> {
        let (sender, reports) = mpsc::channel();
        let queue = Arc::new(Queue::new(at_once));
        let pool = Self { queue, reports };
        for index in 0..at_once + at_once.min(VERIFYING_MAX) {
            let worker = Worker {
                queue: pool.queue.clone(),
                catalog: catalog.clone(),
                reader: reader.clone(),
                reports: sender.clone(),
                waker: waker.clone(),
                checks,
                laid_out_for: laid_out_for.cloned(),
            };
            thread::Builder::new()
                .name(format!("odmoe-read-{index}"))
                .spawn(move || worker.run())?;
        }
        Ok(pool)
    }

    /// Puts a job in line.
    pub fn submit(&self, priority: Priority, job: Job) {
        self.queue.submit(priority, job);
    }

    /// Moves a queued read; void where a reader has it.
    pub fn reprioritise(&self, read: ReadId, priority: Priority) {
        self.queue.reprioritise(read, priority);
    }

    /// Takes a queued read back with its target, unless a reader has it.
    pub fn cancel(&self, read: ReadId) -> Option<Option<HostSlot>> {
        self.queue.cancel(read)
    }

    /// What has been reported since the last call.
    pub fn try_report(&self) -> Option<Report> {
        self.reports.try_recv().ok()
    }

    /// Waits for the end of a read, at most for a time.
    pub fn ended_within(&self, patience: Duration) -> Option<Ended> {
        let deadline = Instant::now() + patience;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if let Report::Ended(ended) = self.reports.recv_timeout(left).ok()? {
                return Some(ended);
            }
        }
    }
}

impl Drop for ReaderPool {
    fn drop(&mut self) {
        self.queue.close();
    }
}
