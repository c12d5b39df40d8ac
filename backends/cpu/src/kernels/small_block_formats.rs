//! Blocks of 32 of each format as rows of a panel.

use super::Simd;
use super::bytes::{each, put, word};
use super::small_blocks::SmallBlockFormat;
use crate::blocks::{BLOCK, HalfBytes, Mxfp4Block, Q4Block, Q4MinBlock, Q5Block, Q5MinBlock};
use crate::reference::LANES;

/// Q4_0.
pub struct Q4_0;
/// Q4_1.
pub struct Q4_1;
/// Q5_0.
pub struct Q5_0;
/// Q5_1.
pub struct Q5_1;
/// MXFP4.
pub struct Mxfp4;

impl SmallBlockFormat for Q4_0 {
    type Block = Q4Block;
    const OFFSET: i32 = 8;
    const MINIMUM: bool = false;

    #[inline(always)]
    fn quants<S: Simd>(_simd: S, block: &Q4Block) -> [u8; BLOCK] {
        halves(&block.quants)
    }
    #[inline(always)]
    fn units<S: Simd, const N: usize>(
        simd: S,
        blocks: [&Q4Block; N],
        scales: &mut [f32; N],
        _minima: &mut [f32; N],
    ) {
        widen(simd, |row| blocks[row].scale, scales);
    }
}

impl SmallBlockFormat for Q4_1 {
    type Block = Q4MinBlock;
    const OFFSET: i32 = 0;
    const MINIMUM: bool = true;

    #[inline(always)]
    fn quants<S: Simd>(_simd: S, block: &Q4MinBlock) -> [u8; BLOCK] {
        halves(&block.quants)
    }
    #[inline(always)]
    fn units<S: Simd, const N: usize>(
        simd: S,
        blocks: [&Q4MinBlock; N],
        scales: &mut [f32; N],
        minima: &mut [f32; N],
    ) {
        widen(simd, |row| blocks[row].scale, scales);
        widen(simd, |row| blocks[row].minimum, minima);
    }
}

impl SmallBlockFormat for Q5_0 {
    type Block = Q5Block;
    const OFFSET: i32 = 16;
    const MINIMUM: bool = false;

    #[inline(always)]
    fn quants<S: Simd>(simd: S, block: &Q5Block) -> [u8; BLOCK] {
        with_fifth_bits(simd, block.fifth, halves(&block.quants))
    }
    #[inline(always)]
    fn units<S: Simd, const N: usize>(
        simd: S,
        blocks: [&Q5Block; N],
        scales: &mut [f32; N],
        _minima: &mut [f32; N],
    ) {
        widen(simd, |row| blocks[row].scale, scales);
    }
}

impl SmallBlockFormat for Q5_1 {
    type Block = Q5MinBlock;
    const OFFSET: i32 = 0;
    const MINIMUM: bool = true;

    #[inline(always)]
    fn quants<S: Simd>(simd: S, block: &Q5MinBlock) -> [u8; BLOCK] {
        with_fifth_bits(simd, block.fifth, halves(&block.quants))
    }
    #[inline(always)]
    fn units<S: Simd, const N: usize>(
        simd: S,
        blocks: [&Q5MinBlock; N],
        scales: &mut [f32; N],
        minima: &mut [f32; N],
    ) {
        widen(simd, |row| blocks[row].scale, scales);
        widen(simd, |row| blocks[row].minimum, minima);
    }
}

impl SmallBlockFormat for Mxfp4 {
    type Block = Mxfp4Block;
    const OFFSET: i32 = 12;
    const MINIMUM: bool = false;

    /// Twice each float, 0 to 12 in magnitude, 12 more.
    #[inline(always)]
    fn quants<S: Simd>(simd: S, block: &Mxfp4Block) -> [u8; BLOCK] {
        const TWICE_AND_12: [u8; 16] = [
            12, 13, 14, 15, 16, 18, 20, 24, // 0, 1, 2, 3, 4, 6, 8, 12
            12, 11, 10, 9, 8, 6, 4, 0, // and their negatives
        ];
        simd.look_up(&TWICE_AND_12, halves(&block.quants))
    }
    #[inline(always)]
    fn units<S: Simd, const N: usize>(
        _simd: S,
        blocks: [&Mxfp4Block; N],
        scales: &mut [f32; N],
        _minima: &mut [f32; N],
    ) {
        for (scale, block) in scales.iter_mut().zip(blocks) {
            // 2^(exponent - 128); the two least are below the normal floats.
            let exponent = u32::from(block.exponent);
            let denormal = 0x0020_0000 << (exponent & 1);
            let normal = exponent.wrapping_sub(1) << 23;
            *scale = f32::from_bits(if exponent < 2 { denormal } else { normal });
        }
    }
}

/// Four bits an element: the lower halves of the bytes, then the upper.
#[inline(always)]
pub fn halves(packed: &[u8; BLOCK / 2]) -> [u8; BLOCK] {
    let mut quants = [0; BLOCK];
    for index in 0..2 {
        let bytes = word(packed, index);
        put(&mut quants, index, bytes & each(15));
        put(&mut quants, 2 + index, bytes >> 4 & each(15));
    }
    quants
}

/// Bit i of the word becomes bit 4 of element i.
#[inline(always)]
fn with_fifth_bits<S: Simd>(simd: S, fifth: [u8; 4], mut quants: [u8; BLOCK]) -> [u8; BLOCK] {
    let fifth = simd.fifth_bits(fifth);
    for index in 0..BLOCK / 8 {
        let both = word(&quants, index) | word(&fifth, index);
        put(&mut quants, index, both);
    }
    quants
}

/// Some binary16, widened as a vector.
#[inline(always)]
fn widen<S: Simd, const N: usize>(simd: S, half: impl Fn(usize) -> HalfBytes, to: &mut [f32; N]) {
    for (part, to) in to.chunks_mut(LANES).enumerate() {
        let (mut halves, mut floats) = ([[0; 2]; LANES], [0.0; LANES]);
        for (lane, half_at) in halves.iter_mut().enumerate().take(to.len()) {
            *half_at = half(part * LANES + lane);
        }
        simd.store(simd.load_f16(&halves), &mut floats);
        to.copy_from_slice(&floats[..to.len()]);
    }
}
