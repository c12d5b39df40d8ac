//! One harness for every backend: each op on seeded data, over every kind of remainder, against a reference.
//!
//! It knows nothing of any backend but the trait, so a new one is tested by one call:
//!
//! ```text
//! let report = conformance::check(&cuda, &cpu_reference, Tolerance::Relative(1e-4), 1);
//! assert!(report.failures.is_empty(), "{report}");
//! ```
//!
//! [`check_invariance`] needs no reference: it runs rows together, in parts and one by one, and wants the same bits.

mod attention;
mod blocks;
mod experts;
mod rows;
mod scene;
mod weights;

use odmoe_backend::Backend;
use odmoe_formats::WeightLayout;
use scene::Scene;
use std::fmt;

/// How far results may be from the reference's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Tolerance {
    /// The same bits (any NaN for NaN).
    Exact,
    /// |difference| <= this factor * the largest magnitude in the row.
    Relative(f32),
}

/// What came out.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// How many cases ran.
    pub cases: usize,
    /// The largest |difference| / largest magnitude in the row, over all cases.
    pub worst: f32,
    /// One line a failed case.
    pub failures: Vec<String>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} cases, {} failed, worst {:e}",
            self.cases,
            self.failures.len(),
            self.worst
        )?;
        self.failures
            .iter()
            .take(20)
            .try_for_each(|failure| writeln!(f, "  {failure}"))
    }
}

/// What the values of a row are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RowKind {
    Floats,
    /// Pairs of an index, which must be equal, and a float.
    Choices,
}

/// Runs an op for some of its tokens, and gives the output row of each.
type Run = Box<dyn Fn(&Scene<'_>, &[usize]) -> Vec<Vec<u8>>>;

/// An op with a shape. A token's data depend on the seed and the token's number alone, so that the op can be run for
/// any of its tokens.
pub(crate) struct Case {
    name: String,
    tokens: usize,
    kind: RowKind,
    /// That of its weights.
    layout: WeightLayout,
    run: Run,
}

impl Case {
    fn floats(
        name: String,
        tokens: usize,
        run: impl Fn(&Scene<'_>, &[usize]) -> Vec<Vec<u8>> + 'static,
    ) -> Self {
        Self {
            name,
            tokens,
            kind: RowKind::Floats,
            layout: WeightLayout::RowMajor,
            run: Box::new(run),
        }
    }

    /// The same with weights that lie so.
    fn in_layout(self, layout: WeightLayout) -> Self {
        Self { layout, ..self }
    }

    fn all_tokens(&self) -> Vec<usize> {
        (0..self.tokens).collect()
    }
}

/// Those of the cases whose weights lie as the backend takes them.
fn taken(tested: &dyn Backend, cases: Vec<Case>) -> impl Iterator<Item = Case> {
    let layouts = tested.capabilities().layouts;
    let is_taken = move |case: &Case| layouts.contains(&case.layout);
    cases.into_iter().filter(is_taken)
}

fn cases() -> Vec<Case> {
    [
        rows::cases(),
        weights::cases(),
        attention::cases(),
        experts::cases(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Runs every case on both backends and compares.
pub fn check(
    tested: &dyn Backend,
    reference: &dyn Backend,
    tolerance: Tolerance,
    seed: u64,
) -> Report {
    let mut report = Report::default();
    for case in taken(tested, cases()) {
        let tokens = case.all_tokens();
        let actual = (case.run)(&Scene::new(tested, seed), &tokens);
        let expected = (case.run)(&Scene::new(reference, seed), &tokens);
        compare(&case, &actual, &expected, tolerance, seed, &mut report);
    }
    report
}

/// Products with weights of any bytes and activations of any size. For backends that claim the reference's bits: where
/// sums overflow, a tolerance means nothing.
pub fn check_hostile(tested: &dyn Backend, reference: &dyn Backend, seed: u64) -> Report {
    let mut report = Report::default();
    for case in taken(tested, weights::hostile_cases()) {
        let tokens = case.all_tokens();
        let actual = (case.run)(&Scene::new(tested, seed), &tokens);
        let expected = (case.run)(&Scene::new(reference, seed), &tokens);
        compare(
            &case,
            &actual,
            &expected,
            Tolerance::Exact,
            seed,
            &mut report,
        );
    }
    report
}

/// Runs every case for all tokens, for its even and its odd tokens, and for each alone; bits must not differ.
pub fn check_invariance(tested: &dyn Backend, seed: u64) -> Report {
    let mut report = Report::default();
    for case in taken(tested, cases()) {
        let tokens = case.all_tokens();
        let together = (case.run)(&Scene::new(tested, seed), &tokens);
        let mut parts: Vec<Vec<usize>> = tokens.iter().map(|&token| vec![token]).collect();
        parts.extend([0, 1].map(|odd| {
            tokens
                .iter()
                .copied()
                .filter(|token| token % 2 == odd)
                .collect()
        }));
        for part in parts.into_iter().filter(|part| !part.is_empty()) {
            let apart = (case.run)(&Scene::new(tested, seed), &part);
            let expected: Vec<Vec<u8>> =
                part.iter().map(|&token| together[token].clone()).collect();
            compare(
                &case,
                &apart,
                &expected,
                Tolerance::Exact,
                seed,
                &mut report,
            );
        }
    }
    report
}

fn compare(
    case: &Case,
    actual: &[Vec<u8>],
    expected: &[Vec<u8>],
    tolerance: Tolerance,
    seed: u64,
    report: &mut Report,
) {
    assert_eq!(
        actual.len(),
        expected.len(),
        "{}: every token has a row",
        case.name
    );
    report.cases += 1;
    for (row, (actual, expected)) in actual.iter().zip(expected).enumerate() {
        let difference = row_difference(case.kind, actual, expected);
        let fails = match tolerance {
            Tolerance::Exact => !same_bits(actual, expected),
            Tolerance::Relative(most) => difference.is_none_or(|difference| difference > most),
        };
        report.worst = report.worst.max(difference.unwrap_or(f32::INFINITY));
        if fails {
            let name = &case.name;
            report.failures.push(format!(
                "{name}: row {row} of {} differs by {difference:?} (seed {seed})",
                case.tokens
            ));
            return;
        }
    }
}

fn words(bytes: &[u8]) -> impl Iterator<Item = u32> + '_ {
    bytes
        .as_chunks::<4>()
        .0
        .iter()
        .map(|word| u32::from_le_bytes(*word))
}

fn same_bits(a: &[u8], b: &[u8]) -> bool {
    let is_nan = |word| f32::from_bits(word).is_nan();
    a.len() == b.len()
        && words(a)
            .zip(words(b))
            .all(|(a, b)| a == b || (is_nan(a) && is_nan(b)))
}

/// The largest difference in units of the largest magnitude; None where indices or NaN differ.
fn row_difference(kind: RowKind, actual: &[u8], expected: &[u8]) -> Option<f32> {
    let (mut largest, mut magnitude) = (0.0f32, f32::MIN_POSITIVE);
    for (index, (actual, expected)) in words(actual).zip(words(expected)).enumerate() {
        if kind == RowKind::Choices && index % 2 == 0 {
            if actual != expected {
                return None;
            }
            continue;
        }
        let (actual, expected) = (f32::from_bits(actual), f32::from_bits(expected));
        if actual.is_nan() != expected.is_nan() {
            return None;
        }
        if actual.to_bits() != expected.to_bits() && !actual.is_nan() {
            largest = largest.max((actual - expected).abs());
        }
        magnitude = magnitude.max(expected.abs());
    }
    Some(largest / magnitude)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(values: &[f32]) -> Vec<u8> {
        values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect()
    }

    fn failures(actual: &[f32], expected: &[f32], tolerance: Tolerance) -> usize {
        let case = Case::floats("case".to_owned(), 1, |_, _| Vec::new());
        let mut report = Report::default();
        compare(
            &case,
            &[bytes(actual)],
            &[bytes(expected)],
            tolerance,
            0,
            &mut report,
        );
        report.failures.len()
    }

    #[test]
    fn a_last_bit_fails_the_exact_comparison_only() {
        let next = f32::from_bits(1.0f32.to_bits() + 1);
        assert_eq!(failures(&[1.0, 2.0], &[1.0, 2.0], Tolerance::Exact), 0);
        assert_eq!(failures(&[next, 2.0], &[1.0, 2.0], Tolerance::Exact), 1);
        assert_eq!(
            failures(&[next, 2.0], &[1.0, 2.0], Tolerance::Relative(1e-6)),
            0
        );
        assert_eq!(
            failures(&[1.1, 2.0], &[1.0, 2.0], Tolerance::Relative(1e-2)),
            1
        );
    }

    #[test]
    fn nan_matches_nan_alone() {
        assert_eq!(failures(&[f32::NAN], &[-f32::NAN], Tolerance::Exact), 0);
        assert_eq!(failures(&[f32::NAN], &[1.0], Tolerance::Relative(1.0)), 1);
        assert_eq!(failures(&[1.0], &[f32::NAN], Tolerance::Relative(1.0)), 1);
    }
}
