//! What the system says about memory: how much can be had, and how long tasks waited for it.
//!
//! Control groups of both versions count a page cache that can be dropped as used, so it is taken off. Version 1 and
//! kernels without PSI say nothing about waiting; then free memory alone decides.

use super::{Room, Sample};
use crate::model::control_groups::{self, Version, read_short};
use crate::model::memory_limit;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Reads samples. `root` is `/`, or a made-up tree in tests.
pub struct PressureSignals {
    root: PathBuf,
    /// When waiting was last read, and microseconds of it until then.
    waited: Option<(Instant, u64)>,
}

impl PressureSignals {
    /// Nothing is read yet.
    pub fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            waited: None,
        }
    }

    /// What is the case at `now`.
    pub fn sample(&mut self, now: Instant) -> Sample {
        let groups = control_groups::folders(&self.root, "memory");
        let rooms = groups
            .iter()
            .filter_map(|(version, folder)| group_room(folder, *version));
        let tightest = rooms
            .chain(machine_room(&self.root))
            .min_by_key(|room| room.free);
        let total = stalled_us(&self.root, &groups);
        let before = std::mem::replace(&mut self.waited, total.map(|total| (now, total)));
        let stalled = before.zip(total).map_or(0.0, |((then, before), total)| {
            let elapsed = now.saturating_duration_since(then).as_micros().max(1);
            total.saturating_sub(before) as f64 / elapsed as f64
        });
        Sample { tightest, stalled }
    }
}

/// What a limited group has left.
fn group_room(folder: &Path, version: Version) -> Option<Room> {
    let limits = memory_limit::folder_limits(folder, version);
    let limit = limits.iter().map(|limit| limit.bytes.0).min()?;
    let (usage, cached) = match version {
        Version::V2 => ("memory.current", ["active_file", "inactive_file"]),
        Version::V1 => (
            "memory.usage_in_bytes",
            ["total_active_file", "total_inactive_file"],
        ),
    };
    let usage: u64 = read_short(&folder.join(usage))?.trim().parse().ok()?;
    let stat = read_short(&folder.join("memory.stat")).unwrap_or_default();
    let cached: u64 = cached.iter().filter_map(|name| field(&stat, name)).sum();
    let free = limit.saturating_sub(usage.saturating_sub(cached));
    Some(Room { limit, free })
}

fn machine_room(root: &Path) -> Option<Room> {
    let text = read_short(&root.join("proc/meminfo"))?;
    let bytes = |name: &str| field(&text, name)?.checked_mul(1024);
    Some(Room {
        limit: bytes("MemTotal:")?,
        free: bytes("MemAvailable:")?,
    })
}

/// The number after a name at a line's start.
fn field(text: &str, name: &str) -> Option<u64> {
    let mut lines = text.lines().map(str::split_ascii_whitespace);
    lines.find_map(|mut words| (words.next()? == name).then(|| words.next()?.parse().ok())?)
}

/// Microseconds that some task waited for memory: in the innermost group, or anywhere.
fn stalled_us(root: &Path, groups: &[(Version, PathBuf)]) -> Option<u64> {
    let v2 = groups.iter().filter(|(version, _)| *version == Version::V2);
    let files = v2.map(|(_, folder)| folder.join("memory.pressure"));
    let text = files
        .chain([root.join("proc/pressure/memory")])
        .find_map(|file| read_short(&file))?;
    let some = text.lines().find_map(|line| line.strip_prefix("some "))?;
    let total = some.split(' ').find_map(|word| word.strip_prefix("total="));
    total?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const MIB: u64 = 1 << 20;
    const MEMINFO: &str = "MemTotal: 8192000 kB\nMemAvailable: 4096000 kB\n";

    fn tree(files: &[(&str, String)]) -> tempfile::TempDir {
        let tree = tempfile::tempdir().unwrap();
        write(&tree, files);
        tree
    }

    fn write(tree: &tempfile::TempDir, files: &[(&str, String)]) {
        for (path, text) in files {
            let path = tree.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
    }

    fn psi(total: u64) -> String {
        format!(
            "some avg10=0.00 avg60=0.00 avg300=0.00 total={total}\n\
             full avg10=0.00 avg60=0.00 avg300=0.00 total=1\n"
        )
    }

    #[test]
    fn the_tightest_group_counts_without_its_page_cache() {
        let mount = "30 24 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        let group = "sys/fs/cgroup/a/b";
        let tree = tree(&[
            ("proc/meminfo", MEMINFO.into()),
            ("proc/self/cgroup", "0::/a/b\n".into()),
            ("proc/self/mountinfo", mount.into()),
            ("sys/fs/cgroup/a/b/memory.max", format!("{}\n", 512 * MIB)),
            (
                "sys/fs/cgroup/a/b/memory.current",
                format!("{}\n", 500 * MIB),
            ),
            (
                "sys/fs/cgroup/a/b/memory.stat",
                format!(
                    "anon 1\nactive_file {}\ninactive_file {}\n",
                    8 * MIB,
                    92 * MIB
                ),
            ),
            ("sys/fs/cgroup/a/b/memory.pressure", psi(1_000_000)),
            ("sys/fs/cgroup/a/memory.max", "max\n".into()),
            ("sys/fs/cgroup/a/memory.current", "1\n".into()),
        ]);
        let mut signals = PressureSignals::new(tree.path());
        let begin = Instant::now();
        let sample = signals.sample(begin);
        let room = Room {
            limit: 512 * MIB,
            free: 112 * MIB,
        };
        assert_eq!((sample.tightest, sample.stalled), (Some(room), 0.0));
        let later = [(&*format!("{group}/memory.pressure"), psi(1_500_000))];
        write(&tree, &later.map(|(path, text)| (path, text)));
        let sample = signals.sample(begin + Duration::from_secs(1));
        assert_eq!(sample.stalled, 0.5);
    }

    #[test]
    fn version_1_says_what_is_used() {
        let mount = "31 30 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";
        let tree = tree(&[
            ("proc/meminfo", MEMINFO.into()),
            ("proc/self/cgroup", "4:memory:/job\n".into()),
            ("proc/self/mountinfo", mount.into()),
            (
                "sys/fs/cgroup/memory/job/memory.limit_in_bytes",
                format!("{}\n", 300 * MIB),
            ),
            (
                "sys/fs/cgroup/memory/job/memory.usage_in_bytes",
                format!("{}\n", 290 * MIB),
            ),
            (
                "sys/fs/cgroup/memory/job/memory.stat",
                format!("total_active_file {}\ntotal_inactive_file 0\n", 20 * MIB),
            ),
        ]);
        let room = PressureSignals::new(tree.path()).sample(Instant::now());
        let expected = Room {
            limit: 300 * MIB,
            free: 30 * MIB,
        };
        assert_eq!(room.tightest, Some(expected));
    }

    #[test]
    fn without_groups_the_machine_counts_and_nothing_is_no_pressure() {
        let machine = tree(&[
            ("proc/meminfo", MEMINFO.into()),
            ("proc/pressure/memory", psi(7)),
        ]);
        let sample = PressureSignals::new(machine.path()).sample(Instant::now());
        let room = Room {
            limit: 8_192_000 << 10,
            free: 4_096_000 << 10,
        };
        assert_eq!(sample.tightest, Some(room));
        let nothing = tree(&[("proc/pressure/memory", "some total=x\n".into())]);
        let sample = PressureSignals::new(nothing.path()).sample(Instant::now());
        assert_eq!(sample, Sample::default());
    }
}
