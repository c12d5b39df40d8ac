//! Attention of a few queries over one split of one key/value head.
//!
//! Keys and values are decoded to F32 a tile at a time and multiplied from there: decoding is exact in every format, it
//! is done once for all queries of the tile, and products need to know one format alone.

use super::float;
use super::{Bytes4, Element, F16, F32, Kernel, Simd};
use crate::blocks::{BLOCK, Q8Block};
use crate::reference::{LANES, Merged, SPLIT, exponentials, maximum};
use crate::view::{KvHalf, KvLayout};
use odmoe_backend::KvFormat;
use std::ops::Range;

/// Positions that are decoded at once: 16 KiB with heads of 128.
pub const TILE_POSITIONS: usize = 32;
/// Bytes that are fetched at once.
const LINE: usize = 64;

/// Keys and values of one head of one sequence.
#[derive(Clone, Copy)]
pub struct KvHead<'a> {
    /// One layer of the cache.
    pub kv: &'a [u8],
    /// How it is stored.
    pub format: KvFormat,
    /// How it lies.
    pub layout: KvLayout,
    /// The key/value head.
    pub head: usize,
    /// The sequence's blocks in order of position.
    pub blocks: &'a [u32],
}

/// Queries that share the keys and values of one head.
///
/// Every query's result is that of `reference::attend`, whatever others are in the tile: what is shared is only the
/// reading of keys and values.
pub struct AttentionSplit<'a> {
    /// The keys and values.
    pub head: KvHead<'a>,
    /// [queries] of [D] each, ordered by how much they see.
    pub queries: &'a [&'a [f32]],
    /// Positions that each query sees, ascending.
    pub visible: &'a [usize],
    /// Factor on the scores.
    pub scale: f32,
    /// Which split.
    pub split: usize,
    /// For what is decoded, [`TILE_POSITIONS`, D], and scores, [queries, `SPLIT`].
    pub scratch: (&'a mut [f32], &'a mut [f32]),
    /// For each query its largest score and its sum of exponentials. Untouched where it sees nothing of the split.
    pub states: &'a mut [SplitState],
    /// [queries, D]: sums of weighted values.
    pub values: &'a mut [f32],
}

/// Softmax over some positions: values are in units of e^largest.
#[derive(Clone, Copy, Debug)]
pub struct SplitState {
    /// The largest score.
    pub largest: f32,
    /// Sum of exponentials.
    pub total: f32,
}

impl SplitState {
    /// Of no positions.
    pub const EMPTY: Self = Self {
        largest: f32::NEG_INFINITY,
        total: 0.0,
    };
}

impl Kernel for AttentionSplit<'_> {
    type Output = ();
    #[inline(always)]
    fn call<S: Simd>(self, simd: S) {
        let (decoded, scores) = self.scratch;
        let (head_dim, start) = (self.head.layout.head_dim, self.split * SPLIT);
        let queries = self.queries.len();
        assert!(self.visible.len() == queries && self.states.len() == queries);
        assert!(self.values.len() == queries * head_dim && scores.len() >= queries * SPLIT);
        let in_split = |query: usize| self.visible[query].saturating_sub(start).min(SPLIT);
        let Some(longest) = queries.checked_sub(1).map(in_split) else {
            return;
        };
        let split = start..start + longest;
        for tile in tiles(longest) {
            let keys = &mut decoded[..tile.len() * head_dim];
            self.head.decode(simd, KvHalf::Key, &split, &tile, keys);
            score(simd, keys, self.queries, head_dim, tile.start, scores);
        }
        for query in 0..queries {
            let scores = &mut scores[query * SPLIT..][..in_split(query)];
            if !scores.is_empty() {
                self.states[query] = softmax(scores, self.scale);
            }
        }
        self.values.fill(0.0);
        for tile in tiles(longest) {
            let values = &mut decoded[..tile.len() * head_dim];
            self.head.decode(simd, KvHalf::Value, &split, &tile, values);
            let tile = WeighTile {
                rows: values,
                head_dim,
                weights: scores,
                start: tile.start,
            };
            let seen = |query: usize| in_split(query).saturating_sub(tile.start);
            tile.weigh(simd, queries, seen, self.values);
        }
    }
}

/// Adds the next split, in ascending order, to what each query has so far.
pub struct MergeSplit<'a> {
    /// Of each query, of the split; empty where the query saw nothing of it.
    pub split: &'a [SplitState],
    /// Of the split, [queries, D].
    pub split_values: &'a [f32],
    /// Of each query, of the splits so far.
    pub states: &'a mut [SplitState],
    /// Of the splits so far, [queries, D].
    pub values: &'a mut [f32],
}

impl Kernel for MergeSplit<'_> {
    type Output = ();
    #[inline(always)]
    fn call<S: Simd>(self, _simd: S) {
        let head_dim = self.values.len() / self.states.len().max(1);
        let news = self
            .split
            .iter()
            .zip(self.split_values.chunks_exact(head_dim));
        let olds = self
            .states
            .iter_mut()
            .zip(self.values.chunks_exact_mut(head_dim));
        for ((new, new_values), (state, values)) in news.zip(olds) {
            if new.largest == f32::NEG_INFINITY && new.total == 0.0 {
                continue;
            }
            let mut merged = Merged {
                largest: state.largest,
                total: state.total,
                values,
            };
            merged.merge(new.largest, new.total, new_values);
            (state.largest, state.total) = (merged.largest, merged.total);
        }
    }
}

/// Pieces of a split of `length` positions, counted from its start.
#[inline(always)]
fn tiles(length: usize) -> impl Iterator<Item = Range<usize>> {
    (0..length)
        .step_by(TILE_POSITIONS)
        .map(move |start| start..length.min(start + TILE_POSITIONS))
}

impl KvHead<'_> {
    /// The bytes of consecutive positions, from one on to `end` or to the end of its block.
    #[inline(always)]
    fn run(&self, half: KvHalf, position: usize, end: usize) -> &[u8] {
        let tokens = self.layout.block_tokens;
        let (block, offset) = (self.blocks[position / tokens], position % tokens);
        let row = self.layout.row(half, block as usize, self.head, offset);
        let bytes = self.format.row_bytes(self.layout.head_dim);
        &self.kv[row * bytes..][..(tokens - offset).min(end - position) * bytes]
    }

    /// Decodes a tile of a split to `to` [tile, D], and wishes for what will be decoded next: a block's rows are a short
    /// stream that ends where the machine's own prefetcher would have noticed it.
    #[inline(always)]
    fn decode<S: Simd>(
        &self,
        simd: S,
        half: KvHalf,
        split: &Range<usize>,
        tile: &Range<usize>,
        mut to: &mut [f32],
    ) {
        let head_dim = self.layout.head_dim;
        let (mut position, end) = (split.start + tile.start, split.start + tile.end);
        while position < end {
            let run = self.run(half, position, end);
            for line in self
                .run_after(half, split, position, run.len())
                .chunks(LINE)
            {
                simd.prefetch(line.as_ptr());
            }
            let length = run.len() / self.format.row_bytes(head_dim);
            let (now, later) = to.split_at_mut(length * head_dim);
            match self.format {
                KvFormat::F32 => decode_floats::<S, F32>(simd, bytemuck::cast_slice(run), now),
                KvFormat::F16 => decode_floats::<S, F16>(simd, bytemuck::cast_slice(run), now),
                KvFormat::Q8_0 => decode_q8(simd, bytemuck::cast_slice(run), now),
            }
            to = later;
            position += length;
        }
    }

    /// What is read a tile later, at most `bytes`: after a split's last keys come its values, then the next keys.
    #[inline(always)]
    fn run_after(
        &self,
        half: KvHalf,
        split: &Range<usize>,
        position: usize,
        bytes: usize,
    ) -> &[u8] {
        let next = position + TILE_POSITIONS;
        let (half, next) = match half {
            _ if next < split.end => (half, next),
            KvHalf::Key => (
                KvHalf::Value,
                next.saturating_sub(split.len()).max(split.start),
            ),
            KvHalf::Value => (KvHalf::Key, next),
        };
        let held = self.blocks.len() * self.layout.block_tokens;
        if next >= held {
            return &[];
        }
        let run = self.run(half, next, held);
        &run[..run.len().min(bytes)]
    }
}

#[inline(always)]
fn decode_floats<S: Simd, E: Element>(simd: S, run: &[E], to: &mut [f32]) {
    let (parts, rest) = run.as_chunks::<LANES>();
    let (to_parts, to_rest) = to.as_chunks_mut::<LANES>();
    for (part, to) in parts.iter().zip(to_parts) {
        simd.store(E::load(simd, part), to);
    }
    for (element, to) in rest.iter().zip(to_rest) {
        *to = element.widen();
    }
}

/// Exact: a quant of 8 bits times a scale of 11.
#[inline(always)]
fn decode_q8<S: Simd>(simd: S, run: &[Q8Block], to: &mut [f32]) {
    for (block, to) in run.iter().zip(to.as_chunks_mut::<BLOCK>().0) {
        let scale = simd.load_f16(&[block.scale; LANES]);
        let (quants, _) = block.quants.as_chunks::<LANES>();
        for (quants, to) in quants.iter().zip(to.as_chunks_mut::<LANES>().0) {
            let mut widened = [0.0; LANES];
            for (to, quant) in widened.iter_mut().zip(quants) {
                *to = f32::from(*quant);
            }
            simd.store(simd.mul(simd.load(&widened), scale), to);
        }
    }
}

/// Scores of all queries with a tile of keys [_, D], into scores [queries, `SPLIT`] from `start` on.
#[inline(always)]
fn score<S: Simd>(
    simd: S,
    keys: &[f32],
    queries: &[&[f32]],
    head_dim: usize,
    start: usize,
    scores: &mut [f32],
) {
    let keys: &[F32] = bytemuck::cast_slice::<f32, F32>(keys);
    float::products(
        simd,
        keys.len() / head_dim,
        |key| &keys[key * head_dim..][..head_dim],
        queries.len(),
        |query| queries[query],
        |query, key, dots| {
            scores[query * SPLIT + start + key..][..dots.len()].copy_from_slice(dots);
        },
    );
}

/// Scales scores and turns them into exponentials.
#[inline(always)]
fn softmax(scores: &mut [f32], scale: f32) -> SplitState {
    for score in scores.iter_mut() {
        *score *= scale;
    }
    let largest = maximum(scores);
    let total = exponentials(scores, largest);
    SplitState { largest, total }
}

/// A tile of values and the weights of its positions.
struct WeighTile<'a> {
    /// [_, D].
    rows: &'a [f32],
    head_dim: usize,
    /// [queries, `SPLIT`].
    weights: &'a [f32],
    /// The tile's first position, counted from the split's start.
    start: usize,
}

impl WeighTile<'_> {
    /// values\[q\] += sum over the positions that q sees, ascending, of weight * value, fused. `seen`, ascending, counts
    /// from the tile's first position.
    #[inline(always)]
    fn weigh<S: Simd>(
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
