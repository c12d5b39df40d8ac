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
use super::product::Product;
use super::row_lanes::{
    self, Ahead, PANEL_ROWS, Rows, Slice, Sums, SuperblockFormat, superblock_formats as large,
};
use crate::blocks::SUPERBLOCK;
use odmoe_formats::{BlockFormat as F, WeightLayout};
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
        F::IQ4_XS => superblocks::<T, large::Iq4Xs>(proof, tiles, product),
        _ => return false,
    }
    true
}

fn superblocks<T: Tiles, F: SuperblockFormat>(_proof: Avx512, tiles: T, product: &Product<'_>) {
    let x = product.x.superblocks.expect("activations in superblocks");
    let tiles = tiles.configure();
    let emit = |token, row, sums: &[f32]| product.out.put(token, row, sums);
    let weight = &product.weight;
    // SAFETY: the machine has AVX-512, as the proof says.
    unsafe {
        match weight.layout {
            WeightLayout::Lanes16 => {
                let panel = |row, height| row_lanes::panel_together(weight, row, height);
                products::<T, F, _>(&tiles, product, panel, x, emit);
            }
            _ => {
                let panel = |row, height| row_lanes::panel_apart(weight, row, height);
                products::<T, F, _>(&tiles, product, panel, x, emit);
            }
        }
    }
}

/// What a product works on: a panel of weights in each form, and sums of tiles.
struct Work {
    slices: [Slice; SLICES],
    planes: [Planes; SLICES],
    x: Tokens,
    tiles: [PlaneSums; SLICES],
}

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn products<T: Tiles, F: SuperblockFormat, R: Rows<Block = F::Block>>(
    tiles: &T::Configured,
    product: &Product<'_>,
    panel_of: impl Fn(usize, usize) -> [R; SLICES],
    x: &SuperblockRows,
    emit: impl Fn(usize, usize, &[f32]),
) {
    let (rows, tokens) = (product.rows.clone(), product.tokens);
    let blocks = product.weight.columns / SUPERBLOCK;
    let mut work = Box::new(Work {
        slices: [Slice::EMPTY; SLICES],
        planes: [Planes::EMPTY; SLICES],
        x: Tokens([[0; SUPERBLOCK]; TOKENS]),
        tiles: [PlaneSums::EMPTY; SLICES],
    });
    let mut sums: Vec<Sums> = Vec::new();
    for row in rows.clone().step_by(PANEL_ROWS) {
        let height = PANEL_ROWS.min(rows.end - row);
        let group = panel_of(row, height);
        sums.clear();
        sums.resize(tokens.len(), Sums::EMPTY);
        let bytes = PANEL_ROWS * product.weight.row_bytes();
        let mut ahead = Ahead::of(group[0].first_byte(), bytes, blocks * SLICES);
        for block in 0..blocks {
            let Work { slices, planes, .. } = &mut *work;
            for ((slice, planes), rows) in (slices.iter_mut().zip(planes)).zip(group) {
                ahead.part();
                // SAFETY: the machine has AVX-512.
                unsafe { F::unpack::<false, _>(rows.at(block), slice) };
                planes.fill::<F>(slice);
            }
            let groups = tokens.chunks(TOKENS).zip(sums.chunks_mut(TOKENS));
            for (tokens, sums) in groups {
                gather(x, tokens, block, &mut work.x);
                T::multiply(tiles, &work.x, &work.planes, &mut work.tiles);
                for (token, sums) in sums.iter_mut().enumerate() {
                    let x = &x.row(tokens[token] as usize)[block];
                    let dots = [
                        whole::<F>(&work.tiles[0], token),
                        whole::<F>(&work.tiles[1], token),
                    ];
                    // SAFETY: the machine has AVX-512.
                    unsafe { row_lanes::add::<F>(&work.slices, x, dots, sums) };
                }
            }
        }
        for (token, sums) in sums.iter().enumerate() {
            emit(token, row, &sums.rows()[..height]);
        }
    }
}

/// The quants of a superblock of up to sixteen tokens; what is missing stays as it was, and its sums are not read.
fn gather(x: &SuperblockRows, tokens: &[u32], block: usize, to: &mut Tokens) {
    for (to, &token) in to.0.iter_mut().zip(tokens) {
        *to = x.row(token as usize)[block].quants;
    }
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
