//! Products of one to a few tokens: rows of weights in lanes, as with many, but multiplied straight from registers.
//!
//! Memory is the limit here, and a thread must have many of its lines under way. So where rows lie by themselves, each lane
//! goes over rows that lie one after another, sixteen streams at once, each of which the machine's own prefetcher follows.
//! Rows that lie in lanes are one stream as they are.

mod apart;
mod blocks;
mod steps;
mod superblocks;
mod together;
mod wishes;

use super::columns::ROWS;
use super::sixteen::Rows;
use crate::blocks::InLanes;
#[cfg(test)]
use odmoe_formats::WeightLayout;
use std::arch::x86_64::*;

pub use blocks::Blocks;
pub use superblocks::Superblocks;
pub use wishes::{Part, Wishes};

/// The most tokens that are multiplied straight from registers.
pub const TOKENS_MAX: usize = 8;

/// The most tokens that a kind of format is multiplied with here. Each number is code of its own, and what nobody runs would
/// be compiled too.
pub struct Most {
    /// Where rows lie by themselves.
    pub apart: usize,
    /// Where they lie in lanes.
    pub together: usize,
}

impl Most {
    /// Of weights that lie so.
    #[cfg(test)]
    pub fn of(&self, layout: WeightLayout) -> usize {
        if layout == WeightLayout::Lanes16 {
            self.together
        } else {
            self.apart
        }
    }
}

/// A kind of format: what sixteen rows with T tokens are.
pub trait Kind {
    /// Neither is above [`TOKENS_MAX`].
    const MOST: Most;
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

/// Every product of weight rows with rows of x, at most [`Kind::MOST`]; `emit(token, row, sums)` gets
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
            Weights::Apart(rows, row) => {
                if const { T <= K::MOST.apart } {
                    return apart::products::<K, T>(rows, row, x, emit);
                }
            }
            Weights::Together(groups, blocks) => {
                if const { T <= K::MOST.together } {
                    return together::products::<K, T>(groups, blocks, x, emit);
                }
            }
        }
    }
    unreachable!("{T} tokens are not few");
}
