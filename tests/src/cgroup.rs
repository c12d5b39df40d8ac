//! A memory cgroup of the running system, version 1 or 2. Needs root.

use std::path::{Path, PathBuf};

/// A cgroup with a memory limit. Dropping it removes it; its processes must have ended.
pub struct MemoryCgroup {
    folder: PathBuf,
    version: u8,
}

impl MemoryCgroup {
    /// Makes one, under whichever version holds the memory controller here. The error says what is missing.
    pub fn create(name: &str, limit_bytes: u64) -> Result<Self, String> {
        let (root, version) = controller()?;
        let folder = root.join(format!("odmoe-{name}-{}", std::process::id()));
        std::fs::create_dir(&folder)
            .map_err(|e| format!("{}: {e}; are you root?", folder.display()))?;
        let cgroup = Self { folder, version };
        let file = if version == 1 {
            "memory.limit_in_bytes"
        } else {
            "memory.max"
        };
        cgroup.write(file, &limit_bytes.to_string())?;
        // Without swap a limit means what it says; where there is no swap accounting there is nothing to turn off.
        let _ = match version {
            1 => cgroup.write("memory.swappiness", "0"),
            _ => cgroup.write("memory.swap.max", "0"),
        };
        Ok(cgroup)
    }

    /// A shell line that moves the process that runs it into the cgroup.
    pub fn join_line(&self) -> String {
        format!("echo $$ > {}/cgroup.procs", self.folder.display())
    }

    /// Processes that were killed because the limit was reached.
    pub fn kills(&self) -> u64 {
        let file = if self.version == 1 {
            "memory.oom_control"
        } else {
            "memory.events"
        };
        let text = std::fs::read_to_string(self.folder.join(file)).expect("the cgroup's events");
        let count = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        count
            .and_then(|count| count.trim().parse().ok())
            .expect("a count of kills")
    }

    fn write(&self, file: &str, value: &str) -> Result<(), String> {
        let path = self.folder.join(file);
        std::fs::write(&path, value).map_err(|e| format!("{}: {e}", path.display()))
    }
}

impl Drop for MemoryCgroup {
    fn drop(&mut self) {
        // The kernel lets go of the last process a moment after it has ended.
        for _ in 0..100 {
            if std::fs::remove_dir(&self.folder).is_ok() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        eprintln!("{}: could not be removed", self.folder.display());
    }
}

/// The root of the hierarchy with the memory controller, and its version.
fn controller() -> Result<(PathBuf, u8), String> {
    let mounts = std::fs::read_to_string("/proc/self/mounts")
        .map_err(|e| format!("/proc/self/mounts: {e}"))?;
    for line in mounts.lines() {
        let mut fields = line.split(' ').skip(1);
        let (Some(path), Some(kind), Some(options)) = (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        if kind == "cgroup" && options.split(',').any(|option| option == "memory") {
            return Ok((PathBuf::from(path), 1));
        }
        if kind == "cgroup2" && offers_memory(Path::new(path)) {
            return Ok((PathBuf::from(path), 2));
        }
    }
    Err("no memory controller: neither a cgroup v1 memory hierarchy nor a v2 one that passes `memory` on".into())
}

fn offers_memory(root: &Path) -> bool {
    let control = root.join("cgroup.subtree_control");
    // Asking for it again does no harm; where it cannot be had the file says so.
    let _ = std::fs::write(&control, "+memory");
    std::fs::read_to_string(control)
        .is_ok_and(|text| text.split_whitespace().any(|name| name == "memory"))
}
