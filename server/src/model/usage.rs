//! What a store remembers of its use, so that the next start loads the hottest experts first.
//!
//! Nothing here is needed to serve: a file that cannot be read or written is told once and left alone.

use odmoe_engine::{EngineHandle, ExpertReport};
use odmoe_formats::ExpertKey;
use odmoe_formats::usage::{USAGE_BYTES_MAX, USAGE_FILE, from_json, to_json};
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

/// Between two savings while experts are used.
const SAVE_INTERVAL: Duration = Duration::from_secs(60);
/// The engine answers between two steps; a stopping server waits no longer for it, nor for the disk.
const PATIENCE: Duration = Duration::from_secs(5);

/// Reads what a store remembers; empty where it remembers nothing.
pub fn read(folder: &Path) -> Vec<(ExpertKey, f64)> {
    let path = folder.join(USAGE_FILE);
    match try_read(&path) {
        Ok(heat) => heat,
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "no warm start; the file will be written anew");
            Vec::new()
        }
    }
}

fn try_read(path: &Path) -> Result<Vec<(ExpertKey, f64)>, Box<dyn std::error::Error>> {
    let file = match File::open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        file => file?,
    };
    let mut bytes = Vec::new();
    file.take(USAGE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > USAGE_BYTES_MAX {
        return Err(format!("more than {USAGE_BYTES_MAX} bytes").into());
    }
    Ok(from_json(&bytes)?)
}

/// Writes it, so that whoever reads sees the old file or the new one, whole.
fn write(folder: &Path, report: &ExpertReport) -> io::Result<()> {
    let heat = report
        .experts
        .iter()
        .map(|expert| (expert.key, expert.heat));
    let partial = folder.join(format!("{USAGE_FILE}.{}", std::process::id()));
    let written = File::create(&partial).and_then(|mut file| {
        file.write_all(&to_json(heat))?;
        file.sync_all()
    });
    let placed = written.and_then(|()| std::fs::rename(&partial, folder.join(USAGE_FILE)));
    if placed.is_err() {
        let _ = std::fs::remove_file(&partial);
    }
    placed
}

/// Saves what an engine's experts are used for, now and then and once more at the end.
pub struct UsageKeeper {
    stop: Sender<()>,
    stopped: Receiver<()>,
}

impl UsageKeeper {
    /// Begins; None where no thread can be started, which is no reason not to serve.
    pub fn start(folder: PathBuf, engine: EngineHandle) -> Option<Self> {
        let (stop, stops) = channel();
        let (end, stopped) = channel::<()>();
        let keeper = move || {
            let _end = end;
            keep(&folder, &engine, &stops);
        };
        let thread = std::thread::Builder::new().name("odmoe-usage".to_owned());
        thread.spawn(keeper).ok()?;
        Some(Self { stop, stopped })
    }

    /// Saves once more, while the engine still lives; waits a bounded time.
    pub fn finish(self) {
        let _ = self.stop.send(());
        if self.stopped.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
            tracing::warn!("the disk does not take what experts were used for; it is left");
        }
    }
}

fn keep(folder: &Path, engine: &EngineHandle, stops: &Receiver<()>) {
    let (mut saved_uses, mut failed) = (0, false);
    loop {
        let last = stops.recv_timeout(SAVE_INTERVAL) != Err(RecvTimeoutError::Timeout);
        let Some(report) = report(engine) else { return };
        let uses = report.experts.iter().map(|expert| expert.uses).sum();
        if uses != saved_uses {
            match write(folder, &report) {
                Ok(()) => saved_uses = uses,
                // A read-only store stays so: it is said once and tried again.
                Err(error) if !failed => {
                    failed = true;
                    tracing::info!(folder = %folder.display(), %error, "cannot keep what experts were used for; the next start will be cold");
                }
                Err(_) => {}
            }
        }
        if last {
            return;
        }
    }
}

fn report(engine: &EngineHandle) -> Option<ExpertReport> {
    let (sender, report) = channel();
    engine.report_experts(Box::new(move |report| drop(sender.send(report))));
    report.recv_timeout(PATIENCE).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use odmoe_expert_store::{ExpertUse, MissCounts};

    fn hot(index: u32, heat: f64) -> ExpertReport {
        let expert = ExpertUse {
            key: ExpertKey::routed(0, index),
            bytes: 1,
            uses: 1,
            hits: 0,
            misses: MissCounts::default(),
            heat,
            resident: false,
            kept: false,
        };
        ExpertReport {
            experts: vec![expert],
            layers: Vec::new(),
        }
    }

    #[test]
    fn what_was_kept_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        assert!(read(folder.path()).is_empty());
        for heat in [2.0, 3.5] {
            write(folder.path(), &hot(4, heat)).unwrap();
            assert_eq!(read(folder.path()), [(ExpertKey::routed(0, 4), heat)]);
        }
        let names: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
        assert_eq!(names.len(), 1, "nothing else is left behind: {names:?}");
    }

    #[test]
    fn a_damaged_file_is_as_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(USAGE_FILE);
        for bytes in [&b"{"[..], b"", b"\xff\xfe"] {
            std::fs::write(&path, bytes).unwrap();
            assert!(read(folder.path()).is_empty());
        }
        let long = File::create(&path).unwrap();
        long.set_len(USAGE_BYTES_MAX + 1).unwrap();
        assert!(read(folder.path()).is_empty());
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        assert!(read(folder.path()).is_empty());
        assert!(write(folder.path(), &hot(1, 1.0)).is_err());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
