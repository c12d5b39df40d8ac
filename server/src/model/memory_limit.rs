//! How much memory this process may use: the least of what the machine has to give, what its control groups allow
//! and what it was told.

use crate::model::control_groups::{self, Version, read_short};
use odmoe_formats::ByteCount;
use std::fmt;
use std::path::{Path, PathBuf};

/// A limit and where it comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryLimit {
    /// The process's memory may not go beyond this.
    pub bytes: ByteCount,
    /// Who says so.
    pub source: LimitSource,
}

/// Who limits memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LimitSource {
    /// What the machine can give without swapping.
    Machine,
    /// A control group, by the file that says so.
    ControlGroup(PathBuf),
    /// `--memory-limit`.
    Flag,
}

impl fmt::Display for LimitSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Machine => f.write_str("memory that the machine has available"),
            Self::ControlGroup(file) => write!(f, "control group, {}", file.display()),
            Self::Flag => f.write_str("--memory-limit"),
        }
    }
}

/// The least of all limits. `root` is `/`, or a made-up tree in tests; `flag` is `--memory-limit`. None where nothing
/// can be found out and nothing was said.
pub fn detect(root: &Path, flag: Option<ByteCount>) -> Option<MemoryLimit> {
    let flag = flag.map(|bytes| MemoryLimit {
        bytes,
        source: LimitSource::Flag,
    });
    let machine = machine_bytes(root).map(|bytes| MemoryLimit {
        bytes: ByteCount(bytes),
        source: LimitSource::Machine,
    });
    let groups = control_group_limits(root);
    // The first of equal limits: what was said explicitly.
    flag.into_iter()
        .chain(groups)
        .chain(machine)
        .min_by_key(|limit| limit.bytes.0)
}

/// The limit as it is now, for a process that has its memory: groups are asked again, for their limits change; what the
/// machine had to give at the start is what it has, and a flag stays.
pub fn again(root: &Path, at_start: Option<&MemoryLimit>) -> Option<MemoryLimit> {
    let fixed = at_start.filter(|limit| !matches!(limit.source, LimitSource::ControlGroup(_)));
    let machine = || {
        let total = read_short(&root.join("proc/meminfo"));
        let bytes = total.and_then(|text| meminfo_field(&text, "MemTotal"))?;
        Some(MemoryLimit {
            bytes: ByteCount(bytes),
            source: LimitSource::Machine,
        })
    };
    let fixed = fixed.cloned().or_else(machine);
    let groups = control_group_limits(root);
    groups
        .into_iter()
        .chain(fixed)
        .min_by_key(|limit| limit.bytes.0)
}

fn machine_bytes(root: &Path) -> Option<u64> {
    if let Some(text) = read_short(&root.join("proc/meminfo")) {
        return meminfo_bytes(&text);
    }
    if cfg!(target_os = "macos") && root == Path::new("/") {
        let output = std::process::Command::new("/usr/sbin/sysctl")
            .args(["-n", "hw.memsize"])
            .output()
            .ok()?;
        return String::from_utf8_lossy(&output.stdout).trim().parse().ok();
    }
    None
}

/// `MemAvailable`, or `MemTotal` of kernels that do not say it.
fn meminfo_bytes(text: &str) -> Option<u64> {
    meminfo_field(text, "MemAvailable").or_else(|| meminfo_field(text, "MemTotal"))
}

fn meminfo_field(text: &str, name: &str) -> Option<u64> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

/// The limits of all groups that this process is in, innermost first.
fn control_group_limits(root: &Path) -> Vec<MemoryLimit> {
    let folders = control_groups::folders(root, "memory").into_iter();
    folders
        .flat_map(|(version, folder)| folder_limits(&folder, version))
        .collect()
}

pub(super) fn folder_limits(folder: &Path, version: Version) -> Vec<MemoryLimit> {
    let whole = |name: &str| {
        let file = folder.join(name);
        let bytes: u64 = read_short(&file)?.trim().parse().ok()?;
        Some((file, bytes))
    };
    let found: Vec<(PathBuf, u64)> = match version {
        // Beyond `high` the kernel slows the group down to a crawl: for a cache that is as good as a limit.
        Version::V2 => ["memory.max", "memory.high"]
            .into_iter()
            .filter_map(whole)
            .collect(),
        Version::V1 => {
            let file = folder.join("memory.stat");
            let above = read_short(&file).and_then(|text| {
                let line = text
                    .lines()
                    .find_map(|l| l.strip_prefix("hierarchical_memory_limit "))?;
                line.trim().parse().ok()
            });
            let above = above.map(|bytes| (file, bytes));
            whole("memory.limit_in_bytes")
                .into_iter()
                .chain(above)
                .collect()
        }
    };
    // v1 says "no limit" by a number near 2^63.
    let real = found.into_iter().filter(|(_, bytes)| *bytes < 1 << 60);
    real.map(|(file, bytes)| MemoryLimit {
        bytes: ByteCount(bytes),
        source: LimitSource::ControlGroup(file),
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const V2_MOUNT: &str =
        "30 24 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n";

    struct Tree(tempfile::TempDir);

    impl Tree {
        fn new(files: &[(&str, &str)]) -> Self {
            let tree = Self(tempfile::tempdir().unwrap());
            for (path, text) in files {
                let path = tree.0.path().join(path);
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, text).unwrap();
            }
            tree
        }

        /// MiB, and the file relative to the tree.
        fn found(&self) -> Option<(u64, String)> {
            let limit = detect(self.0.path(), None)?;
            let source = match &limit.source {
                LimitSource::ControlGroup(file) => file
                    .strip_prefix(self.0.path())
                    .unwrap()
                    .to_str()
                    .unwrap()
                    .to_owned(),
                other => format!("{other:?}"),
            };
            Some((limit.bytes.0 / MIB, source))
        }
    }

    #[track_caller]
    fn check(files: &[(&str, &str)], mib: u64, source: &str) {
        assert_eq!(Tree::new(files).found(), Some((mib, source.to_owned())));
    }

    const MEMINFO: (&str, &str) = (
        "proc/meminfo",
        "MemTotal:  8192000 kB\nMemFree: 1 kB\nMemAvailable:    4096000 kB\n",
    );

    #[test]
    fn a_machine_without_groups_gives_what_is_available() {
        check(&[MEMINFO], 4000, "Machine");
        check(
            &[("proc/meminfo", "MemTotal:        2048 kB\n")],
            2,
            "Machine",
        );
        assert_eq!(Tree::new(&[]).found(), None);
        assert_eq!(
            Tree::new(&[("proc/meminfo", "MemTotal: many kB\n")]).found(),
            None
        );
    }

    #[test]
    fn v2_takes_the_least_over_all_ancestors() {
        let files = [
            MEMINFO,
            ("proc/self/cgroup", "0::/system.slice/odmoe.service/inner\n"),
            ("proc/self/mountinfo", V2_MOUNT),
            (
                "sys/fs/cgroup/system.slice/odmoe.service/inner/memory.max",
                "max\n",
            ),
            (
                "sys/fs/cgroup/system.slice/odmoe.service/memory.max",
                "1073741824\n",
            ),
            ("sys/fs/cgroup/system.slice/memory.max", "536870912\n"),
        ];
        check(&files, 512, "sys/fs/cgroup/system.slice/memory.max");
        let high = [
            &files[..],
            &[("sys/fs/cgroup/system.slice/memory.high", "268435456\n")],
        ]
        .concat();
        check(&high, 256, "sys/fs/cgroup/system.slice/memory.high");
    }

    #[test]
    fn v1_reads_the_memory_controller_and_what_holds_above_the_mount() {
        let files = [
            MEMINFO,
            (
                "proc/self/cgroup",
                "5:cpu,cpuacct:/other\n4:hugetlb,memory:/docker/abc\n0::/\n",
            ),
            (
                "proc/self/mountinfo",
                "31 30 0:27 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,hugetlb,memory\n\
                 32 30 0:28 / /sys/fs/cgroup/cpu ro - cgroup cgroup rw,cpu,cpuacct\n",
            ),
            (
                "sys/fs/cgroup/memory/memory.limit_in_bytes",
                "9223372036854771712\n",
            ),
            (
                "sys/fs/cgroup/memory/memory.stat",
                "cache 1\nhierarchical_memory_limit 314572800\n",
            ),
            ("sys/fs/cgroup/cpu/memory.limit_in_bytes", "1048576\n"),
        ];
        check(&files, 300, "sys/fs/cgroup/memory/memory.stat");
    }

    #[test]
    fn a_hybrid_system_is_asked_in_both_trees() {
        let mounts = "31 30 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                      32 30 0:28 / /sys/fs/cgroup/unified rw shared:9 - cgroup2 cgroup2 rw\n";
        let files = [
            MEMINFO,
            ("proc/self/cgroup", "4:memory:/jobs/one\n0::/user/one\n"),
            ("proc/self/mountinfo", mounts),
            (
                "sys/fs/cgroup/memory/jobs/memory.limit_in_bytes",
                "734003200\n",
            ),
            ("sys/fs/cgroup/unified/user/memory.max", "838860800\n"),
        ];
        check(
            &files,
            700,
            "sys/fs/cgroup/memory/jobs/memory.limit_in_bytes",
        );
    }

    #[test]
    fn a_group_outside_the_mounted_part_is_read_at_the_mount_point() {
        for path in ["/kubepods/pod/other", "/../../elsewhere"] {
            let membership = format!("0::{path}\n");
            let files = [
                MEMINFO,
                ("proc/self/cgroup", membership.as_str()),
                (
                    "proc/self/mountinfo",
                    "30 24 0:26 /kubepods/pod/me /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
                ),
                ("sys/fs/cgroup/memory.max", "104857600\n"),
            ];
            check(&files, 100, "sys/fs/cgroup/memory.max");
        }
    }

    #[test]
    fn mount_points_with_spaces_and_garbage_are_survived() {
        let files = [
            MEMINFO,
            (
                "proc/self/cgroup",
                "nonsense\n:::\n0::/a\n\u{fffd}:memory\n",
            ),
            (
                "proc/self/mountinfo",
                "x - cgroup2\n - \n30 24 0:26 / /my\\040groups\\ rw - cgroup2 c rw\n",
            ),
            ("my groups\\/a/memory.max", "10485760\n"),
            ("my groups\\/memory.max", "twelve\n"),
        ];
        check(&files, 10, "my groups\\/a/memory.max");
    }

    #[test]
    fn a_group_is_asked_again_and_a_flag_stays() {
        let tree = Tree::new(&[
            MEMINFO,
            ("proc/self/cgroup", "0::/a\n"),
            ("proc/self/mountinfo", V2_MOUNT),
            ("sys/fs/cgroup/a/memory.max", "1073741824\n"),
        ]);
        let root = tree.0.path();
        let at_start = detect(root, None).unwrap();
        let flag = detect(root, Some(ByteCount(300 * MIB))).unwrap();
        let now = |at_start| again(root, Some(at_start)).unwrap().bytes.0 / MIB;
        assert_eq!((now(&at_start), now(&flag)), (1024, 300));
        std::fs::write(root.join("sys/fs/cgroup/a/memory.max"), "209715200\n").unwrap();
        assert_eq!((now(&at_start), now(&flag)), (200, 200));
        std::fs::write(root.join("sys/fs/cgroup/a/memory.max"), "max\n").unwrap();
        assert_eq!((now(&at_start), now(&flag)), (8000, 300));
    }

    #[test]
    fn the_flag_wins_only_where_it_is_the_least() {
        let tree = Tree::new(&[MEMINFO]);
        let with = |mib: u64| detect(tree.0.path(), Some(ByteCount(mib * MIB))).unwrap();
        assert_eq!(with(100).source, LimitSource::Flag);
        assert_eq!(with(1 << 40 >> 20).source, LimitSource::Machine);
    }
}
