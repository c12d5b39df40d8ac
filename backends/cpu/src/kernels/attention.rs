//! Attention of a few query rows over one key/value head.

use super::float;
use super::{Element, F16, F32, Kernel, Simd};
use crate::reference::{LANES, Merged, SPLIT, exponentials, maximum};
use crate::view::{KvHalf, KvLayout};
use odmoe_backend::KvFormat;
use std::ops::Range;

/// Queries that share the keys and values of one head of one sequence.
///
/// Every query's result is that of `reference::attend`, whatever others are in the tile: what is shared is only the
/// reading of keys and values.
pub struct AttentionTile<'a> {
    /// One layer of the cache.
    pub kv: &'a [u8],
    /// How it is stored.
    pub format: KvFormat,
    /// How it lies.
    pub layout: KvLayout,
    /// The key/value head.
    pub kv_head: usize,
    /// The sequence's blocks in order of position.
    pub blocks: &'a [u32],
    /// [queries] of [D] each, ordered by how much they see.
    pub queries: &'a [&'a [f32]],
    /// Positions that each query sees, ascending.
    pub visible: &'a [usize],
    /// Factor on the scores.
    pub scale: f32,
    /// [queries, D].
    pub out: &'a mut [f32],
}

impl Kernel for AttentionTile<'_> {
    type Output = ();
    #[inline(always)]
    fn call<S: Simd>(self, simd: S) {
        match self.format {
            KvFormat::F32 => self.attend::<S, F32>(simd),
            KvFormat::F16 => self.attend::<S, F16>(simd),
        }
    }
}

/// Consecutive positions whose keys (and values) lie together.
struct Run<'a, E> {
    /// The first, counted from the split's start.
    start: usize,
    /// [positions, D].
    rows: &'a [E],
}

impl AttentionTile<'_> {
    #[inline(always)]
    fn attend<S: Simd, E: Element>(self, simd: S) {
        let head_dim = self.layout.head_dim;
        let queries = self.queries.len();
        assert!(self.visible.len() == queries && self.out.len() == queries * head_dim);
        let mut scores = vec![0.0f32; queries * SPLIT];
        let mut values = vec![0.0f32; queries * head_dim];
        let mut states = vec![(f32::NEG_INFINITY, 0.0f32); queries];
        let mut maxima = states.clone();
        self.out.fill(0.0);
        let seen = self.visible.last().copied().unwrap_or(0);
        for start in (0..seen).step_by(SPLIT) {
            let split = start..seen.min(start + SPLIT);
            for run in self.runs::<E>(KvHalf::Key, split.clone()) {
                self.score(simd, &run, &mut scores);
            }
            let counts: Vec<usize> = self
                .visible
                .iter()
                .map(|seen| seen.saturating_sub(start).min(SPLIT))
                .collect();
            for query in 0..queries {
                let scores = &mut scores[query * SPLIT..][..counts[query]];
                maxima[query] = softmax_split(scores, self.scale);
            }
            values.fill(0.0);
            for run in self.runs::<E>(KvHalf::Value, split) {
                weigh(simd, &run, head_dim, &scores, &counts, &mut values);
            }
            for query in (0..queries).filter(|&query| counts[query] > 0) {
                let range = query * head_dim..(query + 1) * head_dim;
                let (largest, total) = states[query];
                let mut merged = Merged {
                    largest,
                    total,
                    values: &mut self.out[range.clone()],
                };
                merged.merge(maxima[query].0, maxima[query].1, &values[range]);
                states[query] = (merged.largest, merged.total);
            }
        }
        for ((largest, total), values) in
            states.into_iter().zip(self.out.chunks_exact_mut(head_dim))
        {
            Merged {
                largest,
                total,
                values,
            }
            .finish();
        }
    }

    /// The runs of a split, in ascending order of position.
    #[inline(always)]
    fn runs<E: Element>(
        &self,
        half: KvHalf,
        split: Range<usize>,
    ) -> impl Iterator<Item = Run<'_, E>> {
        let (layout, blocks, kv_head) = (self.layout, self.blocks, self.kv_head);
        let elements: &[E] = bytemuck::cast_slice(self.kv);
        let mut position = split.start;
        std::iter::from_fn(move || {
            if position >= split.end {
                return None;
            }
            let (block, offset) = (
                position / layout.block_tokens,
                position % layout.block_tokens,
            );
            let length = (layout.block_tokens - offset).min(split.end - position);
            let first = layout.element(half, blocks[block] as usize, kv_head, offset);
            let run = Run {
                start: position - split.start,
                rows: &elements[first..first + length * layout.head_dim],
            };
            position += length;
            Some(run)
        })
    }

    /// Scores of all queries with the keys of a run, into scores [queries, SPLIT].
    #[inline(always)]
    fn score<S: Simd, E: Element>(&self, simd: S, run: &Run<'_, E>, scores: &mut [f32]) {
        let head_dim = self.layout.head_dim;
        float::products(
            simd,
            run.rows.len() / head_dim,
            |key| &run.rows[key * head_dim..][..head_dim],
            self.queries.len(),
            |query| self.queries[query],
            |query, key, dots| {
                scores[query * SPLIT + run.start + key..][..dots.len()].copy_from_slice(dots);
            },
        );
    }
}

/// Scales scores and turns them into exponentials. Returns the largest and the sum.
#[inline(always)]
fn softmax_split(scores: &mut [f32], scale: f32) -> (f32, f32) {
    for score in scores.iter_mut() {
        *score *= scale;
    }
    let largest = maximum(scores);
    (largest, exponentials(scores, largest))
}

/// values\[q\] += sum over the run's positions, ascending, of weight * value, fused.
#[inline(always)]
fn weigh<S: Simd, E: Element>(
    simd: S,
    run: &Run<'_, E>,
    head_dim: usize,
    weights: &[f32],
    counts: &[usize],
    values: &mut [f32],
) {
    let length = run.rows.len() / head_dim;
    let in_run = |query: usize| counts[query].saturating_sub(run.start).min(length);
    let of = |query: usize| &weights[query * SPLIT + run.start..][..in_run(query)];
    let mut query = 0;
    while query + 4 <= counts.len() {
        // Counts ascend: the first of a tile sees the least, and the rest of what others see follows one by one.
        let shared = in_run(query);
        let tile_weights = [of(query), of(query + 1), of(query + 2), of(query + 3)];
        let tile_values = &mut values[query * head_dim..(query + 4) * head_dim];
        weigh_tile::<S, E, 4>(simd, run, head_dim, tile_weights, 0..shared, tile_values);
        for more in query + 1..query + 4 {
            let values = &mut values[more * head_dim..(more + 1) * head_dim];
            weigh_tile::<S, E, 1>(
                simd,
                run,
                head_dim,
                [of(more)],
                shared..in_run(more),
                values,
            );
        }
        query += 4;
    }
    while query < counts.len() {
        let values = &mut values[query * head_dim..(query + 1) * head_dim];
        weigh_tile::<S, E, 1>(simd, run, head_dim, [of(query)], 0..in_run(query), values);
        query += 1;
    }
}

/// Some positions of T queries; values [T, D].
#[inline(always)]
fn weigh_tile<S: Simd, E: Element, const T: usize>(
    simd: S,
    run: &Run<'_, E>,
    head_dim: usize,
    weights: [&[f32]; T],
    positions: Range<usize>,
    values: &mut [f32],
) {
    if positions.is_empty() {
        return;
    }
    let pair = 2 * LANES;
    let whole = head_dim / pair * pair;
    for first in (0..whole).step_by(pair) {
        weigh_piece::<S, E, T, 2>(
            simd,
            run,
            head_dim,
            weights,
            positions.clone(),
            first,
            values,
        );
    }
    let rest = whole..head_dim / LANES * LANES;
    for first in rest.clone().step_by(LANES) {
        weigh_piece::<S, E, T, 1>(
            simd,
            run,
            head_dim,
            weights,
            positions.clone(),
            first,
            values,
        );
    }
    if rest.end < head_dim {
        weigh_last(run, head_dim, weights, positions, rest.end, values);
    }
}

/// P times sixteen elements from `first` on.
#[inline(always)]
#[allow(clippy::needless_range_loop)]
fn weigh_piece<S: Simd, E: Element, const T: usize, const P: usize>(
    simd: S,
    run: &Run<'_, E>,
    head_dim: usize,
    weights: [&[f32]; T],
    positions: Range<usize>,
    first: usize,
    values: &mut [f32],
) {
    let mut sums = [[simd.splat(0.0); P]; T];
    for t in 0..T {
        let parts = values[t * head_dim + first..].as_chunks::<LANES>().0;
        for piece in 0..P {
            sums[t][piece] = simd.load(&parts[piece]);
        }
    }
    for position in positions {
        let parts = run.rows[position * head_dim + first..]
            .as_chunks::<LANES>()
            .0;
        for piece in 0..P {
            let value = E::load(simd, &parts[piece]);
            for t in 0..T {
                let weight = simd.splat(weights[t][position]);
                sums[t][piece] = simd.fma(weight, value, sums[t][piece]);
            }
        }
    }
    for t in 0..T {
        let parts = values[t * head_dim + first..].as_chunks_mut::<LANES>().0;
        for piece in 0..P {
            simd.store(sums[t][piece], &mut parts[piece]);
        }
    }
}

/// The last elements of a head that is not a multiple of sixteen wide.
#[inline(always)]
fn weigh_last<E: Element, const T: usize>(
    run: &Run<'_, E>,
    head_dim: usize,
    weights: [&[f32]; T],
    positions: Range<usize>,
    first: usize,
    values: &mut [f32],
) {
    for position in positions {
        let row = &run.rows[position * head_dim + first..(position + 1) * head_dim];
        for (weights, values) in weights.iter().zip(values.chunks_exact_mut(head_dim)) {
            for (sum, value) in values[first..].iter_mut().zip(row) {
                *sum = weights[position].mul_add(value.widen(), *sum);
            }
        }
    }
}
