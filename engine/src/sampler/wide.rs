//! Loops over a vocabulary, compiled for the widest vectors that the processor has.
//!
//! Bits do not depend on them: no product is fused with a sum, and [`sum`] adds in one order everywhere.

use pulp::{Arch, NullaryFnOnce};
use std::sync::LazyLock;

static ARCH: LazyLock<Arch> = LazyLock::new(Arch::new);

/// Sums side by side: four vectors of the widest, to hide an addition's latency.
const LANES: usize = 32;

/// Writes what `f` makes of each value.
pub(super) fn map<T>(values: &[T], out: &mut [f64], f: impl Fn(&T) -> f64) {
    ARCH.dispatch(Map { values, out, f });
}

struct Map<'a, T, F> {
    values: &'a [T],
    out: &'a mut [f64],
    f: F,
}

impl<T, F: Fn(&T) -> f64> NullaryFnOnce for Map<'_, T, F> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        for (out, value) in self.out.iter_mut().zip(self.values) {
            *out = (self.f)(value);
        }
    }
}

/// The sum of [`LANES`] sums, of which each takes every `LANES`-th value.
pub(super) fn sum(values: &[f64]) -> f64 {
    ARCH.dispatch(Sum(values))
}

struct Sum<'a>(&'a [f64]);

impl NullaryFnOnce for Sum<'_> {
    type Output = f64;

    #[inline(always)]
    fn call(self) -> f64 {
        let mut sums = [0.0; LANES];
        for values in self.0.chunks(LANES) {
            for (sum, value) in sums.iter_mut().zip(values) {
                *sum += value;
            }
        }
        sums.iter().sum()
    }
}

/// The greatest of the values that are no NaN, -inf where all are, and whether one is NaN: in one pass, since a
/// vocabulary is long.
pub(super) fn max(values: &[f32]) -> (f32, bool) {
    ARCH.dispatch(Max(values))
}

struct Max<'a>(&'a [f32]);

impl NullaryFnOnce for Max<'_> {
    type Output = (f32, bool);

    #[inline(always)]
    fn call(self) -> (f32, bool) {
        let mut greatest = [f32::NEG_INFINITY; LANES];
        // 1 where a value was NaN.
        let mut nans = [0_u32; LANES];
        for values in self.0.chunks(LANES) {
            for ((greatest, nan), value) in greatest.iter_mut().zip(&mut nans).zip(values) {
                *greatest = if *value > *greatest {
                    *value
                } else {
                    *greatest
                };
                *nan |= u32::from(value.is_nan());
            }
        }
        let greatest = greatest.into_iter().fold(f32::NEG_INFINITY, f32::max);
        (greatest, nans.contains(&1))
    }
}

/// Makes every NaN -inf.
pub(super) fn exclude_nan(values: &mut [f32]) {
    ARCH.dispatch(ExcludeNan(values));
}

struct ExcludeNan<'a>(&'a mut [f32]);

impl NullaryFnOnce for ExcludeNan<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        for value in self.0 {
            *value = if value.is_nan() {
                f32::NEG_INFINITY
            } else {
                *value
            };
        }
    }
}
