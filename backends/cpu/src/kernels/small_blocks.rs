//! Products of rows of 32-element blocks (Q4_0, Q4_1, Q5_0, Q5_1, MXFP4) with quantised activations.
//!
//! Every format becomes one form before it is multiplied: unsigned quants, a scale and a minimum. That is done once
//! for all tokens of an op.

use super::activations::{BlockOperand, BlockRow, BlockRows};
use super::rows::{blocks_at, gather, prefetch_next};
use super::{PACKED_ROWS, SUMS, Simd, packed};
use crate::blocks::BLOCK;

/// A format of blocks of 32.
pub trait SmallBlockFormat {
    /// One as it lies in memory.
    type Block: bytemuck::Pod;
    /// What is taken from the unsigned quants.
    const OFFSET: i32;
    /// Whether blocks have minima.
    const MINIMUM: bool;
    /// The unsigned quants, below 64.
    fn quants<S: Simd>(simd: S, block: &Self::Block) -> [u8; BLOCK];
    /// Scales and minima of some blocks.
    fn units<S: Simd, const N: usize>(
        simd: S,
        blocks: [&Self::Block; N],
        scales: &mut [f32; N],
        minima: &mut [f32; N],
    );
}

/// One block of N rows: element i of row r is `scales[r] * (quants[r][i] - OFFSET) + minima[r]`.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub struct SmallPanel<const N: usize> {
    /// The integers.
    pub quants: [[u8; BLOCK]; N],
    /// Of the block.
    pub scales: [f32; N],
    /// Of the block.
    pub minima: [f32; N],
}

impl<const N: usize> SmallPanel<N> {
    const EMPTY: Self = Self {
        quants: [[0; BLOCK]; N],
        scales: [0.0; N],
        minima: [0.0; N],
    };

    #[inline(always)]
    fn unpack<S: Simd, F: SmallBlockFormat>(&mut self, simd: S, blocks: [&F::Block; N]) {
        for (quants, block) in self.quants.iter_mut().zip(blocks) {
            *quants = F::quants(simd, block);
        }
        F::units(simd, blocks, &mut self.scales, &mut self.minima);
    }
}

/// Every product of weight rows with rows `tokens` of x; `emit(token, row, sums)` gets consecutive rows of one token.
#[inline(always)]
pub fn products<'a, S: Simd, F: SmallBlockFormat>(
    simd: S,
    rows: usize,
    weight: impl Fn(usize) -> &'a [F::Block],
    x: &BlockRows,
    tokens: &[u32],
    mut emit: impl FnMut(usize, usize, &[f32]),
) where
    F::Block: 'a,
{
    let pack = tokens.len() >= S::PACK_FROM_TOKENS;
    let (mut packed, mut panels) = (packed::Panel::default(), Vec::new());
    let mut row = 0;
    while row < rows {
        let left = rows - row;
        if pack && left >= PACKED_ROWS {
            pack_rows::<S, F>(simd, gather(&weight, row, PACKED_ROWS), &mut packed);
            packed::products::<S>(simd, &packed, F::OFFSET, x, tokens, |token, sums| {
                emit(token, row, sums)
            });
            row += PACKED_ROWS;
            continue;
        }
        let height = left.min(SUMS);
        let group: [&[F::Block]; SUMS] = gather(&weight, row, height);
        if let &[token] = tokens {
            let sums = product::<S, F>(simd, group, x.row(token as usize));
            emit(0, row, &sums[..height]);
        } else {
            panels.resize(group[0].len(), SmallPanel::EMPTY);
            for (block, panel) in panels.iter_mut().enumerate() {
                panel.unpack::<S, F>(simd, blocks_at(&group, block));
            }
            for (token, &x_row) in tokens.iter().enumerate() {
                let sums = panel_product::<S, F>(simd, &panels, x.row(x_row as usize));
                emit(token, row, &sums[..height]);
            }
        }
        row += height;
    }
}

/// Eight rows with one token: each block is unpacked where it stays in the innermost cache.
#[inline(always)]
fn product<S: Simd, F: SmallBlockFormat>(
    simd: S,
    rows: [&[F::Block]; SUMS],
    x: BlockRow<'_>,
) -> [f32; SUMS] {
    let blocks = rows[0].len();
    let x = x.first(blocks);
    let mut panel = SmallPanel::EMPTY;
    let mut sums = simd.sums8_zero();
    for block in 0..blocks {
        prefetch_next(simd, &rows, block);
        panel.unpack::<S, F>(simd, blocks_at(&rows, block));
        sums = small_step::<S, F>(simd, &panel, x.block(block), sums);
    }
    simd.sums8_store(sums)
}

#[inline(always)]
fn panel_product<S: Simd, F: SmallBlockFormat>(
    simd: S,
    panels: &[SmallPanel<SUMS>],
    x: BlockRow<'_>,
) -> [f32; SUMS] {
    let x = x.first(panels.len());
    let mut sums = simd.sums8_zero();
    for (block, panel) in panels.iter().enumerate() {
        sums = small_step::<S, F>(simd, panel, x.block(block), sums);
    }
    simd.sums8_store(sums)
}

#[inline(always)]
fn small_step<S: Simd, F: SmallBlockFormat>(
    simd: S,
    panel: &SmallPanel<SUMS>,
    x: BlockOperand<'_>,
    sums: S::Sums8,
) -> S::Sums8 {
    if F::MINIMUM {
        simd.small_step::<true>(panel, F::OFFSET, x, sums)
    } else {
        simd.small_step::<false>(panel, F::OFFSET, x, sums)
    }
}

#[inline(always)]
fn pack_rows<S: Simd, F: SmallBlockFormat>(
    simd: S,
    rows: [&[F::Block]; PACKED_ROWS],
    to: &mut packed::Panel<S>,
) {
    let mut panel = SmallPanel::EMPTY;
    to.start(rows[0].len(), F::MINIMUM);
    for (block, (packed, minima)) in to.blocks().enumerate() {
        panel.unpack::<S, F>(simd, blocks_at(&rows, block));
        simd.pack_unsigned(&panel.quants, &panel.scales, packed);
        if let Some(minima) = minima {
            *minima = panel.minima;
        }
    }
}
