//! Superblocks of each format as rows of a panel.

use super::Simd;
use super::bytes::{each, put, word};
use super::superblocks::{Panel, SuperblockFormat};
use crate::blocks::{Q2KBlock, Q3KBlock, Q4KBlock, Q5KBlock, Q6KBlock, SUB_BLOCKS, SUPERBLOCK};

/// Q2_K.
pub struct Q2K;
/// Q3_K.
pub struct Q3K;
/// Q4_K.
pub struct Q4K;
/// Q5_K.
pub struct Q5K;
/// Q6_K.
pub struct Q6K;

impl SuperblockFormat for Q2K {
    type Block = Q2KBlock;
    const MINIMUM: bool = true;

    #[inline(always)]
    fn unpack<S: Simd>(_simd: S, block: &Q2KBlock, panel: &mut Panel, row: usize) {
        pairs(&block.quants, &mut panel.quants[row]);
        for s in 0..SUB_BLOCKS {
            panel.scales[row][s] = i16::from(block.scales[s] & 15);
            panel.corrections[row][s] = i16::from(block.scales[s] >> 4);
        }
        panel.scale[row] = block.scale;
        panel.minimum[row] = block.minimum;
    }
}

impl SuperblockFormat for Q3K {
    type Block = Q3KBlock;
    const MINIMUM: bool = false;

    #[inline(always)]
    fn unpack<S: Simd>(_simd: S, block: &Q3KBlock, panel: &mut Panel, row: usize) {
        for j in 0..8 {
            for w in 0..4 {
                let low = word(&block.quants, j / 4 * 4 + w) >> (2 * (j % 4)) & each(3);
                let third = word(&block.third, w) >> j & each(1);
                put(&mut panel.quants[row], 4 * j + w, low | third << 2);
            }
        }
        let packed = &block.scales;
        let [first, second, upper] = words(packed);
        let low = |word: u32, shift: u32| word >> shift & 0x0f0f_0f0f;
        let high = |shift: u32| (upper >> shift & 0x0303_0303) << 4;
        let scales = [
            low(first, 0) | high(0),
            low(second, 0) | high(2),
            low(first, 4) | high(4),
            low(second, 4) | high(6),
        ];
        let scales: [u8; SUB_BLOCKS] = bytemuck::cast(scales.map(u32::to_le_bytes));
        for (s, scale) in scales.into_iter().enumerate() {
            let scale = i16::from(scale) - 32;
            panel.scales[row][s] = scale;
            panel.corrections[row][s] = -4 * scale;
        }
        panel.scale[row] = block.scale;
    }
}

impl SuperblockFormat for Q4K {
    type Block = Q4KBlock;
    const MINIMUM: bool = true;

    #[inline(always)]
    fn unpack<S: Simd>(simd: S, block: &Q4KBlock, panel: &mut Panel, row: usize) {
        halves(&block.quants, &mut panel.quants[row]);
        scales_and_minima(simd, &block.scales, panel, row);
        panel.scale[row] = block.scale;
        panel.minimum[row] = block.minimum;
    }
}

impl SuperblockFormat for Q5K {
    type Block = Q5KBlock;
    const MINIMUM: bool = true;

    #[inline(always)]
    fn unpack<S: Simd>(simd: S, block: &Q5KBlock, panel: &mut Panel, row: usize) {
        for j in 0..8 {
            for w in 0..4 {
                let low = word(&block.quants, j / 2 * 4 + w) >> (4 * (j % 2)) & each(15);
                let fifth = word(&block.fifth, w) >> j & each(1);
                put(&mut panel.quants[row], 4 * j + w, low | fifth << 4);
            }
        }
        scales_and_minima(simd, &block.scales, panel, row);
        panel.scale[row] = block.scale;
        panel.minimum[row] = block.minimum;
    }
}

impl SuperblockFormat for Q6K {
    type Block = Q6KBlock;
    const MINIMUM: bool = false;

    #[inline(always)]
    fn unpack<S: Simd>(_simd: S, block: &Q6KBlock, panel: &mut Panel, row: usize) {
        // Byte by byte: here the loop is long enough that compilers keep it and vectorise it.
        let quants = panel.quants[row].as_chunks_mut::<128>().0;
        let (low, high) = (
            block.low.as_chunks::<64>().0,
            block.high.as_chunks::<32>().0,
        );
        for part in 0..2 {
            for l in 0..32 {
                let (first, second, high) = (low[part][l], low[part][32 + l], high[part][l]);
                quants[part][l] = first & 15 | (high & 3) << 4;
                quants[part][32 + l] = second & 15 | (high >> 2 & 3) << 4;
                quants[part][64 + l] = first >> 4 | (high >> 4 & 3) << 4;
                quants[part][96 + l] = second >> 4 | (high >> 6) << 4;
            }
        }
        for s in 0..SUB_BLOCKS {
            let scale = i16::from(block.scales[s]);
            panel.scales[row][s] = scale;
            panel.corrections[row][s] = -32 * scale;
        }
        panel.scale[row] = block.scale;
    }
}

/// Two bits an element, 128 elements in 32 bytes.
#[inline(always)]
fn pairs(packed: &[u8; 64], to: &mut [u8; SUPERBLOCK]) {
    for index in 0..8 {
        let (bytes, at) = (word(packed, index), index / 4 * 16 + index % 4);
        put(to, at, bytes & each(3));
        put(to, at + 4, bytes >> 2 & each(3));
        put(to, at + 8, bytes >> 4 & each(3));
        put(to, at + 12, bytes >> 6 & each(3));
    }
}

/// Four bits an element, 64 elements in 32 bytes.
#[inline(always)]
fn halves(packed: &[u8; 128], to: &mut [u8; SUPERBLOCK]) {
    for index in 0..16 {
        let (bytes, at) = (word(packed, index), index / 4 * 8 + index % 4);
        put(to, at, bytes & each(15));
        put(to, at + 4, bytes >> 4 & each(15));
    }
}

#[inline(always)]
fn words(packed: &[u8; 12]) -> [u32; 3] {
    bytemuck::cast::<_, [[u8; 4]; 3]>(*packed).map(u32::from_le_bytes)
}

/// The 6-bit scales and minima of Q4_K and Q5_K, four at a time in the bytes of a word.
#[inline(always)]
fn scales_and_minima<S: Simd>(simd: S, packed: &[u8; 12], panel: &mut Panel, row: usize) {
    let [first, second, third] = words(packed);
    let upper = |word: u32| (word >> 6 & 0x0303_0303) << 4;
    let both = |low: u32, high: u32| u64::from(high) << 32 | u64::from(low);
    let scales = both(first & 0x3f3f_3f3f, third & 0x0f0f_0f0f | upper(first));
    let minima = both(
        second & 0x3f3f_3f3f,
        third >> 4 & 0x0f0f_0f0f | upper(second),
    );
    simd.spread_bytes(scales, &mut panel.scales[row]);
    simd.spread_bytes(minima, &mut panel.corrections[row]);
}
