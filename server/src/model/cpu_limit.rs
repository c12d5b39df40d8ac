//! How many processors this process may use: what its affinity mask holds, and no more than the CPU quota of its control
//! groups.
//!
//! The standard library's `available_parallelism` reads the mask, and quotas where the v2 hierarchy is mounted in its
//! usual place or a v1 hierarchy holds the controller. Hybrid systems that keep the controller in a v2 hierarchy mounted
//! elsewhere escape it; threads beyond a quota do not compute faster but are all stopped together when it is used up.

use crate::model::control_groups::{self, Version, read_short};
use std::path::Path;

/// Processors for threads that compute, at least one. `root` is `/`.
pub fn processors(root: &Path) -> usize {
    let available = std::thread::available_parallelism().map_or(1, |count| count.get());
    within_quota(root, available)
}

/// The least of what is available and of all quotas, whole processors, at least one.
fn within_quota(root: &Path, available: usize) -> usize {
    let folders = control_groups::folders(root, "cpu").into_iter();
    let quotas = folders.filter_map(|(version, folder)| quota(&folder, version));
    quotas.fold(available, usize::min).max(1)
}

/// The whole processors of one group; None where it has no limit.
fn quota(folder: &Path, version: Version) -> Option<usize> {
    let number = |name: &str| read_short(&folder.join(name))?.trim().parse().ok();
    // Microseconds of computing in a period: `max` or -1 for as much as there is.
    let (quota, period): (u64, u64) = match version {
        Version::V2 => {
            let text = read_short(&folder.join("cpu.max"))?;
            let (quota, period) = text.trim().split_once(' ')?;
            (quota.parse().ok()?, period.parse().ok()?)
        }
        Version::V1 => (number("cpu.cfs_quota_us")?, number("cpu.cfs_period_us")?),
    };
    usize::try_from(quota.checked_div(period)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const V2_MOUNT: &str = "30 24 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";

    #[track_caller]
    fn check(files: &[(&str, &str)], available: usize, expected: usize) {
        let tree = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = tree.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        assert_eq!(within_quota(tree.path(), available), expected, "{files:?}");
    }

    #[test]
    fn without_groups_all_that_is_available() {
        check(&[], 7, 7);
        check(&[("proc/self/cgroup", "0::/\n")], 7, 7);
    }

    #[test]
    fn v2_takes_the_least_over_all_ancestors_in_whole_processors() {
        let group = ("proc/self/cgroup", "0::/pod/one\n");
        let mounts = ("proc/self/mountinfo", V2_MOUNT);
        for (outer, inner, expected) in [
            ("max 100000\n", "max 100000\n", 8),
            ("max 100000\n", "300000 100000\n", 3),
            ("250000 100000\n", "600000 100000\n", 2),
            ("1600000 100000\n", "max 100000\n", 8),
            ("50000 100000\n", "max 100000\n", 1),
            ("100000 0\n", "many\n", 8),
        ] {
            let files = [
                group,
                mounts,
                ("sys/fs/cgroup/pod/cpu.max", outer),
                ("sys/fs/cgroup/pod/one/cpu.max", inner),
            ];
            check(&files, 8, expected);
        }
    }

    #[test]
    fn v1_reads_the_cpu_controller_alone() {
        let files = |quota: &'static str| {
            [
                (
                    "proc/self/cgroup",
                    "5:cpu,cpuacct:/docker/abc\n4:memory:/m\n",
                ),
                (
                    "proc/self/mountinfo",
                    "31 30 0:27 /docker/abc /sys/fs/cgroup/cpu,cpuacct ro - cgroup cgroup rw,cpu,cpuacct\n",
                ),
                ("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", quota),
                ("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "50000\n"),
            ]
        };
        check(&files("-1\n"), 8, 8);
        check(&files("200000\n"), 8, 4);
        check(&files("20000\n"), 8, 1);
    }

    #[test]
    fn a_hybrid_system_may_keep_the_controller_in_either_tree() {
        let files = [
            ("proc/self/cgroup", "1:name=systemd:/\n0::/job\n"),
            (
                "proc/self/mountinfo",
                "32 30 0:28 / /sys/fs/cgroup/unified rw shared:9 - cgroup2 cgroup2 rw\n",
            ),
            ("sys/fs/cgroup/unified/job/cpu.max", "200000 100000\n"),
        ];
        check(&files, 16, 2);
    }
}
