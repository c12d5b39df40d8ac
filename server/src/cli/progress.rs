//! Progress on standard error: bars for people at a terminal, now and then a line elsewhere.

use crate::cli::terminal;
use crate::state::{LoadingProgress, Stage};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use odmoe_convert::{Level, Preflight, Progress, ProgressReport};
use std::ops::ControlFlow;
use std::sync::{Mutex, PoisonError};

const BYTES_STYLE: &str =
    "{prefix:>9} [{bar:32}] {bytes}/{total_bytes} {bytes_per_sec}, {eta} left  {wide_msg}";
/// Lines are a tenth of the whole apart.
const LINES: u64 = 10;

fn bytes_bar(prefix: &'static str) -> ProgressBar {
    let style = ProgressStyle::with_template(BYTES_STYLE).expect("a fixed template");
    ProgressBar::new(0)
        .with_style(style.progress_chars("=> "))
        .with_prefix(prefix)
}

/// A conversion: two nested bars, the whole and the step, or lines.
pub struct ConversionReporter {
    bars: Option<(MultiProgress, ProgressBar, ProgressBar)>,
    told: Mutex<Told>,
}

#[derive(Default)]
struct Told {
    step: String,
    tenth: Option<u64>,
}

impl ConversionReporter {
    /// Bars at a terminal, lines elsewhere.
    pub fn new() -> Self {
        let bars = terminal::is_interactive().then(|| {
            let both = MultiProgress::new();
            let whole = both.add(bytes_bar("converting"));
            let step = both.add(bytes_bar("step"));
            (both, whole, step)
        });
        Self {
            bars,
            told: Mutex::default(),
        }
    }

    /// Takes the bars away.
    pub fn finish(&self) {
        if let Some((both, whole, step)) = &self.bars {
            whole.finish_and_clear();
            step.finish_and_clear();
            let _ = both.clear();
        }
    }

    fn line(&self, report: &ProgressReport<'_>) {
        let Level { done, total } = report.whole;
        let tenth = done.0.saturating_mul(LINES) / total.0.max(1);
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.tenth != Some(tenth) {
            told.tenth = Some(tenth);
            terminal::note(&format!(
                "{:3} % ({done} of {total}): {}",
                tenth * 100 / LINES,
                report.step
            ));
        }
    }
}

impl Progress for ConversionReporter {
    fn planned(&self, preflight: &Preflight) {
        let line = format!(
            "writing to {}: needs {}, {} are free",
            preflight.destination.display(),
            preflight.needed,
            preflight.free
        );
        match &self.bars {
            Some((both, ..)) => drop(both.println(line)),
            None => terminal::note(&line),
        }
    }

    fn report(&self, report: &ProgressReport<'_>) -> ControlFlow<()> {
        let Some((_, whole, step)) = &self.bars else {
            self.line(report);
            return ControlFlow::Continue(());
        };
        whole.set_length(report.whole.total.0);
        whole.set_position(report.whole.done.0);
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.step != report.step {
            report.step.clone_into(&mut told.step);
            step.reset();
            step.set_message(told.step.clone());
        }
        step.set_length(report.step_level.total.0);
        step.set_position(report.step_level.done.0);
        ControlFlow::Continue(())
    }
}

/// Opening a model: one bar, or a line a stage.
pub struct OpeningReporter {
    bar: Option<ProgressBar>,
    stage: Mutex<Option<(&'static str, u64)>>,
}

impl OpeningReporter {
    /// A bar at a terminal, lines elsewhere.
    pub fn new() -> Self {
        let style = ProgressStyle::with_template("[{bar:32}] {percent} %, {eta} left  {wide_msg}")
            .expect("a fixed template");
        let bar = || ProgressBar::new(1000).with_style(style.progress_chars("=> "));
        Self {
            bar: terminal::is_interactive().then(bar),
            stage: Mutex::default(),
        }
    }

    /// Shows it.
    pub fn show(&self, progress: &LoadingProgress) {
        if let Some(bar) = &self.bar {
            bar.set_position((progress.fraction * 1000.0) as u64);
            bar.set_message(progress.detail.clone());
            return;
        }
        let now = (
            progress.stage.name(),
            (progress.fraction * LINES as f64) as u64,
        );
        let mut stage = self.stage.lock().unwrap_or_else(PoisonError::into_inner);
        // Short stages pass without a word: only conversions are worth lines of their own.
        let is_news = *stage != Some(now);
        *stage = Some(now);
        if is_news && progress.stage == Stage::Converting {
            terminal::note(&format!(
                "{:3.0} %: {}",
                progress.fraction * 100.0,
                progress.detail
            ));
        }
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
