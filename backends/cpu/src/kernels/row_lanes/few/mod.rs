//! Products of one to a few tokens: rows of weights in lanes, as with many, but multiplied straight from registers.
//!
//! Memory is the limit here, and a thread must have many of its lines under way. So each lane goes over rows that lie
//! one after another, sixteen streams at once, each of which the machine's own prefetcher follows.

mod blocks;
mod steps;
mod superblocks;
mod wishes;

use super::columns::ROWS;
use std::arch::x86_64::*;
use steps::{STEPS, Steps};

pub use blocks::Blocks;
pub use superblocks::Superblocks;
pub use wishes::Wishes;

/// The most tokens that are multiplied straight from registers.
pub const TOKENS_MAX: usize = 8;

/// A kind of format: what sixteen rows with T tokens are.
pub trait Kind {
    /// One as it lies in memory.
    type Block: bytemuck::Pod;
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
    unsafe fn panel<const T: usize>(
        rows: [&[Self::Block]; ROWS],
        x: &[Self::X<'_>; T],
        head: &mut Self::Head,
        wishes: Wishes,
    ) -> [__m512; T];
}

/// Every product of weight rows with rows of x, at most [`TOKENS_MAX`]; `emit(token, row, sums)` gets
/// consecutive rows of one token.
///
/// # Safety
/// The machine has AVX-512 F, BW, DQ, VL and VNNI.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub unsafe fn products<'a, K: Kind>(
    rows: usize,
    weight: impl Fn(usize) -> &'a [K::Block],
    tokens: &[u32],
    x: impl Fn(u32) -> K::X<'a>,
    emit: impl FnMut(usize, usize, &[f32]),
) where
    K::Block: 'a,
{
    // SAFETY: as this function's.
    unsafe {
        match *tokens {
            [a] => of_tokens::<K, 1>(rows, weight, [x(a)], emit),
            [a, b] => of_tokens::<K, 2>(rows, weight, [x(a), x(b)], emit),
            [a, b, c] => of_tokens::<K, 3>(rows, weight, [x(a), x(b), x(c)], emit),
            [a, b, c, d] => of_tokens::<K, 4>(rows, weight, [x(a), x(b), x(c), x(d)], emit),
            [a, b, c, d, e] => of_tokens::<K, 5>(rows, weight, [a, b, c, d, e].map(x), emit),
            [a, b, c, d, e, f] => of_tokens::<K, 6>(rows, weight, [a, b, c, d, e, f].map(x), emit),
            [a, b, c, d, e, f, g] => {
                of_tokens::<K, 7>(rows, weight, [a, b, c, d, e, f, g].map(x), emit)
            }
            [a, b, c, d, e, f, g, h] => {
                of_tokens::<K, 8>(rows, weight, [a, b, c, d, e, f, g, h].map(x), emit)
            }
            _ => unreachable!("{} tokens are none or not few", tokens.len()),
        }
    }
}

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn of_tokens<'a, K: Kind, const T: usize>(
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
    let wishes = Wishes::of_this_machine();
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
            if row == 0 {
                wishes.begin(&group);
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
