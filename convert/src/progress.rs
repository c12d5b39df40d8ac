//! Telling how far long work has come.

use crate::Preflight;
use odmoe_formats::ByteCount;
use std::ops::ControlFlow;

/// How much of something is done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Level {
    /// Bytes done.
    pub done: ByteCount,
    /// Bytes in all.
    pub total: ByteCount,
}

/// The state of work at one moment: the whole, and the step that it is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProgressReport<'a> {
    /// Everything.
    pub whole: Level,
    /// What is being done: `experts of layer 7`.
    pub step: &'a str,
    /// This step.
    pub step_level: Level,
}

/// What a conversion makes of one that was stopped before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Earlier {
    /// It is taken up. So many bytes were written already, and are read again to be sure of them.
    Resumed {
        /// Bytes of the store.
        already_there: ByteCount,
    },
    /// It cannot be taken up, for this reason, and what it left is removed.
    StartedOver {
        /// Why: "it has other options".
        reason: &'static str,
    },
}

/// Receives progress, on the thread that does the work: at the start of each step, then at least once every few
/// megabytes. Should be quick.
pub trait Progress: Sync {
    /// Called once before the first byte is written, with what is about to be done.
    fn planned(&self, preflight: &Preflight) {
        let _ = preflight;
    }

    /// Called once before the first report, where there is something to say about an earlier conversion to the same
    /// place.
    fn earlier(&self, earlier: &Earlier) {
        let _ = earlier;
    }

    /// One report. `Break` ends the work with a `Cancelled` error.
    fn report(&self, report: &ProgressReport<'_>) -> ControlFlow<()>;
}

/// Ignores everything.
pub struct NoProgress;

impl Progress for NoProgress {
    fn report(&self, _report: &ProgressReport<'_>) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }
}

/// Work that its [`Progress`] ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cancelled;

/// Between two reports lie at most this many bytes, and one piece of work.
pub(crate) const REPORT_BYTES: u64 = 1 << 20;

/// Keeps both levels, and reports no more often than is useful.
pub(crate) struct Tracker<'a> {
    progress: &'a dyn Progress,
    whole: Level,
    step: String,
    step_level: Level,
    unreported: u64,
}

impl<'a> Tracker<'a> {
    pub fn new(progress: &'a dyn Progress, total: u64) -> Self {
        let whole = Level {
            done: ByteCount(0),
            total: ByteCount(total),
        };
        Self {
            progress,
            whole,
            step: String::new(),
            step_level: Level::default(),
            unreported: 0,
        }
    }

    /// Begins a step of `total` bytes, which are part of the whole.
    pub fn step(&mut self, name: impl Into<String>, total: u64) -> Result<(), Cancelled> {
        self.step = name.into();
        self.step_level = Level {
            done: ByteCount(0),
            total: ByteCount(total),
        };
        self.report()
    }

    /// Counts work done.
    pub fn advance(&mut self, bytes: u64) -> Result<(), Cancelled> {
        self.whole.done.0 += bytes;
        self.step_level.done.0 += bytes;
        self.unreported += bytes;
        let step_ended = self.step_level.done == self.step_level.total;
        if self.unreported >= REPORT_BYTES || step_ended {
            self.report()
        } else {
            Ok(())
        }
    }

    fn report(&mut self) -> Result<(), Cancelled> {
        self.unreported = 0;
        let report = ProgressReport {
            whole: self.whole,
            step: &self.step,
            step_level: self.step_level,
        };
        match self.progress.report(&report) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(Cancelled),
        }
    }
}
