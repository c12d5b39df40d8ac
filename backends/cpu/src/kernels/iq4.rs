//! Products of IQ4_NL and IQ4_XS: their codes become the signed bytes that they stand for, and these are multiplied as
//! those of Q8_0, or as a superblock with signed quants.

use super::activations::BlockRows;
use super::small_block_formats::halves;
use super::superblocks::{Panel, SuperblockFormat};
use super::{PACKED_ROWS, SUMS, Simd, q8};
use crate::blocks::{BLOCK, Iq4XsBlock, Q4Block, Q8Block, SUPERBLOCK};

/// What the codes stand for, as signed bytes.
const VALUES: [u8; 16] = [
    129, 152, 173, 191, 207, 221, 234, 246, // -127, -104, -83, -65, -49, -35, -22, -10
    1, 13, 25, 38, 53, 69, 89, 113,
];

/// The same, 128 more: the sign's bit turned.
#[cfg(target_arch = "x86_64")]
pub const VALUES_AND_128: [u8; 16] = {
    let mut values = VALUES;
    let mut code = 0;
    while code < values.len() {
        values[code] ^= 128;
        code += 1;
    }
    values
};

/// Every product of rows of IQ4_NL with rows `tokens` of x; `emit(token, row, sums)` gets consecutive rows of one
/// token. A few rows at a time become rows of Q8_0, where they stay in the innermost caches.
#[inline(always)]
pub fn iq4_nl_products<'a, S: Simd>(
    simd: S,
    rows: usize,
    weight: impl Fn(usize) -> &'a [Q4Block],
    x: &BlockRows,
    tokens: &[u32],
    mut emit: impl FnMut(usize, usize, &[f32]),
) {
    let height = if tokens.len() < S::PACK_FROM_TOKENS {
        SUMS
    } else {
        PACKED_ROWS
    };
    let mut unpacked = Vec::new();
    for first in (0..rows).step_by(height) {
        let height = height.min(rows - first);
        let blocks = weight(first).len();
        unpacked.clear();
        for row in first..first + height {
            for block in weight(row) {
                unpacked.push(q8_block(simd, block));
            }
        }
        q8::products(
            simd,
            height,
            |row| &unpacked[row * blocks..][..blocks],
            x,
            tokens,
            |token, row, sums| emit(token, first + row, sums),
        );
    }
}

#[inline(always)]
fn q8_block<S: Simd>(simd: S, block: &Q4Block) -> Q8Block {
    Q8Block {
        scale: block.scale,
        quants: bytemuck::cast(simd.look_up(&VALUES, halves(&block.quants))),
    }
}

/// IQ4_XS.
pub struct Iq4Xs;

impl SuperblockFormat for Iq4Xs {
    type Block = Iq4XsBlock;
    const MINIMUM: bool = false;
    const SIGNED: bool = true;

    #[inline(always)]
    fn unpack<S: Simd>(simd: S, block: &Iq4XsBlock, panel: &mut Panel, row: usize) {
        let codes = block.quants.as_chunks::<{ BLOCK / 2 }>().0;
        let quants = panel.quants[row].as_chunks_mut::<BLOCK>().0;
        let high = u16::from_le_bytes(block.scales_high);
        let low = u32::from_le_bytes(block.scales_low);
        for s in 0..SUPERBLOCK / BLOCK {
            quants[s] = simd.look_up(&VALUES, halves(&codes[s]));
            let scale = low >> (4 * s) & 15 | u32::from(high) >> (2 * s) << 4 & 48;
            panel.scales[row][2 * s..2 * s + 2].fill(scale as i16 - 32);
        }
        panel.scale[row] = block.scale;
    }
}
