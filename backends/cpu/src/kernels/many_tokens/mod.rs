//! Products of many tokens in AVX-512 with VNNI: rows of weights in lanes, unpacked once for all tokens.

mod block_formats;
mod blocks;
mod columns;
pub mod superblock_formats;
mod superblocks;

use super::avx512::Avx512;
use super::product::Product;
use crate::blocks::{BLOCK, SUPERBLOCK};
use block_formats as small;
use odmoe_formats::BlockFormat as F;

pub use columns::ROWS;
use superblock_formats as large;
pub use superblocks::{Format as SuperblockFormat, PANEL_ROWS, Slice, Sums, add};

/// From how many tokens on unpacking rows into lanes pays.
const FROM_TOKENS: usize = 4;

/// Runs the product, where it is of many tokens and of a format that is done here; else says so.
pub fn product(proof: Avx512, product: &Product<'_>) -> bool {
    if product.tokens.len() < FROM_TOKENS {
        return false;
    }
    match product.weight.format {
        F::Q2_K => superblocks::<large::Q2K>(proof, product),
        F::Q3_K => superblocks::<large::Q3K>(proof, product),
        F::Q4_K => superblocks::<large::Q4K>(proof, product),
        F::Q5_K => superblocks::<large::Q5K>(proof, product),
        F::Q6_K => superblocks::<large::Q6K>(proof, product),
        F::Q8_0 => blocks::<small::Q8_0>(proof, product),
        F::Q4_0 => blocks::<small::Q4_0>(proof, product),
        F::Q4_1 => blocks::<small::Q4_1>(proof, product),
        F::Q5_0 => blocks::<small::Q5_0>(proof, product),
        F::Q5_1 => blocks::<small::Q5_1>(proof, product),
        F::MXFP4 => blocks::<small::Mxfp4>(proof, product),
        _ => return false,
    }
    true
}

fn superblocks<F: SuperblockFormat>(_proof: Avx512, product: &Product<'_>) {
    debug_assert_eq!(product.weight.format.block_elements(), SUPERBLOCK);
    let first = product.rows.start;
    // SAFETY: the machine has the instructions, as the proof says.
    unsafe {
        superblocks::products::<F>(
            product.rows.len(),
            |row| product.weight.blocks(first + row),
            product.x.superblocks.expect("activations in superblocks"),
            product.tokens,
            |token, row, sums| product.out.put(token, first + row, sums),
        );
    }
}

fn blocks<F: blocks::Format>(_proof: Avx512, product: &Product<'_>) {
    debug_assert_eq!(product.weight.format.block_elements(), BLOCK);
    let first = product.rows.start;
    // SAFETY: the machine has the instructions, as the proof says.
    unsafe {
        blocks::products::<F>(
            product.rows.len(),
            |row| product.weight.blocks(first + row),
            product.x.blocks.expect("activations in blocks"),
            product.tokens,
            |token, row, sums| product.out.put(token, first + row, sums),
        );
    }
}
