//! The memory sum that a server prints at its start (promise P2).

/// The total in bytes: of the line that begins with `memory` (after what a log line begins with) and ends in
/// `= NUMBER UNIT`.
#[track_caller]
pub fn printed_total(log: &str) -> u64 {
    let total = log.lines().find_map(|line| {
        let at = line.to_lowercase().find("memory")?;
        let (_, total) = line[at..].rsplit_once("= ")?;
        bytes(total.trim())
    });
    total.unwrap_or_else(|| panic!("no memory sum in:\n{log}"))
}

/// `1.5 MiB` in bytes, rounded up by half of the last digit that is shown.
fn bytes(text: &str) -> Option<u64> {
    const UNITS: [(&str, f64); 4] = [
        ("GiB", (1u64 << 30) as f64),
        ("MiB", (1u64 << 20) as f64),
        ("KiB", 1024.0),
        ("B", 1.0),
    ];
    let (number, unit) = text.split_once(' ')?;
    let scale = UNITS.iter().find(|(name, _)| *name == unit)?.1;
    let number: f64 = number.parse().ok()?;
    Some(((number + 0.05) * scale) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_total() {
        let log = "x\nmemory: base 6.0 MiB + experts 9.0 MiB = 15.0 MiB\n";
        assert_eq!(printed_total(log), (15.05 * 1048576.0) as u64);
        assert_eq!(bytes("7 B"), Some(7));
        assert_eq!(bytes("7"), None);
    }
}
