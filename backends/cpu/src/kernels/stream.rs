//! Products of superblocks (Q2_K to Q6_K) as one stream: rows lie one after another in memory, and so their superblocks
//! are read once in ascending address, each multiplied with up to eight tokens from registers.
//!
//! One sequential stream a thread is what the memory and the machine's prefetchers are fastest at. It is taken in
//! passes: the first half of a pass leaves each superblock's exact integers, the second adds them to their rows in
//! ascending order.

use super::Simd;
use super::activations::{ActivationSuperblock, SuperblockRows};
use super::superblocks::SuperblockFormat;
use crate::blocks::{HalfBytes, SUB_BLOCKS};
use crate::reference::LANES;
use bytemuck::Zeroable;
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::__m256i;

/// Dots that are folded together: of `DOTS / T` superblocks with T tokens.
pub const DOTS: usize = 8;
/// Superblocks of a pass: enough to hide the second half's latency, few enough for what it leaves to stay in L1.
const PASS: usize = 64;
/// How far ahead of use a line is asked for from memory. The machine's own prefetcher looks some twenty lines ahead and
/// stops at pages of 4 KiB, and one core must have more under way.
const FAR_BYTES: usize = 16 << 10;
/// How far ahead of use a line is asked for into the innermost cache.
const NEAR_BYTES: usize = 1 << 10;

/// A superblock format that vector sets can multiply without a detour over memory.
pub trait StreamFormat: SuperblockFormat {
    /// Whether sub-blocks have 32 elements; else 16. Then scales lie in lanes 8 to 15 and minima in lanes 0 to 7 of one
    /// register.
    const WIDE_SUB_BLOCKS: bool;
    /// The units of scales and minima.
    fn units(block: &Self::Block) -> [HalfBytes; 2];
    /// Unsigned quants 32 * part to 32 * part + 31, below 64.
    ///
    /// # Safety
    /// The machine has the instructions of `Avx2`.
    #[cfg(target_arch = "x86_64")]
    unsafe fn quants_avx2(block: &Self::Block, part: usize) -> __m256i;
    /// Scales and minima (or, without minima, the scales times what is to be added to the quants), 16 bits each.
    ///
    /// # Safety
    /// The machine has the instructions of `Avx2`.
    #[cfg(target_arch = "x86_64")]
    unsafe fn scales(block: &Self::Block) -> [__m256i; 2];
}

/// Elsewhere no set streams.
#[cfg(not(target_arch = "x86_64"))]
impl<F: SuperblockFormat> StreamFormat for F {
    const WIDE_SUB_BLOCKS: bool = false;

    fn units(_block: &Self::Block) -> [HalfBytes; 2] {
        unreachable!("no set of this machine streams")
    }
}

/// Minima of one superblock, as [`StreamFormat::scales`] has them.
pub type Minima = [i16; SUB_BLOCKS];

/// What the first half of a pass leaves.
#[repr(C, align(64))]
struct Pass<const T: usize> {
    minima: [Minima; PASS],
    /// Of superblock i with token t: number i * T + t.
    products: [[f32; T]; PASS],
    corrections: [[f32; T]; PASS],
    scale: [HalfBytes; PASS],
    minimum: [HalfBytes; PASS],
}

/// Every product of rows of `a_row` superblocks with rows `tokens` of x; `emit(token, row, sum)`.
#[inline(always)]
pub fn products<S: Simd, F: StreamFormat>(
    simd: S,
    blocks: &[F::Block],
    a_row: usize,
    x: &SuperblockRows,
    tokens: &[u32],
    mut emit: impl FnMut(usize, usize, &[f32]),
) {
    let mut first = 0;
    while first < tokens.len() {
        let left = &tokens[first..];
        let emit = |token: usize, row: usize, sum: f32| emit(first + token, row, &[sum]);
        first += match left.len() {
            1 => tile::<S, F, 1>(simd, blocks, a_row, x, left, emit),
            2 => tile::<S, F, 2>(simd, blocks, a_row, x, left, emit),
            3 | 4 => tile::<S, F, 4>(simd, blocks, a_row, x, left, emit),
            _ => tile::<S, F, 8>(simd, blocks, a_row, x, left, emit),
        };
    }
}

/// The first T of the tokens; where there are fewer, the last is computed again and thrown away.
#[inline(always)]
fn tile<S: Simd, F: StreamFormat, const T: usize>(
    simd: S,
    blocks: &[F::Block],
    a_row: usize,
    x: &SuperblockRows,
    tokens: &[u32],
    mut emit: impl FnMut(usize, usize, f32),
) -> usize {
    let count = tokens.len().min(T);
    let mut rows: [&[ActivationSuperblock]; T] = [&[]; T];
    for (t, row) in rows.iter_mut().enumerate() {
        *row = &x.row(tokens[t.min(count - 1)] as usize)[..a_row];
    }
    let mut pass = Pass::<T>::zeroed();
    let (mut row, mut place, mut sums) = (0, 0, [0.0; T]);
    for blocks in blocks.chunks(PASS) {
        multiply::<S, F, T>(simd, blocks, &rows, place, &mut pass);
        if F::MINIMUM {
            correct::<S, F, T>(simd, blocks.len(), &rows, place, &mut pass);
        }
        let scale = widen(simd, &pass.scale);
        let minimum = if F::MINIMUM {
            widen(simd, &pass.minimum)
        } else {
            [0.0; PASS]
        };
        for index in 0..blocks.len() {
            for t in 0..T {
                let x_scale = rows[t][place].scale;
                sums[t] = (scale[index] * x_scale).mul_add(pass.products[index][t], sums[t]);
                if F::MINIMUM {
                    let minimum = -(minimum[index] * x_scale);
                    sums[t] = minimum.mul_add(pass.corrections[index][t], sums[t]);
                }
            }
            place += 1;
            if place == a_row {
                for (token, sum) in sums.into_iter().enumerate().take(count) {
                    emit(token, row, sum);
                }
                (row, place, sums) = (row + 1, 0, [0.0; T]);
            }
        }
    }
    count
}

/// The exact products of a pass.
#[inline(always)]
fn multiply<S: Simd, F: StreamFormat, const T: usize>(
    simd: S,
    blocks: &[F::Block],
    x: &[&[ActivationSuperblock]; T],
    mut place: usize,
    pass: &mut Pass<T>,
) {
    let together = DOTS / T;
    let mut rest = [F::Block::zeroed(); DOTS];
    let mut index = 0;
    while index < blocks.len() {
        let left = &blocks[index..];
        let group = if left.len() >= together {
            &left[..together]
        } else {
            rest[..left.len()].copy_from_slice(left);
            &rest[..together]
        };
        let mut operands = [[&x[0][0]; T]; DOTS];
        for operands in &mut operands[..together] {
            for t in 0..T {
                operands[t] = &x[t][place];
            }
            place = if place + 1 == x[0].len() {
                0
            } else {
                place + 1
            };
        }
        prefetch(simd, group);
        for (offset, block) in group.iter().enumerate() {
            [pass.scale[index + offset], pass.minimum[index + offset]] = F::units(block);
        }
        let minima = &mut pass.minima[index..index + together];
        let dots = simd.stream_dots::<F, T>(group, &operands[..together], minima);
        pass.products.as_flattened_mut()[index * T..][..DOTS].copy_from_slice(&dots);
        index += together;
    }
}

/// The exact products of a pass's minima with the sums of x.
#[inline(always)]
fn correct<S: Simd, F: StreamFormat, const T: usize>(
    simd: S,
    count: usize,
    x: &[&[ActivationSuperblock]; T],
    mut place: usize,
    pass: &mut Pass<T>,
) {
    let together = DOTS / T;
    for index in (0..count).step_by(together) {
        let mut operands = [(&pass.minima[index], &x[0][0]); DOTS];
        for offset in 0..together {
            for t in 0..T {
                operands[offset * T + t] = (&pass.minima[index + offset], &x[t][place]);
            }
            place = if place + 1 == x[0].len() {
                0
            } else {
                place + 1
            };
        }
        let dots = simd.stream_corrections::<F>(operands);
        pass.corrections.as_flattened_mut()[index * T..][..DOTS].copy_from_slice(&dots);
    }
}

#[inline(always)]
fn widen<S: Simd>(simd: S, halves: &[HalfBytes; PASS]) -> [f32; PASS] {
    let mut floats = [0.0; PASS];
    let parts = floats.as_chunks_mut::<LANES>().0;
    for (to, halves) in parts.iter_mut().zip(halves.as_chunks::<LANES>().0) {
        simd.store(simd.load_f16(halves), to);
    }
    floats
}

/// Wishes for the cache lines that will be used a while after these blocks.
#[inline(always)]
fn prefetch<S: Simd, B>(simd: S, blocks: &[B]) {
    const LINE: usize = 64;
    let start: *const u8 = blocks.as_ptr().cast();
    for offset in (0..size_of_val(blocks)).step_by(LINE) {
        simd.prefetch_far(start.wrapping_add(FAR_BYTES + offset));
        simd.prefetch(start.wrapping_add(NEAR_BYTES + offset));
    }
}

impl<const T: usize> Pass<T> {
    #[inline(always)]
    fn zeroed() -> Self {
        Self {
            minima: [[0; SUB_BLOCKS]; PASS],
            products: [[0.0; T]; PASS],
            corrections: [[0.0; T]; PASS],
            scale: [[0; 2]; PASS],
            minimum: [[0; 2]; PASS],
        }
    }
}
