//! Products of one to a few tokens: rows of weights in lanes, as with many, but multiplied straight from registers.
//!
//! Memory is the limit here, and a thread must have many of its lines under way. So where rows lie by themselves, each lane
//! goes over rows that lie one after another, sixteen streams at once, each of which the machine's own prefetcher follows.
//! Rows that lie in lanes are one stream as they are.

mod blocks;
mod steps;
mod superblocks;
mod wishes;

use super::columns::ROWS;
use super::sixteen::{ApartRows, Rows, TogetherRows};
use crate::blocks::InLanes;
use std::arch::x86_64::*;
use steps::{STEPS, Steps};

pub use blocks::Blocks;
pub use superblocks::Superblocks;
pub use wishes::{Part, Wishes};

/// The most tokens that are multiplied straight from registers.
pub const TOKENS_MAX: usize = 8;

/// A kind of format: what sixteen rows with T tokens are.
pub trait Kind {
    /// One as it lies in memory.
    type Block: InLanes;
    /// One of a row of activations.
    type X<'x>: Copy;
    /// Where a block's scales and minima are laid out, if that is in memory.
    type Head;
    /// To begin with.
    const EMPTY: Self::Head;

    /// The sums of sixteen rows with every token, block by block in ascending order. What `head` holds does not matter.
    ///
    /// # Safety
    /// The machine has AVX-512 F, BW, DQ, VL and VNNI.
    unsafe fn panel<R: Rows<Block = Self::Block>, const T: usize>(
        rows: R,
        x: &[Self::X<'_>; T],
        head: &mut Self::Head,
        wishes: Wishes,
    ) -> [__m512; T];
}

/// The weights of a product.
#[derive(Clone, Copy)]
pub enum Weights<'a, B, F> {
    /// So many rows, each by itself.
    Apart(usize, F),
    /// Groups of sixteen rows in lanes, of so many blocks each.
    Together(&'a [[B; ROWS]], usize),
}

/// Every product of weight rows with rows of x, at most [`TOKENS_MAX`]; `emit(token, row, sums)` gets
/// consecutive rows of one token.
///
/// # Safety
/// The machine has AVX-512 F, BW, DQ, VL and VNNI.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub unsafe fn products<'a, K: Kind>(
    weights: Weights<'a, K::Block, impl Fn(usize) -> &'a [K::Block]>,
    tokens: &[u32],
    x: impl Fn(u32) -> K::X<'a>,
    emit: impl FnMut(usize, usize, &[f32]),
) where
    K::Block: 'a,
{
    // SAFETY: as this function's.
    unsafe {
        match *tokens {
            [a] => with_tokens::<K, 1>(weights, [x(a)], emit),
            [a, b] => with_tokens::<K, 2>(weights, [x(a), x(b)], emit),
            [a, b, c] => with_tokens::<K, 3>(weights, [x(a), x(b), x(c)], emit),
            [a, b, c, d] => with_tokens::<K, 4>(weights, [x(a), x(b), x(c), x(d)], emit),
            [a, b, c, d, e] => with_tokens::<K, 5>(weights, [a, b, c, d, e].map(x), emit),
            [a, b, c, d, e, f] => with_tokens::<K, 6>(weights, [a, b, c, d, e, f].map(x), emit),
            [a, b, c, d, e, f, g] => {
                with_tokens::<K, 7>(weights, [a, b, c, d, e, f, g].map(x), emit)
            }
            [a, b, c, d, e, f, g, h] => {
                with_tokens::<K, 8>(weights, [a, b, c, d, e, f, g, h].map(x), emit)
            }
            _ => unreachable!("{} tokens are none or not few", tokens.len()),
        }
    }
}

#[inline(always)]
unsafe fn with_tokens<'a, K: Kind, const T: usize>(
    weights: Weights<'a, K::Block, impl Fn(usize) -> &'a [K::Block]>,
    x: [K::X<'a>; T],
    emit: impl FnMut(usize, usize, &[f32]),
) where
    K::Block: 'a,
{
    // SAFETY: as this function's.
    unsafe {
        match weights {
            Weights::Apart(rows, row) => of_rows_apart::<K, T>(rows, row, x, emit),
            Weights::Together(groups, blocks) => of_lanes::<K, T>(groups, blocks, x, emit),
        }
    }
}

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn of_lanes<K: Kind, const T: usize>(
    groups: &[[K::Block; ROWS]],
    blocks: usize,
    x: [K::X<'_>; T],
    mut emit: impl FnMut(usize, usize, &[f32]),
) {
    let mut head = K::EMPTY;
    let wishes = Wishes::of_this_machine(T);
    for (group, rows) in groups.chunks_exact(blocks).enumerate() {
        let rows = TogetherRows(rows);
        if group == 0 {
            rows.begin(wishes);
        }
        // SAFETY: as this function's; sixteen floats are a register.
        unsafe {
            let of_tokens = K::panel(rows, &x, &mut head, wishes);
            for (token, of_token) in of_tokens.into_iter().enumerate() {
                let mut sums = [0.0f32; ROWS];
                _mm512_storeu_ps(sums.as_mut_ptr(), of_token);
                emit(token, group * ROWS, &sums);
            }
        }
    }
}

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn of_rows_apart<'a, K: Kind, const T: usize>(
    rows: usize,
    weight: impl Fn(usize) -> &'a [K::Block],
    x: [K::X<'_>; T],
    mut emit: impl FnMut(usize, usize, &[f32]),
) where
    K::Block: 'a,
{
    // Rows of a lane. Where they do not go up, the last lanes repeat the last row.
    let each = rows.div_ceil(ROWS);
    let mut head = K::EMPTY;
    let wishes = Wishes::of_this_machine(T);
    let mut sums = [Steps::EMPTY; T];
    for first in (0..each).step_by(STEPS) {
        let steps = STEPS.min(each - first);
        for step in 0..steps {
            let row = first + step;
            let mut group = [weight(row); ROWS];
            let blocks = group[0].len();
            for (lane, to) in group.iter_mut().enumerate().skip(1) {
                *to = &weight((row + lane * each).min(rows - 1))[..blocks];
            }
            let group = ApartRows(group);
            if row == 0 {
                group.begin(wishes);
            }
            // SAFETY: as this function's.
            unsafe {
                let of_tokens = K::panel(group, &x, &mut head, wishes);
                for (sums, of_token) in sums.iter_mut().zip(of_tokens) {
                    sums.put(step, of_token);
                }
            }
        }
        for (token, sums) in sums.iter().enumerate() {
            // SAFETY: as this function's.
            let lanes = unsafe { sums.turn() };
            for (lane, sums) in lanes.0.iter().enumerate() {
                let row = first + lane * each;
                // Rows of the last lanes may be those of others once more.
                if row < rows {
                    emit(token, row, &sums[..steps.min(rows - row)]);
                }
            }
        }
    }
}
