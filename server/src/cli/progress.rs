//! Progress on standard error: bars for people at a terminal, now and then a line elsewhere.

use crate::cli::terminal;
use crate::state::{LoadingProgress, Stage};
use indicatif::{HumanDuration, MultiProgress, ProgressBar, ProgressStyle};
use odmoe_convert::{Earlier, Level, Preflight, Progress, ProgressReport};
use std::ops::ControlFlow;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

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
    /// The first report.
    start: Option<Instant>,
}

/// One line of what bars would show.
fn progress_line(report: &ProgressReport<'_>, elapsed: Duration) -> String {
    let Level { done, total } = report.whole;
    let percent = u128::from(done.0) * 100 / u128::from(total.0.max(1));
    let left = time_left(report.whole, elapsed)
        .map(|left| format!(", {:#} left", HumanDuration(left)))
        .unwrap_or_default();
    let (step, of_step) = (report.step, report.step_level);
    format!(
        "{percent:3} % ({done} of {total}{left}): {step}, {} of {}",
        of_step.done, of_step.total
    )
}

/// What remains at the average speed so far. None before the first byte.
fn time_left(level: Level, elapsed: Duration) -> Option<Duration> {
    let Level { done, total } = level;
    let remaining = total.0.saturating_sub(done.0) as f64;
    let left = (done.0 > 0).then(|| elapsed.as_secs_f64() * (remaining / done.0 as f64))?;
    Some(Duration::try_from_secs_f64(left).unwrap_or(Duration::MAX))
}

impl ConversionReporter {
    /// Bars at a terminal, lines elsewhere.
    pub fn new() -> Self {
        Self::of("converting")
    }

    /// The same for other work that writes a model, under its own name.
    pub fn of(work: &'static str) -> Self {
        let bars = terminal::is_interactive().then(|| {
            let both = MultiProgress::new();
            let whole = both.add(bytes_bar(work));
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

    /// A line above the bars.
    fn say(&self, line: &str) {
        match &self.bars {
            Some((both, ..)) => drop(both.println(line)),
            None => terminal::note(line),
        }
    }

    fn line(&self, report: &ProgressReport<'_>) {
        let Level { done, total } = report.whole;
        let tenth = done.0.saturating_mul(LINES) / total.0.max(1);
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if total.0 == 0 {
            // Waiting for another process: said once, and no part of this one's speed.
            if told.step != report.step {
                report.step.clone_into(&mut told.step);
                terminal::note(report.step);
            }
            return;
        }
        let elapsed = told.start.get_or_insert_with(Instant::now).elapsed();
        if told.tenth != Some(tenth) {
            told.tenth = Some(tenth);
            terminal::note(&progress_line(report, elapsed));
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
        self.say(&line);
    }

    fn earlier(&self, earlier: &Earlier) {
        self.say(&match earlier {
            Earlier::Resumed { already_there } => {
                format!("going on with a stopped conversion: {already_there} are there already")
            }
            Earlier::StartedOver { reason } => {
                format!("there is a stopped conversion, but {reason}: starting over")
            }
        });
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

/// Opening a model: a conversion as [`ConversionReporter`] shows it, then one bar at a terminal. Elsewhere nothing more:
/// what comes after a conversion is short.
pub struct OpeningReporter {
    conversion: ConversionReporter,
    bar: Option<ProgressBar>,
}

impl OpeningReporter {
    /// A bar at a terminal.
    pub fn new() -> Self {
        let style = ProgressStyle::with_template("[{bar:32}] {percent} %, {eta} left  {wide_msg}")
            .expect("a fixed template");
        let bar = || ProgressBar::new(1000).with_style(style.progress_chars("=> "));
        Self {
            conversion: ConversionReporter::new(),
            bar: terminal::is_interactive().then(bar),
        }
    }

    /// Who is told of a conversion.
    pub fn conversion(&self) -> &ConversionReporter {
        &self.conversion
    }

    /// Shows it.
    pub fn show(&self, progress: &LoadingProgress) {
        if progress.stage == Stage::Converting {
            return;
        }
        self.conversion.finish();
        if let Some(bar) = &self.bar {
            bar.set_position((progress.fraction * 1000.0) as u64);
            bar.set_message(progress.detail.clone());
        }
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        self.conversion.finish();
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use odmoe_formats::ByteCount;

    fn level(done: u64, total: u64) -> Level {
        Level {
            done: ByteCount(done),
            total: ByteCount(total),
        }
    }

    #[test]
    fn a_line_tells_the_whole_the_step_and_the_time_left() {
        let report = ProgressReport {
            whole: level(1 << 20, 4 << 20),
            step: "experts of layer 2",
            step_level: level(1 << 10, 2 << 10),
        };
        assert_eq!(
            progress_line(&report, Duration::from_secs(40)),
            " 25 % (1.0 MiB of 4.0 MiB, 2m left): experts of layer 2, 1.0 KiB of 2.0 KiB"
        );
    }

    #[test]
    fn the_time_left_is_unknown_at_the_start_and_nothing_at_the_end() {
        let elapsed = Duration::from_secs(8);
        assert_eq!(time_left(level(0, 9), elapsed), None);
        assert_eq!(time_left(level(9, 9), elapsed), Some(Duration::ZERO));
        assert_eq!(
            time_left(level(4, 5), elapsed),
            Some(Duration::from_secs(2))
        );
        assert!(time_left(level(1, u64::MAX), Duration::MAX).is_some());
    }
}
