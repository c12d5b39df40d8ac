//! The Prometheus text format, as much of it as tests need.

/// The sum over all series of a metric whose labels hold each of `labels` (`name="value"`). Zero where there is none.
pub fn sum(text: &str, metric: &str, labels: &[&str]) -> f64 {
    let series = text.lines().filter_map(|line| {
        let rest = line.strip_prefix(metric)?;
        let (found, value) = match rest.strip_prefix('{') {
            Some(rest) => rest.rsplit_once("} ")?,
            None => ("", rest.strip_prefix(' ')?),
        };
        let wanted = labels
            .iter()
            .all(|label| found.split(',').any(|part| part == *label));
        wanted.then(|| {
            value
                .parse::<f64>()
                .unwrap_or_else(|e| panic!("{line:?}: {e}"))
        })
    });
    series.sum()
}

/// The type that a metric declares, if it is there.
pub fn kind<'a>(text: &'a str, metric: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        line.strip_prefix("# TYPE ")?
            .strip_prefix(metric)?
            .strip_prefix(' ')
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str =
        "# TYPE a counter\na{x=\"1\",y=\"2\"} 3\na{x=\"1\",y=\"4\"} 5\n\n# TYPE ab gauge\nab 7.5\n";

    #[test]
    fn sums_by_labels_and_tells_types() {
        assert_eq!(sum(TEXT, "a", &[]), 8.0);
        assert_eq!(sum(TEXT, "a", &["y=\"4\"", "x=\"1\""]), 5.0);
        assert_eq!(sum(TEXT, "ab", &[]), 7.5);
        assert_eq!(sum(TEXT, "b", &[]), 0.0);
        assert_eq!(
            (kind(TEXT, "a"), kind(TEXT, "ab"), kind(TEXT, "c")),
            (Some("counter"), Some("gauge"), None)
        );
    }
}
