//! What a measurement was made on.

use std::path::Path;

/// The commit that this binary was built from, `unknown` outside a checkout.
pub fn commit() -> &'static str {
    option_env!("ODMOE_COMMIT").unwrap_or("unknown")
}

/// Processor, how many, and the system.
pub fn describe(root: &Path) -> String {
    let info = std::fs::read_to_string(root.join("proc/cpuinfo")).unwrap_or_default();
    let model = info.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        (name.trim() == "model name").then(|| value.trim().to_owned())
    });
    let processors = std::thread::available_parallelism().map_or(1, |n| n.get());
    let model = model.unwrap_or_else(|| std::env::consts::ARCH.to_owned());
    format!("{model}, {processors} processors, {}", std::env::consts::OS)
}

/// The most memory that this process ever had resident; None where the system does not say.
pub fn peak_rss_bytes(root: &Path) -> Option<u64> {
    let status = std::fs::read_to_string(root.join("proc/self/status")).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim()
        .strip_suffix("kB")?
        .trim()
        .parse::<u64>()
        .ok()?
        .checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peak_is_read_in_kibibytes() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("proc/self")).unwrap();
        let status = root.path().join("proc/self/status");
        std::fs::write(
            &status,
            "Name:\todmoe\nVmHWM:\t    2048 kB\nVmRSS:\t 1 kB\n",
        )
        .unwrap();
        assert_eq!(peak_rss_bytes(root.path()), Some(2 << 20));
        std::fs::write(&status, "VmHWM: lots\n").unwrap();
        assert_eq!(peak_rss_bytes(root.path()), None);
    }
}
