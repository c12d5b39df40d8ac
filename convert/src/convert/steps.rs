//! Progress of work that several threads do at once, told as steps one after another.

use crate::progress::{Cancelled, Level, Progress, ProgressReport, REPORT_BYTES};
use odmoe_formats::ByteCount;
use std::ops::ControlFlow;

/// All steps and the whole. The step that is shown is the first that is not complete; work on a later one counts at
/// once for the whole, and for the step when it comes to be shown.
pub(super) struct Steps<'a> {
    progress: &'a dyn Progress,
    whole: Level,
    steps: Vec<(String, Level)>,
    shown: usize,
    unreported: u64,
}

impl<'a> Steps<'a> {
    /// Steps by name and size, in the order in which they will be shown. Reports the first.
    pub fn begin(
        progress: &'a dyn Progress,
        steps: impl IntoIterator<Item = (String, u64)>,
    ) -> Result<Self, Cancelled> {
        let level = |total| Level {
            done: ByteCount(0),
            total: ByteCount(total),
        };
        let steps: Vec<(String, Level)> = steps
            .into_iter()
            .map(|(name, total)| (name, level(total)))
            .collect();
        let mut steps = Self {
            progress,
            whole: level(steps.iter().map(|(_, step)| step.total.0).sum()),
            steps,
            shown: 0,
            unreported: 0,
        };
        steps.report()?;
        Ok(steps)
    }

    /// Counts work on a step.
    pub fn advance(&mut self, step: usize, bytes: u64) -> Result<(), Cancelled> {
        self.whole.done.0 += bytes;
        self.steps[step].1.done.0 += bytes;
        self.unreported += bytes;
        if self.unreported >= REPORT_BYTES || self.is_complete(self.shown) {
            self.report()?;
        }
        while self.is_complete(self.shown) && self.shown + 1 < self.steps.len() {
            self.shown += 1;
            self.report()?;
        }
        Ok(())
    }

    fn is_complete(&self, step: usize) -> bool {
        let Level { done, total } = self.steps[step].1;
        done == total
    }

    fn report(&mut self) -> Result<(), Cancelled> {
        self.unreported = 0;
        let (step, step_level) = &self.steps[self.shown];
        let report = ProgressReport {
            whole: self.whole,
            step,
            step_level: *step_level,
        };
        match self.progress.report(&report) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(Cancelled),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[test]
    fn steps_are_told_one_after_another_whatever_order_they_are_done_in() {
        struct Told(Mutex<Vec<(String, u64, u64)>>);
        impl Progress for Told {
            fn report(&self, report: &ProgressReport<'_>) -> ControlFlow<()> {
                let told = (
                    report.step.into(),
                    report.step_level.done.0,
                    report.whole.done.0,
                );
                self.0.lock().unwrap().push(told);
                ControlFlow::Continue(())
            }
        }
        let told = Told(Mutex::default());
        let all = [("a", 10), ("b", 5), ("c", 1)].map(|(name, bytes)| (name.to_owned(), bytes));
        let mut steps = Steps::begin(&told, all).unwrap();
        for (step, bytes) in [(0, 4), (1, 5), (0, 6), (2, 1)] {
            steps.advance(step, bytes).unwrap();
        }
        let told = told.0.into_inner().unwrap();
        let told: Vec<_> = told.iter().map(|(step, a, b)| (&**step, *a, *b)).collect();
        let expected = [
            ("a", 0, 0),
            ("a", 10, 15),
            ("b", 5, 15),
            ("c", 0, 15),
            ("c", 1, 16),
        ];
        assert_eq!(told, expected);
    }
}
