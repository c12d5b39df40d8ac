//! Products of many tokens with superblocks in AMX.
//!
//! Weights are unpacked as for AVX-512, then split into planes of bytes that tiles multiply with sixteen tokens at a
//! time. What follows the integers, and formats in blocks of 32, are AVX-512's.

mod planes;
#[cfg(test)]
mod tests;
mod tiles;

pub use tiles::Amx;
#[cfg(test)]
pub use tiles::Emulated;

use super::activations::SuperblockRows;
use super::avx512::Avx512;
use super::many_tokens::{
    self, PANEL_ROWS, ROWS, Slice, Sums, SuperblockFormat, superblock_formats as large,
};
use super::product::Product;
use crate::blocks::SUPERBLOCK;
use odmoe_formats::BlockFormat as F;
use planes::{Planes, SLICES};
use std::arch::x86_64::*;
use tiles::{PlaneSums, TOKENS, Tiles, Tokens};

/// From how many tokens on the planes pay. Counted, not measured: sixteen rows of a superblock take some 320 cycles to
/// split and 128 to multiply with up to sixteen tokens, and AVX-512 takes 45 a token.
const FROM_TOKENS: usize = 12;

/// Runs the product, where it is of many tokens and of a format that is done here; else says so.
pub fn product<T: Tiles>(proof: Avx512, tiles: T, product: &Product<'_>) -> bool {
    if product.tokens.len() < FROM_TOKENS {
        return false;
    }
    match product.weight.format {
        F::Q2_K => superblocks::<T, large::Q2K>(proof, tiles, product),
        F::Q3_K => superblocks::<T, large::Q3K>(proof, tiles, product),
        F::Q4_K => superblocks::<T, large::Q4K>(proof, tiles, product),
        F::Q5_K => superblocks::<T, large::Q5K>(proof, tiles, product),
        F::Q6_K => superblocks::<T, large::Q6K>(proof, tiles, product),
        _ => return false,
    }
    true
}

fn superblocks<T: Tiles, F: SuperblockFormat>(_proof: Avx512, tiles: T, product: &Product<'_>) {
    let x = product.x.superblocks.expect("activations in superblocks");
    // SAFETY: the machine has AVX-512, as the proof says.
    unsafe { products::<T, F>(&tiles.configure(), product, x) }
}

/// What a product works on: a panel of weights in each form, and sums of tiles.
struct Work {
    slices: [Slice; SLICES],
    planes: [Planes; SLICES],
    tiles: [PlaneSums; SLICES],
}

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn products<T: Tiles, F: SuperblockFormat>(
    tiles: &T::Configured,
    product: &Product<'_>,
    x: &SuperblockRows,
) {
    let (tokens, rows) = (product.tokens, product.rows.clone());
    let blocks = product.weight.columns / SUPERBLOCK;
    let groups_a_block = tokens.len().div_ceil(TOKENS);
    let packed = pack(x, tokens, blocks);
    let mut work = Box::new(Work {
        slices: [Slice::EMPTY; SLICES],
        planes: [Planes::EMPTY; SLICES],
        tiles: [PlaneSums::EMPTY; SLICES],
    });
    let mut sums: Vec<Sums> = Vec::new();
    for row in rows.clone().step_by(PANEL_ROWS) {
        let height = PANEL_ROWS.min(rows.end - row);
        let weight = |row| product.weight.blocks(row);
        let group: [&[F::Block]; PANEL_ROWS] = super::rows::gather(&weight, row, height);
        sums.clear();
        sums.resize(tokens.len(), [[0.0; ROWS]; SLICES]);
        for block in 0..blocks {
            let Work { slices, planes, .. } = &mut *work;
            for ((slice, planes), rows) in (slices.iter_mut().zip(planes)).zip(group.as_chunks().0)
            {
                // SAFETY: the machine has AVX-512.
                unsafe { F::unpack(super::rows::blocks_at(rows, block), slice) };
                planes.fill::<F>(slice);
            }
            let groups = tokens.chunks(TOKENS).zip(sums.chunks_mut(TOKENS));
            for ((tokens, sums), packed) in groups.zip(&packed[block * groups_a_block..]) {
                T::multiply(tiles, packed, &work.planes, &mut work.tiles);
                for (token, sums) in sums.iter_mut().enumerate() {
                    let x = &x.row(tokens[token] as usize)[block];
                    let dots = [
                        whole::<F>(&work.tiles[0], token),
                        whole::<F>(&work.tiles[1], token),
                    ];
                    // SAFETY: the machine has AVX-512.
                    unsafe { many_tokens::add::<F>(&work.slices, x, dots, sums) };
                }
            }
        }
        for (token, sums) in sums.iter().enumerate() {
            product.out.put(token, row, &sums.as_flattened()[..height]);
        }
    }
}

/// The quants of the tokens, superblock by superblock in groups of sixteen; what is missing of the last are zeros.
fn pack(x: &SuperblockRows, tokens: &[u32], blocks: usize) -> Vec<Tokens> {
    let mut packed = Vec::with_capacity(blocks * tokens.len().div_ceil(TOKENS));
    for block in 0..blocks {
        for tokens in tokens.chunks(TOKENS) {
            let mut group = Tokens([[0; SUPERBLOCK]; TOKENS]);
            for (to, &token) in group.0.iter_mut().zip(tokens) {
                *to = x.row(token as usize)[block].quants;
            }
            packed.push(group);
        }
    }
    packed
}

/// The integer dots of sixteen rows with a token, from those of the planes.
#[inline]
#[target_feature(enable = "avx512f")]
fn whole<F: SuperblockFormat>(tiles: &PlaneSums, token: usize) -> __m512i {
    // SAFETY: the arrays have the 64 bytes of a register.
    let (low, high) = unsafe {
        (
            _mm512_loadu_si512(tiles.low[token].as_ptr().cast()),
            _mm512_loadu_si512(tiles.high[token].as_ptr().cast()),
        )
    };
    let whole = _mm512_add_epi32(low, _mm512_slli_epi32::<8>(high));
    _mm512_sra_epi32(whole, _mm_cvtsi32_si128(F::SHIFT as i32))
}
