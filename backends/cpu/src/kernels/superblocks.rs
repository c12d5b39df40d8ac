//! Products of rows of superblocks (Q2_K to Q6_K, IQ4_XS) with quantised activations.
//!
//! Every format becomes one form before it is multiplied: quants, in most unsigned, and for each sub-block of 16 a
//! scale and a correction. That is done once for all tokens of an op.

use super::activations::{ActivationSuperblock, SuperblockRows};
use super::rows::{blocks_at, gather, prefetch_next};
use super::{PANEL_TOKENS, SUMS, Simd};
use crate::blocks::{HalfBytes, SUB_BLOCKS, SUPERBLOCK};

/// A format of superblocks.
pub trait SuperblockFormat {
    /// One as it lies in memory.
    type Block: bytemuck::Pod;
    /// Whether sub-blocks have minima.
    const MINIMUM: bool;
    /// Whether quants are signed bytes, and there are no corrections.
    const SIGNED: bool = false;
    /// Writes one superblock as row `row` of a panel.
    fn unpack<S: Simd>(simd: S, block: &Self::Block, panel: &mut Panel, row: usize);
}

/// One superblock of eight rows: element i of row r is `scale[r] * scales[r][i / 16] * quants[r][i]`, less
/// `minimum[r] * corrections[r][i / 16]` in a format with minima, else plus `scale[r] * corrections[r][i / 16]`.
///
/// Quants stay below 64, so that two products of them with activations, 2 * 63 * 127, fit 16 bits; signed quants are
/// not -128, for the same reason. Corrections stay within 4096.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub struct Panel {
    /// The integers.
    pub quants: [[u8; SUPERBLOCK]; SUMS],
    /// Of sub-blocks.
    pub scales: [[i16; SUB_BLOCKS]; SUMS],
    /// Of sub-blocks.
    pub corrections: [[i16; SUB_BLOCKS]; SUMS],
    /// Of the superblock.
    pub scale: [HalfBytes; SUMS],
    /// Of the superblock.
    pub minimum: [HalfBytes; SUMS],
}

impl Panel {
    const EMPTY: Self = Self {
        quants: [[0; SUPERBLOCK]; SUMS],
        scales: [[0; SUB_BLOCKS]; SUMS],
        corrections: [[0; SUB_BLOCKS]; SUMS],
        scale: [[0; 2]; SUMS],
        minimum: [[0; 2]; SUMS],
    };
}

/// Every product of weight rows with rows `tokens` of x; `emit(token, row, sums)` gets consecutive rows of one token.
#[inline(always)]
pub fn products<'a, S: Simd, F: SuperblockFormat>(
    simd: S,
    rows: usize,
    weight: impl Fn(usize) -> &'a [F::Block],
    x: &SuperblockRows,
    tokens: &[u32],
    mut emit: impl FnMut(usize, usize, &[f32]),
) where
    F::Block: 'a,
{
    let mut panels = Vec::new();
    for row in (0..rows).step_by(SUMS) {
        let height = SUMS.min(rows - row);
        let group = gather(&weight, row, height);
        if let &[token] = tokens {
            let sums = product::<S, F>(simd, group, x.row(token as usize));
            emit(0, row, &sums[..height]);
            continue;
        }
        panels.resize(group[0].len(), Panel::EMPTY);
        for (block, panel) in panels.iter_mut().enumerate() {
            unpack::<S, F>(simd, blocks_at(&group, block), panel);
        }
        panel_products::<S, F>(simd, &panels, x, tokens, |token, sums| {
            emit(token, row, &sums[..height])
        });
    }
}

#[inline(always)]
fn unpack<S: Simd, F: SuperblockFormat>(simd: S, blocks: [&F::Block; SUMS], panel: &mut Panel) {
    for (row, block) in blocks.into_iter().enumerate() {
        F::unpack(simd, block, panel, row);
    }
}

/// Eight rows with one token: each superblock is unpacked where it stays in the innermost cache.
#[inline(always)]
fn product<S: Simd, F: SuperblockFormat>(
    simd: S,
    rows: [&[F::Block]; SUMS],
    x: &[ActivationSuperblock],
) -> [f32; SUMS] {
    let mut panel = Panel::EMPTY;
    let mut sums = [simd.sums8_zero()];
    for (block, x) in x.iter().enumerate() {
        prefetch_next(simd, &rows, block);
        unpack::<S, F>(simd, blocks_at(&rows, block), &mut panel);
        sums = superblock_step::<S, F, 1>(simd, &panel, [x], sums);
    }
    simd.sums8_store(sums[0])
}

#[inline(always)]
fn panel_products<S: Simd, F: SuperblockFormat>(
    simd: S,
    panels: &[Panel],
    x: &SuperblockRows,
    tokens: &[u32],
    mut emit: impl FnMut(usize, [f32; SUMS]),
) {
    let mut token = 0;
    while token + PANEL_TOKENS <= tokens.len() {
        let mut rows = [x.row(tokens[token] as usize); PANEL_TOKENS];
        for t in 1..PANEL_TOKENS {
            rows[t] = x.row(tokens[token + t] as usize);
        }
        let sums = panel_tile::<S, F, PANEL_TOKENS>(simd, panels, rows);
        for (t, sums) in sums.into_iter().enumerate() {
            emit(token + t, sums);
        }
        token += PANEL_TOKENS;
    }
    while token < tokens.len() {
        let [sums] = panel_tile::<S, F, 1>(simd, panels, [x.row(tokens[token] as usize)]);
        emit(token, sums);
        token += 1;
    }
}

#[inline(always)]
fn panel_tile<S: Simd, F: SuperblockFormat, const T: usize>(
    simd: S,
    panels: &[Panel],
    mut x: [&[ActivationSuperblock]; T],
) -> [[f32; SUMS]; T] {
    for x in &mut x {
        *x = &x[..panels.len()];
    }
    let mut sums = [simd.sums8_zero(); T];
    for (block, panel) in panels.iter().enumerate() {
        sums = superblock_step::<S, F, T>(simd, panel, blocks_at(&x, block), sums);
    }
    let mut out = [[0.0; SUMS]; T];
    for (out, sums) in out.iter_mut().zip(sums) {
        *out = simd.sums8_store(sums);
    }
    out
}

#[inline(always)]
fn superblock_step<S: Simd, F: SuperblockFormat, const T: usize>(
    simd: S,
    panel: &Panel,
    x: [&ActivationSuperblock; T],
    sums: [S::Sums8; T],
) -> [S::Sums8; T] {
    if F::SIGNED {
        simd.signed_superblock_step::<T>(panel, x, sums)
    } else if F::MINIMUM {
        simd.superblock_step::<true, T>(panel, x, sums)
    } else {
        simd.superblock_step::<false, T>(panel, x, sums)
    }
}
