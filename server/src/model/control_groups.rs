//! The control groups that this process is in, by the folders in which their limits are written.
//!
//! Control groups limit along a path: every ancestor's limit holds. A process is in one v2 group and, on hybrid
//! systems, in a v1 group of each controller besides; inside a container the path in `/proc/self/cgroup` may be relative
//! to the host's tree while the mount shows only a part of it.

use std::io::Read;
use std::path::{Path, PathBuf};

/// The folders of all groups of a controller that this process is in, of each tree the innermost first. `root` is `/`,
/// or a made-up tree in tests.
pub fn folders(root: &Path, controller: &str) -> Vec<(Version, PathBuf)> {
    let memberships = read_short(&root.join("proc/self/cgroup")).unwrap_or_default();
    let mounts = read_short(&root.join("proc/self/mountinfo")).unwrap_or_default();
    let mounts: Vec<Mount> = mounts
        .lines()
        .filter_map(|line| Mount::parse(line, controller))
        .collect();
    let memberships = memberships
        .lines()
        .filter_map(|line| Membership::parse(line, controller));
    let mut folders = Vec::new();
    for membership in memberships {
        let shown = mounts
            .iter()
            .filter(|mount| mount.version == membership.version);
        for folder in shown.flat_map(|mount| mount.folders(&membership.path)) {
            let folder = root.join(folder.strip_prefix("/").unwrap_or(&folder));
            folders.push((membership.version, folder));
        }
    }
    folders
}

/// Which of the two hierarchies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// One for each controller, or some of them.
    V1,
    /// One for all.
    V2,
}

/// A line of `/proc/self/cgroup` that bears on the controller.
struct Membership {
    version: Version,
    path: PathBuf,
}

impl Membership {
    /// `0::/path`, or `4:cpu,cpuacct:/path` for v1.
    fn parse(line: &str, controller: &str) -> Option<Self> {
        let (hierarchy, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        let version = match (hierarchy, controllers) {
            ("0", "") => Version::V2,
            _ if controllers.split(',').any(|c| c == controller) => Version::V1,
            _ => return None,
        };
        Some(Self {
            version,
            path: PathBuf::from(path),
        })
    }
}

/// Where a part of a hierarchy can be seen.
struct Mount {
    version: Version,
    /// The group that is seen at the mount point.
    group: PathBuf,
    point: PathBuf,
}

impl Mount {
    /// A line of `/proc/self/mountinfo`: `id parent dev group point options [tags...] - type source options`.
    fn parse(line: &str, controller: &str) -> Option<Self> {
        let (before, after) = line.split_once(" - ")?;
        let mut after = after.split(' ');
        let version = match after.next()? {
            "cgroup2" => Version::V2,
            "cgroup" if after.nth(1)?.split(',').any(|c| c == controller) => Version::V1,
            _ => return None,
        };
        let mut before = before.split(' ').skip(3);
        let group = unescape(before.next()?);
        let point = unescape(before.next()?);
        Some(Self {
            version,
            group,
            point,
        })
    }

    /// The folder of a group and those of its ancestors, as far as this mount shows them.
    fn folders(&self, group: &Path) -> Vec<PathBuf> {
        // A group outside the mounted part (a container that sees only its own tree): the mount point is the closest.
        let below = group.strip_prefix(&self.group).unwrap_or(Path::new(""));
        let leaves = below
            .components()
            .any(|part| part == std::path::Component::ParentDir);
        let below = if leaves { Path::new("") } else { below };
        below
            .ancestors()
            .map(|part| self.point.join(part))
            .collect()
    }
}

/// Mount points spell space, tab, newline and backslash as three octal digits.
fn unescape(field: &str) -> PathBuf {
    let mut text = String::with_capacity(field.len());
    let mut rest = field;
    while let Some(at) = rest.find('\\') {
        text.push_str(&rest[..at]);
        let code = rest
            .get(at + 1..at + 4)
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code.filter(u8::is_ascii) {
            Some(code) => {
                text.push(char::from(code));
                rest = &rest[at + 4..];
            }
            None => {
                text.push('\\');
                rest = &rest[at + 1..];
            }
        }
    }
    text.push_str(rest);
    PathBuf::from(text)
}

/// A small file's text; None where it cannot be read.
pub fn read_short(path: &Path) -> Option<String> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .ok()?
        .take(1 << 20)
        .read_to_end(&mut bytes)
        .ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}
