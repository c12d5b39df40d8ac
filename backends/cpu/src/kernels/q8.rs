//! Products of Q8_0 rows with quantised activations.

use super::activations::{BlockRow, BlockRows};
use super::rows::{blocks_at, gather, prefetch_next};
use super::{PACKED_ROWS, SUMS, Simd, packed};
use crate::blocks::Q8Block;

/// Every product of weight rows with rows `tokens` of x; `emit(token, row, sums)` gets consecutive rows of one token.
///
/// Where there are many tokens, weights are rearranged, sixteen rows at a time. Both ways add the same integers
/// exactly and then do the same one fused multiply-add a block, in ascending order of blocks.
#[inline(always)]
pub fn products<'a, S: Simd>(
    simd: S,
    rows: usize,
    weight: impl Fn(usize) -> &'a [Q8Block],
    x: &BlockRows,
    tokens: &[u32],
    mut emit: impl FnMut(usize, usize, &[f32]),
) {
    let pack = tokens.len() >= S::PACK_FROM_TOKENS;
    let mut packed = packed::Panel::default();
    let mut row = 0;
    while row < rows {
        let left = rows - row;
        if pack && left >= PACKED_ROWS {
            pack_rows(simd, gather(&weight, row, PACKED_ROWS), &mut packed);
            packed::products(simd, &packed, S::Q8_OFFSET, x, tokens, |token, sums| {
                emit(token, row, sums)
            });
            row += PACKED_ROWS;
        } else {
            let height = left.min(SUMS);
            let group = gather(&weight, row, height);
            for (token, &x_row) in tokens.iter().enumerate() {
                let sums = product8(simd, group, x.row(x_row as usize));
                emit(token, row, &sums[..height]);
            }
            row += height;
        }
    }
}

#[inline(always)]
fn product8<S: Simd>(simd: S, rows: [&[Q8Block]; SUMS], x: BlockRow<'_>) -> [f32; SUMS] {
    let blocks = rows[0].len();
    let x = x.first(blocks);
    let mut sums = simd.sums8_zero();
    for block in 0..blocks {
        prefetch_next(simd, &rows, block);
        sums = simd.q8_step(blocks_at(&rows, block), x.block(block), sums);
    }
    simd.sums8_store(sums)
}

#[inline(always)]
fn pack_rows<S: Simd>(simd: S, rows: [&[Q8Block]; PACKED_ROWS], to: &mut packed::Panel<S>) {
    to.start(rows[0].len(), false);
    for (block, (to, _)) in to.blocks().enumerate() {
        simd.pack(blocks_at(&rows, block), to);
    }
}
