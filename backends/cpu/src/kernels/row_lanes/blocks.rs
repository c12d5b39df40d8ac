//! Blocks of 32 with many tokens: rows of weights in lanes as with superblocks, and one fused multiply-add a block.

use super::ahead::Ahead;
use super::columns::ROWS;
use super::sixteen::{Rows, Sixteen};
use super::sums::{PANEL_ROWS, SLICES, Sums};
use crate::blocks::{BLOCK, InLanes};
use crate::kernels::OutRows;
use crate::kernels::activations::{BlockOperand, BlockRow, BlockRows};
use std::arch::x86_64::*;

/// Tokens of one tile: as many as have all their dots and sums in registers beside the operands.
const TOKENS: usize = 6;
/// Elements of a row in one lane.
pub const WORD: usize = 4;
/// Blocks of a row that are unpacked together: two slices and the tokens' parts stay in the innermost cache.
const BLOCKS: usize = 8;

/// A format of blocks of 32, sixteen rows at a time.
pub trait Format {
    /// One as it lies in memory.
    type Block: InLanes;
    /// 2 to which power is taken from every quant; None where nothing is.
    const OFFSET_LOG2: Option<u32>;
    /// Whether blocks have minima.
    const MINIMUM: bool;
    /// The quants of one block of sixteen rows, four elements a lane, unsigned.
    ///
    /// # Safety
    /// The machine has what [`super::Avx512`] proves; as everywhere in this trait.
    unsafe fn quants<R: Sixteen<Block = Self::Block>>(rows: R) -> Words;
    /// The scales.
    ///
    /// # Safety
    /// As above.
    unsafe fn scales<R: Sixteen<Block = Self::Block>>(rows: R) -> __m512;
    /// The minima; zeros where there are none.
    ///
    /// # Safety
    /// As above.
    #[inline(always)]
    unsafe fn minima<R: Sixteen<Block = Self::Block>>(_rows: R) -> __m512 {
        // SAFETY: as this function's.
        unsafe { _mm512_setzero_ps() }
    }

    /// Writes one block of sixteen rows.
    ///
    /// # Safety
    /// As above.
    #[inline(always)]
    unsafe fn unpack<R: Sixteen<Block = Self::Block>>(rows: R, to: &mut Slice) {
        // SAFETY: as this function's; slices are aligned to registers.
        unsafe {
            let quants = Self::quants(rows);
            for (to, quants) in to.quants.iter_mut().zip(quants) {
                _mm512_store_si512(to.as_mut_ptr().cast(), quants);
            }
            _mm512_store_ps(to.scales.as_mut_ptr(), Self::scales(rows));
            if Self::MINIMUM {
                _mm512_store_ps(to.minima.as_mut_ptr(), Self::minima(rows));
            }
        }
    }
}

/// A block of sixteen rows.
pub type Words = [__m512i; BLOCK / WORD];

/// One block of sixteen rows, rows in lanes.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub struct Slice {
    /// Four elements a lane, unsigned.
    pub quants: [[[u8; WORD]; ROWS]; BLOCK / WORD],
    /// Of the blocks.
    pub scales: [f32; ROWS],
    /// Of the blocks.
    pub minima: [f32; ROWS],
}

impl Slice {
    const EMPTY: Self = Self {
        quants: [[[0; WORD]; ROWS]; BLOCK / WORD],
        scales: [0.0; ROWS],
        minima: [0.0; ROWS],
    };
}

type Panel = [[Slice; SLICES]; BLOCKS];

/// Every product of weight rows with rows `tokens` of x; `panel(row, height)` gives the rows from `row` on, in place of those that
/// are missing any others; row 0 comes out at column 0.
///
/// # Safety
/// The machine has AVX-512 F, BW, DQ, VL and VNNI.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub unsafe fn products<F: Format, R: Rows<Block = F::Block>>(
    rows: usize,
    panel_of: impl Fn(usize, usize) -> [R; SLICES],
    x: &BlockRows,
    tokens: &[u32],
    out: OutRows<'_>,
) {
    let mut panel: Box<Panel> = Box::new([[Slice::EMPTY; SLICES]; BLOCKS]);
    let mut sums: Vec<Sums> = Vec::new();
    for row in (0..rows).step_by(PANEL_ROWS) {
        let height = PANEL_ROWS.min(rows - row);
        let group = panel_of(row, height);
        sums.clear();
        sums.resize(tokens.len(), Sums::EMPTY);
        let blocks = group[0].len();
        let bytes = PANEL_ROWS * blocks * size_of::<F::Block>();
        let mut ahead = Ahead::of(group[0].first_byte(), bytes, blocks);
        for first in (0..blocks).step_by(BLOCKS) {
            let count = BLOCKS.min(blocks - first);
            let end = first + count;
            let wanted = tokens.len() * first / blocks..tokens.len() * end / blocks;
            out.wish(wanted, row, height);
            for (index, slices) in panel[..count].iter_mut().enumerate() {
                ahead.part();
                for (slice, rows) in slices.iter_mut().zip(group) {
                    // SAFETY: as this function's.
                    unsafe { F::unpack(rows.at(first + index), slice) };
                }
            }
            // SAFETY: as this function's.
            unsafe { panel_with_tokens::<F>(&panel[..count], first, x, tokens, &mut sums) };
        }
        for (token, sums) in sums.iter().enumerate() {
            out.put(token, row, &sums.rows()[..height]);
        }
    }
}

#[inline(always)]
unsafe fn panel_with_tokens<F: Format>(
    panel: &[[Slice; SLICES]],
    first: usize,
    x: &BlockRows,
    tokens: &[u32],
    sums: &mut [Sums],
) {
    // Tiles of nearly the same height: a last one of few tokens would load as much for fewer products.
    let tiles = tokens.len().div_ceil(TOKENS).max(1);
    let height = tokens.len().div_ceil(tiles).max(1);
    let groups = tokens.chunks(height).zip(sums.chunks_mut(height));
    for (tokens, sums) in groups {
        // SAFETY: as this function's.
        unsafe {
            match tokens.len() {
                6 => tile::<F, 6>(panel, first, x, tokens, sums),
                5 => tile::<F, 5>(panel, first, x, tokens, sums),
                4 => tile::<F, 4>(panel, first, x, tokens, sums),
                3 => tile::<F, 3>(panel, first, x, tokens, sums),
                2 => tile::<F, 2>(panel, first, x, tokens, sums),
                _ => tile::<F, 1>(panel, first, x, tokens, sums),
            }
        }
    }
}

/// Adds the panel's blocks, in ascending order, to the sums of T tokens.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn tile<F: Format, const T: usize>(
    panel: &[[Slice; SLICES]],
    first: usize,
    x: &BlockRows,
    tokens: &[u32],
    sums: &mut [Sums],
) {
    let mut rows: [BlockRow<'_>; T] = [x.row(tokens[0] as usize); T];
    for token in 1..T {
        rows[token] = x.row(tokens[token] as usize);
    }
    let sums: &mut [Sums; T] = sums.try_into().expect("as many sums as tokens");
    // SAFETY: slices and sums are aligned to registers.
    unsafe {
        let mut running = [[_mm512_setzero_ps(); SLICES]; T];
        for (running, sums) in running.iter_mut().zip(sums.iter()) {
            for (running, sums) in running.iter_mut().zip(&sums.slices) {
                *running = _mm512_load_ps(sums.as_ptr());
            }
        }
        for (index, slices) in panel.iter().enumerate() {
            let mut x = [rows[0].block(first + index); T];
            for token in 1..T {
                x[token] = rows[token].block(first + index);
            }
            block_step::<F, T>(slices, x, &mut running);
        }
        for (running, sums) in running.iter().zip(sums) {
            for (running, sums) in running.iter().zip(&mut sums.slices) {
                _mm512_store_ps(sums.as_mut_ptr(), *running);
            }
        }
    }
}

#[inline(always)]
unsafe fn block_step<F: Format, const T: usize>(
    slices: &[Slice; SLICES],
    x: [BlockOperand<'_>; T],
    sums: &mut [[__m512; SLICES]; T],
) {
    // SAFETY: slices are aligned to registers; words of x lie within its 32 elements; the instructions are there by
    // the contract of `products`.
    unsafe {
        let mut dots = [[_mm512_setzero_si512(); SLICES]; T];
        if let Some(shift) = F::OFFSET_LOG2 {
            for token in 0..T {
                let offset = -(x[token].block.sum << shift);
                dots[token] = [_mm512_set1_epi32(offset); SLICES];
            }
        }
        for word in 0..BLOCK / WORD {
            let mut weights = [_mm512_setzero_si512(); SLICES];
            for slice in 0..SLICES {
                weights[slice] = _mm512_load_si512(slices[slice].quants[word].as_ptr().cast());
            }
            for token in 0..T {
                let quants = x[token].block.quants.as_ptr().add(word * WORD);
                let quants = _mm512_set1_epi32(quants.cast::<i32>().read_unaligned());
                for slice in 0..SLICES {
                    dots[token][slice] =
                        _mm512_dpbusd_epi32(dots[token][slice], weights[slice], quants);
                }
            }
        }
        for slice in 0..SLICES {
            let scales = _mm512_load_ps(slices[slice].scales.as_ptr());
            let minima = _mm512_load_ps(slices[slice].minima.as_ptr());
            for token in 0..T {
                let x_scale = _mm512_set1_ps(x[token].block.scale);
                let dots = _mm512_cvtepi32_ps(dots[token][slice]);
                let sum = &mut sums[token][slice];
                *sum = _mm512_fmadd_ps(_mm512_mul_ps(scales, x_scale), dots, *sum);
                if F::MINIMUM {
                    let x_sum = _mm512_set1_ps(x[token].block.sum as f32);
                    *sum = _mm512_fmadd_ps(_mm512_mul_ps(minima, x_scale), x_sum, *sum);
                }
            }
        }
    }
}
