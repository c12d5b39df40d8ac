//! The memory sum that a server prints at its start (promise P2).

/// The total in bytes, from the line that ends the sum with `= NUMBER UNIT`.
#[track_caller]
pub fn printed_total(log: &str) -> u64 {
    let total = log.lines().find_map(|line| {
        let (_, total) = line.rsplit_once("= ")?;
        let mut words = total.split_whitespace().skip_while(|word| *word == "total");
        bytes(words.next()?, words.next()?)
    });
    total.unwrap_or_else(|| panic!("no memory sum in:\n{log}"))
}

/// `1.5 MiB` in bytes, rounded up by half of the last digit that is shown.
fn bytes(number: &str, unit: &str) -> Option<u64> {
    const UNITS: [(&str, f64); 4] = [
        ("GiB", (1u64 << 30) as f64),
        ("MiB", (1u64 << 20) as f64),
        ("KiB", 1024.0),
        ("B", 1.0),
    ];
    let scale = UNITS.iter().find(|(name, _)| *name == unit)?.1;
    let number: f64 = number.parse().ok()?;
    Some(((number + 0.05) * scale) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_total() {
        let log = "  memory    base   6.0 MiB  weights\n          = total  15.0 MiB  of 20.0 MiB\n";
        assert_eq!(printed_total(log), (15.05 * 1048576.0) as u64);
        let log = "  memory    base   6.0 MiB  weights\n  memory    in all  =  15.0 MiB\n";
        assert_eq!(printed_total(log), (15.05 * 1048576.0) as u64);
        assert_eq!(bytes("7", "B"), Some(7));
        assert_eq!(bytes("7", "apples"), None);
    }
}
