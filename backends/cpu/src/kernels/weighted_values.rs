//! Sums of weighted values: the second half of attention.

use super::{Bytes4, Simd};
use crate::reference::{LANES, SPLIT};
use std::ops::Range;

/// A tile of values and the weights of its positions.
pub struct WeighTile<'a> {
    /// [_, D].
    pub rows: &'a [f32],
    /// D.
    pub head_dim: usize,
    /// [queries, `SPLIT`].
    pub weights: &'a [f32],
    /// The tile's first position, counted from the split's start.
    pub start: usize,
}

impl WeighTile<'_> {
    /// values\[q\] += sum over the positions that q sees, ascending, of weight * value, fused. `seen`, ascending, counts
    /// from the tile's first position.
    #[inline(always)]
    pub fn weigh<S: Simd>(
        &self,
        simd: S,
        queries: usize,
        seen: impl Fn(usize) -> usize,
        values: &mut [f32],
    ) {
        let head_dim = self.head_dim;
        let length = self.rows.len() / head_dim;
        let of = |query: usize| &self.weights[query * SPLIT + self.start..][..length];
        let seen = |query: usize| seen(query).min(length);
        let mut query = 0;
        while query + 4 <= queries {
            // The first of four sees the least; the rest of what others see follows one by one.
            let shared = seen(query);
            let weights = [of(query), of(query + 1), of(query + 2), of(query + 3)];
            let four = &mut values[query * head_dim..(query + 4) * head_dim];
            self.add::<S, 4>(simd, weights, 0..shared, four);
            for more in query + 1..query + 4 {
                let one = &mut values[more * head_dim..(more + 1) * head_dim];
                self.add::<S, 1>(simd, [of(more)], shared..seen(more), one);
            }
            query += 4;
        }
        while query < queries {
            let one = &mut values[query * head_dim..(query + 1) * head_dim];
            self.add::<S, 1>(simd, [of(query)], 0..seen(query), one);
            query += 1;
        }
    }

    /// Some positions of T queries; values [T, D].
    #[inline(always)]
    fn add<S: Simd, const T: usize>(
        &self,
        simd: S,
        weights: [&[f32]; T],
        positions: Range<usize>,
        values: &mut [f32],
    ) {
        if positions.is_empty() {
            return;
        }
        let mut first = 0;
        while S::LARGE_TILES && first + 4 * LANES <= self.head_dim {
            self.piece::<S, T, 4>(simd, weights, positions.clone(), first, values);
            first += 4 * LANES;
        }
        while first + 2 * LANES <= self.head_dim {
            self.piece::<S, T, 2>(simd, weights, positions.clone(), first, values);
            first += 2 * LANES;
        }
        if first + LANES <= self.head_dim {
            self.piece::<S, T, 1>(simd, weights, positions.clone(), first, values);
            first += LANES;
        }
        if first < self.head_dim {
            self.last(weights, positions, first, values);
        }
    }

    /// P times sixteen elements from `first` on.
    #[inline(always)]
    #[allow(clippy::needless_range_loop)]
    fn piece<S: Simd, const T: usize, const P: usize>(
        &self,
        simd: S,
        weights: [&[f32]; T],
        positions: Range<usize>,
        first: usize,
        values: &mut [f32],
    ) {
        let mut sums = [[simd.splat(0.0); P]; T];
        for t in 0..T {
            let parts = values[t * self.head_dim + first..].as_chunks::<LANES>().0;
            for piece in 0..P {
                sums[t][piece] = simd.load(&parts[piece]);
            }
        }
        for position in positions {
            let row: &[Bytes4] =
                bytemuck::cast_slice(&self.rows[position * self.head_dim + first..][..P * LANES]);
            let parts = row.as_chunks::<LANES>().0;
            let mut value = [simd.splat(0.0); P];
            for piece in 0..P {
                value[piece] = simd.load_f32(&parts[piece]);
            }
            for t in 0..T {
                let weight = simd.splat(weights[t][position]);
                for piece in 0..P {
                    sums[t][piece] = simd.fma(weight, value[piece], sums[t][piece]);
                }
            }
        }
        for t in 0..T {
            let parts = values[t * self.head_dim + first..]
                .as_chunks_mut::<LANES>()
                .0;
            for piece in 0..P {
                simd.store(sums[t][piece], &mut parts[piece]);
            }
        }
    }

    /// The last elements of a head that is not a multiple of sixteen wide.
    #[inline(always)]
    fn last<const T: usize>(
        &self,
        weights: [&[f32]; T],
        positions: Range<usize>,
        first: usize,
        values: &mut [f32],
    ) {
        for position in positions {
            let row = &self.rows[position * self.head_dim + first..(position + 1) * self.head_dim];
            for (weights, values) in weights.iter().zip(values.chunks_exact_mut(self.head_dim)) {
                for (sum, value) in values[first..].iter_mut().zip(row) {
                    *sum = weights[position].mul_add(*value, *sum);
                }
            }
        }
    }
}
