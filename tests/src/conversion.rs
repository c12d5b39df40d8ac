//! `odmoe convert` as a process: started, watched, killed; and what it leaves in its folder.

use crate::binary::odmoe_binary;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::NamedTempFile;

const LIMIT: Duration = Duration::from_secs(120);

/// A conversion that runs.
pub struct Conversion {
    child: Child,
    log: NamedTempFile,
}

impl Conversion {
    /// Starts one.
    #[track_caller]
    pub fn start(source: &Path, store: &Path) -> Self {
        Self::start_as(Command::new(odmoe_binary()), source, store)
    }

    /// Starts one by a command that takes the binary's arguments.
    #[track_caller]
    pub fn start_as(mut command: Command, source: &Path, store: &Path) -> Self {
        command.arg("convert").arg(source).arg(store);
        let log = NamedTempFile::new().expect("a writable folder");
        command.stderr(log.reopen().expect("a file"));
        let child = command.stdout(Stdio::null()).spawn();
        Self {
            child: child.expect("the binary starts"),
            log,
        }
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it has said on standard error so far.
    pub fn said(&self) -> String {
        fs::read_to_string(self.log.path()).unwrap_or_default()
    }

    /// Waits until `reached`, asked again and again, or until it ends. Whether it still ran then.
    #[track_caller]
    pub fn run_until(&mut self, mut reached: impl FnMut(&Self) -> bool) -> bool {
        let start = Instant::now();
        loop {
            if self.child.try_wait().expect("a child").is_some() {
                return false;
            }
            if reached(self) {
                return true;
            }
            assert!(start.elapsed() < LIMIT, "it hangs: {}", self.said());
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    /// Kills it as `kill -9` does. Whether that was what ended it.
    #[track_caller]
    pub fn kill(mut self) -> bool {
        self.child.kill().expect("a child");
        let status = self.child.wait().expect("a child");
        status.code().is_none()
    }

    /// Waits for its end. What it said: `Ok` where it succeeded.
    #[track_caller]
    pub fn finish(mut self) -> Result<String, String> {
        self.run_until(|_| false);
        let status = self.child.wait().expect("a child");
        match status.success() {
            true => Ok(self.said()),
            false => Err(self.said()),
        }
    }
}

/// Every file below a folder, by its path from there. A file that goes away meanwhile is left out.
pub fn files_below(folder: &Path) -> BTreeMap<PathBuf, fs::Metadata> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(next) = folders.pop() {
        let entries = fs::read_dir(&next).into_iter().flatten();
        for entry in entries.filter_map(Result::ok) {
            let Ok(metadata) = entry.metadata() else {
                continue;
            };
            if metadata.is_dir() {
                folders.push(entry.path());
            } else {
                let path = entry.path();
                let relative = path.strip_prefix(folder).expect("below the folder");
                found.insert(relative.to_path_buf(), metadata);
            }
        }
    }
    found
}

/// Panics unless two folders have the same files with the same bytes.
#[track_caller]
pub fn assert_same_files(folder: &Path, expected: &Path, context: &str) {
    let names = |folder| files_below(folder).into_keys().collect::<Vec<_>>();
    assert_eq!(names(folder), names(expected), "{context}");
    for name in names(expected) {
        let read = |folder: &Path| fs::read(folder.join(&name)).expect("a file");
        let same = read(folder) == read(expected);
        assert!(same, "{context}: {} differs", name.display());
    }
}

/// The experts' files that a conversion's journal records, each with its inode and its time of last change.
pub fn recorded_experts(store: &Path) -> BTreeMap<PathBuf, (u64, i64, i64)> {
    let journal = fs::read_to_string(store.join(".odmoe-incomplete")).unwrap_or_default();
    let name = |line: &str| {
        let record: Value = serde_json::from_str(line.split_once(' ')?.1).ok()?;
        let name = record["part"]["name"].as_str()?;
        name.starts_with("experts/").then(|| PathBuf::from(name))
    };
    let signs = |name: PathBuf| {
        let found = fs::metadata(store.join(&name)).expect("a recorded file is there");
        (name, (found.ino(), found.mtime(), found.mtime_nsec()))
    };
    journal.lines().filter_map(name).map(signs).collect()
}
