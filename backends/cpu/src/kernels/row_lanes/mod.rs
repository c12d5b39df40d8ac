//! Products in AVX-512 with VNNI that have rows of weights in lanes.
//!
//! With few tokens weights go from memory through registers, with many they are unpacked once into the innermost cache.

mod ahead;
mod block_formats;
mod blocks;
mod columns;
mod dozen;
mod few;
mod sixteen;
mod sums;
pub mod superblock_formats;
mod superblock_parts;
mod superblocks;
#[cfg(test)]
mod tests;

use super::activations::{BlockRows, SuperblockRows};
use super::avx512::Avx512;
use super::processor::is_amd;
use super::product::Product;
use super::rows::gather;
use crate::blocks::{BLOCK, SUPERBLOCK};
use crate::view::WeightView;
use block_formats as small;
use bytemuck::Pod;
use odmoe_formats::{BlockFormat as F, WeightLayout};

pub use ahead::Ahead;
pub use columns::{ROWS, transpose_quarters, widen_low_halves};
pub use sixteen::{ApartRows, Rows, TogetherRows};
pub use sums::{PANEL_ROWS, SLICES, Sums};
use superblock_formats as large;
pub use superblocks::{Format as SuperblockFormat, Slice, WORD, add};

/// How many tokens are multiplied straight from registers. On AMD's cores a store of a register takes two cycles, so that
/// unpacking into memory pays later.
fn few_max(on_amd: usize) -> usize {
    if is_amd() { on_amd } else { FEW_ELSEWHERE }
}

/// On other cores than AMD's.
const FEW_ELSEWHERE: usize = 4;

/// Tokens from which on superblocks in lanes are multiplied by dozens.
const SUPERBLOCKS_BY_DOZENS: usize = 3;
/// The same for blocks of 32, of which few need no more registers.
const BLOCKS_BY_DOZENS: usize = few::TOKENS_MAX + 1;
/// Beyond this unpacking is next to nothing, and panels load less.
const BY_DOZENS_MAX: usize = 63;

/// Whether the product goes by dozens. Measured on AMD's cores alone, which take two cycles to store each register that
/// panels store.
fn by_dozens(product: &Product<'_>, from: usize) -> bool {
    let lanes = product.weight.layout == WeightLayout::Lanes16;
    lanes && is_amd() && (from..=BY_DOZENS_MAX).contains(&product.tokens.len())
}

/// As [`dozen::product`].
fn dozen<'a, K: dozen::Kind>(_proof: Avx512, product: &Product<'a>, x: impl Fn(u32) -> K::X<'a>) {
    // SAFETY: the machine has the instructions, as the proof says.
    unsafe { dozen::product::<K>(product, x) }
}

/// Runs the product, where it is of a format that is done here; else says so.
pub fn product(proof: Avx512, product: &Product<'_>) -> bool {
    match product.weight.format {
        F::Q2_K => superblocks::<large::Q2K>(proof, product),
        F::Q3_K => superblocks::<large::Q3K>(proof, product),
        F::Q4_K => superblocks::<large::Q4K>(proof, product),
        F::Q5_K => superblocks::<large::Q5K>(proof, product),
        F::Q6_K => superblocks::<large::Q6K>(proof, product),
        F::IQ4_XS => of_superblocks::<large::Iq4Xs, true>(proof, product),
        F::Q8_0 => blocks::<small::Q8_0>(proof, product),
        F::Q4_0 => blocks::<small::Q4_0>(proof, product),
        F::Q4_1 => blocks::<small::Q4_1>(proof, product),
        F::Q5_0 => blocks::<small::Q5_0>(proof, product),
        F::Q5_1 => blocks::<small::Q5_1>(proof, product),
        F::MXFP4 => blocks::<small::Mxfp4>(proof, product),
        F::IQ4_NL => blocks::<small::Iq4Nl>(proof, product),
        _ => return false,
    }
    true
}

/// As [`few::products`].
fn few<'a, K: few::Kind>(_proof: Avx512, product: &Product<'a>, x: impl Fn(u32) -> K::X<'a>)
where
    K::Block: 'a,
{
    let first = product.rows.start;
    let weights = match product.weight.layout {
        WeightLayout::Lanes16 => {
            let blocks = product.weight.row_bytes() / size_of::<K::Block>();
            few::Weights::Together(product.weight.groups(product.rows.clone()), blocks)
        }
        _ => few::Weights::Apart(product.rows.len(), |row| product.weight.blocks(first + row)),
    };
    // SAFETY: the machine has the instructions, as the proof says.
    unsafe {
        few::products::<K>(weights, product.tokens, x, |token, row, sums| {
            product.out.put(token, first + row, sums);
        });
    }
}

/// A panel of rows that lie by themselves: `height` rows, then copies of the first.
#[inline(always)]
pub fn panel_apart<'a, B: Pod>(
    weight: &WeightView<'a>,
    row: usize,
    height: usize,
) -> [ApartRows<'a, B>; SLICES] {
    let rows: [&[B]; PANEL_ROWS] = gather(&|row| weight.blocks(row), row, height);
    let (slices, _) = rows.as_chunks::<ROWS>();
    [ApartRows(slices[0]), ApartRows(slices[1])]
}

/// A panel of rows in lanes: one group or two, of which a missing one is the first again.
#[inline(always)]
pub fn panel_together<'a, B: Pod>(
    weight: &WeightView<'a>,
    row: usize,
    height: usize,
) -> [TogetherRows<'a, B>; SLICES] {
    let group = |row: usize| TogetherRows(weight.groups(row..row + ROWS));
    [group(row), group(row + height - ROWS)]
}

fn superblocks<F: SuperblockFormat>(proof: Avx512, product: &Product<'_>) {
    if is_amd() {
        of_superblocks::<F, true>(proof, product);
    } else {
        of_superblocks::<F, false>(proof, product);
    }
}

fn of_superblocks<F: SuperblockFormat, const WHOLE: bool>(proof: Avx512, product: &Product<'_>) {
    const { assert!(WHOLE || F::GROUP > 0) };
    debug_assert_eq!(product.weight.format.block_elements(), SUPERBLOCK);
    let x = product.x.superblocks.expect("activations in superblocks");
    if by_dozens(product, SUPERBLOCKS_BY_DOZENS) {
        return dozen::<dozen::Superblocks<F>>(proof, product, |token| x.row(token as usize));
    }
    if product.tokens.len() <= few_max(F::FEW_ON_AMD) {
        few_tokens::<F, WHOLE>(proof, product, x);
    } else {
        many_tokens::<F, WHOLE>(proof, product, x);
    }
}

/// As [`few::products`].
fn few_tokens<F: SuperblockFormat, const WHOLE: bool>(
    proof: Avx512,
    product: &Product<'_>,
    x: &SuperblockRows,
) {
    few::<few::Superblocks<F, WHOLE>>(proof, product, |token| x.row(token as usize));
}

/// As [`superblocks::products`].
fn many_tokens<F: SuperblockFormat, const WHOLE: bool>(
    _proof: Avx512,
    product: &Product<'_>,
    x: &SuperblockRows,
) {
    let (rows, tokens) = (product.rows.len(), product.tokens);
    let (first, weight) = (product.rows.start, &product.weight);
    let out = product.out.starting_at(first);
    // SAFETY: the machine has the instructions, as the proof says.
    unsafe {
        match weight.layout {
            WeightLayout::Lanes16 => {
                let panel = |row, height| panel_together(weight, first + row, height);
                superblocks::products::<F, _, WHOLE>(rows, panel, x, tokens, out);
            }
            _ => {
                let panel = |row, height| panel_apart(weight, first + row, height);
                superblocks::products::<F, _, WHOLE>(rows, panel, x, tokens, out);
            }
        }
    }
}

fn blocks<F: blocks::Format>(proof: Avx512, product: &Product<'_>) {
    debug_assert_eq!(product.weight.format.block_elements(), BLOCK);
    let x = product.x.blocks.expect("activations in blocks");
    if by_dozens(product, BLOCKS_BY_DOZENS) {
        return dozen::<dozen::Blocks<F>>(proof, product, |token| x.row(token as usize));
    }
    if product.tokens.len() <= few_max(few::TOKENS_MAX) {
        return few::<few::Blocks<F>>(proof, product, |token| x.row(token as usize));
    }
    many_blocks::<F>(proof, product, x);
}

/// As [`blocks::products`].
fn many_blocks<F: blocks::Format>(_proof: Avx512, product: &Product<'_>, x: &BlockRows) {
    let (rows, tokens) = (product.rows.len(), product.tokens);
    let (first, weight) = (product.rows.start, &product.weight);
    let out = product.out.starting_at(first);
    // SAFETY: the machine has the instructions, as the proof says.
    unsafe {
        match weight.layout {
            WeightLayout::Lanes16 => {
                let panel = |row, height| panel_together(weight, first + row, height);
                blocks::products::<F, _>(rows, panel, x, tokens, out);
            }
            _ => {
                let panel = |row, height| panel_apart(weight, first + row, height);
                blocks::products::<F, _>(rows, panel, x, tokens, out);
            }
        }
    }
}
