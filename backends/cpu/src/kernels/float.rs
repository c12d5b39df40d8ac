//! Products of float rows in register tiles.

use super::{Element, Simd};
use crate::reference::LANES;

/// out\[r\]\[t\] = dot of weights\[r\] with x\[t\], all of one length. Every dot has the lanes of `reference::dot`, so it
/// does not matter in which tile it is computed.
#[inline(always)]
#[allow(clippy::needless_range_loop)]
pub fn tile<S: Simd, E: Element, const R: usize, const T: usize>(
    simd: S,
    weights: [&[E]; R],
    x: [&[f32]; T],
) -> [[f32; T]; R] {
    let columns = x[0].len();
    let parts = columns / LANES;
    let weight_parts = weights.map(|row| &row[..columns].as_chunks::<LANES>().0[..parts]);
    let x_parts = x.map(|row| &row[..columns].as_chunks::<LANES>().0[..parts]);
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
    let mut dots = [[0.0; T]; R];
    for row in 0..R {
        for token in 0..T {
            dots[row][token] = simd.reduce(sums[row][token]);
        }
    }
    dots
}

/// A last part of fewer than sixteen elements, filled up with zeros.
#[inline(always)]
pub fn padded<E: bytemuck::Pod>(rest: &[E]) -> [E; LANES] {
    let mut all = [E::zeroed(); LANES];
    all[..rest.len()].copy_from_slice(rest);
    all
}

/// Every dot of `rows` weights with `tokens` rows of x, in tiles of 4 x 4; `emit(token, row, dots)` gets up to four
/// consecutive rows of one token.
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
    while token < tokens {
        let width = if tokens - token >= 4 { 4 } else { 1 };
        let mut row = 0;
        while row < rows {
            let height = if rows - row >= 4 { 4 } else { 1 };
            match (height, width) {
                (4, 4) => {
                    let dots = tile::<S, E, 4, 4>(
                        simd,
                        std::array::from_fn(|r| weight(row + r)),
                        std::array::from_fn(|t| x(token + t)),
                    );
                    for t in 0..4 {
                        emit(token + t, row, &dots.map(|dots| dots[t]));
                    }
                }
                (4, _) => {
                    let dots = tile::<S, E, 4, 1>(
                        simd,
                        std::array::from_fn(|r| weight(row + r)),
                        [x(token)],
                    );
                    emit(token, row, &dots.map(|dots| dots[0]));
                }
                (_, 4) => {
                    let [dots] = tile::<S, E, 1, 4>(
                        simd,
                        [weight(row)],
                        std::array::from_fn(|t| x(token + t)),
                    );
                    for t in 0..4 {
                        emit(token + t, row, &dots[t..=t]);
                    }
                }
                _ => {
                    let [dots] = tile::<S, E, 1, 1>(simd, [weight(row)], [x(token)]);
                    emit(token, row, &dots);
                }
            }
            row += height;
        }
        token += width;
    }
}
