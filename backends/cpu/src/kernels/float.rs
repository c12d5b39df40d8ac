//! Products of float rows in register tiles.

use super::{Element, Simd};
use crate::reference::LANES;
use std::ops::Range;

/// sums\[r\]\[t\] = partial sums of the dot of weights\[r\] with x\[t\], all of one length. Every dot has the lanes of
/// `reference::dot`, so it does not matter in which tile it is computed.
#[inline(always)]
#[allow(clippy::needless_range_loop)]
fn tile<S: Simd, E: Element, const R: usize, const T: usize>(
    simd: S,
    weights: [&[E]; R],
    x: [&[f32]; T],
) -> [[S::F; T]; R] {
    let columns = x[0].len();
    let parts = columns / LANES;
    let mut weight_parts: [&[[E; LANES]]; R] = [&[]; R];
    for row in 0..R {
        weight_parts[row] = &weights[row][..columns].as_chunks::<LANES>().0[..parts];
    }
    let mut x_parts: [&[[f32; LANES]]; T] = [&[]; T];
    for token in 0..T {
        x_parts[token] = &x[token][..columns].as_chunks::<LANES>().0[..parts];
    }
    let mut sums = [[simd.splat(0.0); T]; R];
    for part in 0..parts {
        let mut x = [simd.splat(0.0); T];
        for token in 0..T {
            x[token] = simd.load(&x_parts[token][part]);
        }
        for row in 0..R {
            let weight = E::load(simd, &weight_parts[row][part]);
            for token in 0..T {
                sums[row][token] = simd.fma(weight, x[token], sums[row][token]);
            }
        }
    }
    if !columns.is_multiple_of(LANES) {
        for row in 0..R {
            let weight = E::load(simd, &padded(&weights[row][parts * LANES..columns]));
            for token in 0..T {
                let x = simd.load(&padded(&x[token][parts * LANES..]));
                sums[row][token] = simd.fma(weight, x, sums[row][token]);
            }
        }
    }
    sums
}

/// A last part of fewer than sixteen elements, filled up with zeros.
#[inline(always)]
pub fn padded<E: bytemuck::Pod>(rest: &[E]) -> [E; LANES] {
    let mut all = [E::zeroed(); LANES];
    all[..rest.len()].copy_from_slice(rest);
    all
}

/// Rows of a matrix that are given one by one.
#[inline(always)]
fn gather<'a, E, const N: usize>(row: &impl Fn(usize) -> &'a [E], first: usize) -> [&'a [E]; N] {
    let mut rows: [&[E]; N] = [&[]; N];
    for (offset, to) in rows.iter_mut().enumerate() {
        *to = row(first + offset);
    }
    rows
}

/// Every dot of `rows` weights with `tokens` rows of x, in tiles; `emit(token, row, dots)` gets up to four consecutive
/// rows of one token.
#[inline(always)]
pub fn products<'a, S: Simd, E: Element>(
    simd: S,
    rows: usize,
    weight: impl Fn(usize) -> &'a [E],
    tokens: usize,
    x: impl Fn(usize) -> &'a [f32],
    mut emit: impl FnMut(usize, usize, &[f32]),
) {
    let mut token = 0;
    while S::LARGE_TILES && token + 4 <= tokens {
        let (x, whole) = (gather::<f32, 4>(&x, token), rows / 4 * 4);
        for row in (0..whole).step_by(4) {
            let dots = simd.reduce_tile(tile::<S, E, 4, 4>(simd, gather(&weight, row), x));
            for (t, dots) in dots.iter().enumerate() {
                emit(token + t, row, dots);
            }
        }
        column::<S, E, 1, 4>(simd, whole..rows, &weight, x, token, &mut emit);
        token += 4;
    }
    while token + 2 <= tokens {
        let (x, whole) = (gather::<f32, 2>(&x, token), rows / 2 * 2);
        column::<S, E, 2, 2>(simd, 0..whole, &weight, x, token, &mut emit);
        column::<S, E, 1, 2>(simd, whole..rows, &weight, x, token, &mut emit);
        token += 2;
    }
    if token < tokens {
        let (x, whole) = ([x(token)], rows / 4 * 4);
        column::<S, E, 4, 1>(simd, 0..whole, &weight, x, token, &mut emit);
        column::<S, E, 1, 1>(simd, whole..rows, &weight, x, token, &mut emit);
    }
}

/// Some rows, a multiple of R, with T tokens from `token` on.
#[inline(always)]
#[allow(clippy::needless_range_loop)]
fn column<'a, S: Simd, E: Element, const R: usize, const T: usize>(
    simd: S,
    rows: Range<usize>,
    weight: &impl Fn(usize) -> &'a [E],
    x: [&[f32]; T],
    token: usize,
    emit: &mut impl FnMut(usize, usize, &[f32]),
) {
    for first in rows.step_by(R) {
        let sums = tile::<S, E, R, T>(simd, gather(weight, first), x);
        for t in 0..T {
            let mut dots = [0.0; R];
            for row in 0..R {
                dots[row] = simd.reduce(sums[row][t]);
            }
            emit(token + t, first, &dots);
        }
    }
}
