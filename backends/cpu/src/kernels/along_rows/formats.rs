//! Superblocks of each format, 64 elements of a row in a register.
//!
//! Shifts are of 16-bit lanes and move bits across bytes, so each is followed by a mask.

// SAFETY of every block below: pointers come from references to blocks, of which fields are read in whole registers;
// the instructions are there by the contract of the trait.
#![allow(clippy::undocumented_unsafe_blocks)]

use super::PARTS;
use crate::blocks::{Q2KBlock, Q3KBlock, Q4KBlock, Q5KBlock, Q6KBlock, SUB_BLOCKS};
use crate::kernels::activations::ActivationSuperblock;
use crate::kernels::avx2_stream::{nibble_scales, six_bit_scales, split_scales};
use std::arch::x86_64::*;

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

/// Elements of half a register.
const HALF: usize = 32;

/// A format whose quants come into order by shifts alone.
pub trait AlongRows {
    /// One as it lies in memory.
    type Block: bytemuck::Pod;
    /// Up to so many tokens it is faster than rows in lanes; at most 4.
    const TOKENS_MAX: usize;
    /// 2 to which power is taken from every quant; None where nothing is.
    const OFFSET_LOG2: Option<u32>;
    /// Sub-blocks that have a minimum each: 0, 8 or 16.
    const MINIMA: usize;
    /// Where the halves of each part of 64 elements begin in the superblock.
    const HALVES: [[usize; 2]; PARTS];

    /// The unit of the scales, and in the upper half that of the minima.
    fn units(block: &Self::Block) -> u32;
    /// The scales, as [`Self::spread`] wants them, and the minima. With an offset the scales are of sixteen sub-blocks.
    ///
    /// # Safety
    /// The machine has AVX-512 F, BW, DQ, VL and VNNI; as everywhere in this trait.
    unsafe fn scales(block: &Self::Block) -> (__m512i, __m256i);
    /// The scale of each pair of elements of a part, 16 bits each.
    ///
    /// # Safety
    /// As above.
    unsafe fn spread(scales: __m512i, part: usize) -> __m512i;
    /// The unsigned quants of each part, below 64.
    ///
    /// # Safety
    /// As above.
    unsafe fn parts(block: &Self::Block) -> [__m512i; PARTS];
}

/// A superblock of activations in the order of a format's parts.
#[repr(C, align(64))]
pub struct Arranged {
    /// Part by part.
    pub quants: [[[i8; HALF]; 2]; PARTS],
    /// Sums of 16.
    pub sums: [i16; SUB_BLOCKS],
    /// The same with the other sign.
    pub minus_sums: [i16; SUB_BLOCKS],
    /// Sums of 32.
    pub sums_of_32: [i16; SUB_BLOCKS / 2],
    /// Their unit.
    pub scale: f32,
}

impl Arranged {
    /// As a format wants it.
    pub fn of<F: AlongRows>(x: &ActivationSuperblock) -> Self {
        let halves = x.quants.as_chunks::<HALF>().0;
        Self {
            quants: F::HALVES.map(|half| half.map(|element| halves[element / HALF])),
            sums: x.sums,
            minus_sums: x.sums.map(|sum| -sum),
            sums_of_32: x.sums_of_32,
            scale: x.scale,
        }
    }
}

/// Where quants are in halves of bytes, 64 elements in 32 bytes: two such groups in a register, their lower halves one
/// part and their upper halves the next.
const OF_HALF_BYTES: [[usize; 2]; PARTS] = [[0, 64], [32, 96], [128, 192], [160, 224]];

/// Where quants are in quarters of bytes, 128 elements in 32 bytes: both groups in a register, a quarter of each a part.
const OF_QUARTER_BYTES: [[usize; 2]; PARTS] = [[0, 128], [32, 160], [64, 192], [96, 224]];

impl AlongRows for Q2K {
    type Block = Q2KBlock;
    const TOKENS_MAX: usize = 1;
    const OFFSET_LOG2: Option<u32> = None;
    const MINIMA: usize = 16;
    const HALVES: [[usize; 2]; PARTS] = OF_QUARTER_BYTES;

    #[inline(always)]
    fn units(block: &Q2KBlock) -> u32 {
        two_units(block.scale, block.minimum)
    }
    #[inline(always)]
    unsafe fn scales(block: &Q2KBlock) -> (__m512i, __m256i) {
        unsafe {
            let [scales, minima] = nibble_scales(&block.scales);
            (_mm512_zextsi256_si512(scales), minima)
        }
    }
    #[inline(always)]
    unsafe fn spread(scales: __m512i, part: usize) -> __m512i {
        unsafe { spread_of_16(scales, Self::HALVES[part]) }
    }
    #[inline(always)]
    unsafe fn parts(block: &Q2KBlock) -> [__m512i; PARTS] {
        unsafe {
            let mut parts = quarter_bytes(&block.quants);
            for part in &mut parts {
                *part = _mm512_and_si512(*part, _mm512_set1_epi8(3));
            }
            parts
        }
    }
}

impl AlongRows for Q3K {
    type Block = Q3KBlock;
    const TOKENS_MAX: usize = 1;
    const OFFSET_LOG2: Option<u32> = Some(2);
    const MINIMA: usize = 0;
    const HALVES: [[usize; 2]; PARTS] = OF_QUARTER_BYTES;

    #[inline(always)]
    fn units(block: &Q3KBlock) -> u32 {
        two_units(block.scale, [0; 2])
    }
    #[inline(always)]
    unsafe fn scales(block: &Q3KBlock) -> (__m512i, __m256i) {
        unsafe {
            let [scales, _] = split_scales(block);
            (_mm512_zextsi256_si512(scales), _mm256_setzero_si256())
        }
    }
    #[inline(always)]
    unsafe fn spread(scales: __m512i, part: usize) -> __m512i {
        unsafe { spread_of_16(scales, Self::HALVES[part]) }
    }
    #[inline(always)]
    unsafe fn parts(block: &Q3KBlock) -> [__m512i; PARTS] {
        unsafe {
            let mut parts = quarter_bytes(&block.quants);
            let thirds = twice(&block.third);
            // Of elements 32 j to 32 j + 31 bit j goes to bit 2, and of those 128 later bit 4 + j.
            let lower: __mmask32 = 0x0000_ffff;
            let mut moved = [thirds; PARTS];
            for (j, moved) in (0..).zip(&mut moved) {
                *moved = _mm512_srlv_epi16(thirds, counts((j - 2).max(0), 2 + j));
                if j < 2 {
                    *moved = _mm512_mask_sllv_epi16(*moved, lower, thirds, counts(2 - j, 0));
                }
            }
            for (part, thirds) in parts.iter_mut().zip(moved) {
                *part = join(3, *part, 4, thirds);
            }
            parts
        }
    }
}

impl AlongRows for Q4K {
    type Block = Q4KBlock;
    const TOKENS_MAX: usize = 1;
    const OFFSET_LOG2: Option<u32> = None;
    const MINIMA: usize = 8;
    const HALVES: [[usize; 2]; PARTS] = OF_HALF_BYTES;

    #[inline(always)]
    fn units(block: &Q4KBlock) -> u32 {
        two_units(block.scale, block.minimum)
    }
    #[inline(always)]
    unsafe fn scales(block: &Q4KBlock) -> (__m512i, __m256i) {
        unsafe { scales_and_minima(bytemuck::bytes_of(block)) }
    }
    #[inline(always)]
    unsafe fn spread(scales: __m512i, part: usize) -> __m512i {
        unsafe { spread_of_32(scales, part) }
    }
    #[inline(always)]
    unsafe fn parts(block: &Q4KBlock) -> [__m512i; PARTS] {
        unsafe { half_bytes(&block.quants) }
    }
}

impl AlongRows for Q5K {
    type Block = Q5KBlock;
    const TOKENS_MAX: usize = 2;
    const OFFSET_LOG2: Option<u32> = None;
    const MINIMA: usize = 8;
    const HALVES: [[usize; 2]; PARTS] = OF_HALF_BYTES;

    #[inline(always)]
    fn units(block: &Q5KBlock) -> u32 {
        two_units(block.scale, block.minimum)
    }
    #[inline(always)]
    unsafe fn scales(block: &Q5KBlock) -> (__m512i, __m256i) {
        unsafe { scales_and_minima(bytemuck::bytes_of(block)) }
    }
    #[inline(always)]
    unsafe fn spread(scales: __m512i, part: usize) -> __m512i {
        unsafe { spread_of_32(scales, part) }
    }
    #[inline(always)]
    unsafe fn parts(block: &Q5KBlock) -> [__m512i; PARTS] {
        unsafe {
            let mut parts = half_bytes(&block.quants);
            let fifths = twice(&block.fifth);
            // Elements 32 j to 32 j + 31 have theirs in bit j; it goes to bit 4.
            let moved = [
                _mm512_sllv_epi16(fifths, counts(4, 2)),
                _mm512_sllv_epi16(fifths, counts(3, 1)),
                _mm512_srlv_epi16(fifths, counts(0, 2)),
                _mm512_srlv_epi16(fifths, counts(1, 3)),
            ];
            for (part, fifths) in parts.iter_mut().zip(moved) {
                // The part, or the fifth bit.
                *part = _mm512_ternarylogic_epi32::<0xf8>(*part, fifths, _mm512_set1_epi8(16));
            }
            parts
        }
    }
}

impl AlongRows for Q6K {
    type Block = Q6KBlock;
    const TOKENS_MAX: usize = 4;
    const OFFSET_LOG2: Option<u32> = Some(5);
    const MINIMA: usize = 0;
    const HALVES: [[usize; 2]; PARTS] = [[0, 32], [64, 96], [128, 160], [192, 224]];

    #[inline(always)]
    fn units(block: &Q6KBlock) -> u32 {
        two_units(block.scale, [0; 2])
    }
    #[inline(always)]
    unsafe fn scales(block: &Q6KBlock) -> (__m512i, __m256i) {
        unsafe {
            let scales = _mm_loadu_si128(block.scales.as_ptr().cast());
            let scales = _mm512_zextsi256_si512(_mm256_cvtepi8_epi16(scales));
            (scales, _mm256_setzero_si256())
        }
    }
    #[inline(always)]
    unsafe fn spread(scales: __m512i, part: usize) -> __m512i {
        unsafe { spread_of_16(scales, Self::HALVES[part]) }
    }
    #[inline(always)]
    unsafe fn parts(block: &Q6KBlock) -> [__m512i; PARTS] {
        unsafe {
            let mut parts = [_mm512_setzero_si512(); PARTS];
            let halves = block.low.as_chunks::<64>().0.iter();
            for (half, (low, high)) in halves.zip(block.high.as_chunks().0).enumerate() {
                let low = _mm512_loadu_si512(low.as_ptr().cast());
                let high = twice(high);
                // Bits 2 j and 2 j + 1 of 32 elements, j from 0 to 3, go to bits 4 and 5.
                parts[2 * half] = join(15, low, 48, _mm512_sllv_epi16(high, counts(4, 2)));
                let low = _mm512_srli_epi16::<4>(low);
                parts[2 * half + 1] = join(15, low, 48, _mm512_srlv_epi16(high, counts(0, 2)));
            }
            parts
        }
    }
}

#[inline(always)]
fn two_units(scale: [u8; 2], minimum: [u8; 2]) -> u32 {
    u32::from(u16::from_le_bytes(scale)) | u32::from(u16::from_le_bytes(minimum)) << 16
}

/// Of Q4_K and Q5_K: minima in lanes 0 to 7 and scales in lanes 8 to 15.
#[inline(always)]
unsafe fn scales_and_minima(block: &[u8]) -> (__m512i, __m256i) {
    unsafe {
        let both = six_bit_scales(block);
        (_mm512_zextsi256_si512(both), both)
    }
}

/// Scales of sub-blocks of 16 to the pairs of a part whose halves begin at those elements.
#[inline(always)]
unsafe fn spread_of_16(scales: __m512i, halves: [usize; 2]) -> __m512i {
    unsafe {
        let pair = |half: usize, index: usize| 0x0001_0001 * (halves[half] / 16 + index) as i32;
        let (a, b, c, d) = (pair(0, 0), pair(0, 1), pair(1, 0), pair(1, 1));
        let places = _mm512_set_epi32(d, d, d, d, c, c, c, c, b, b, b, b, a, a, a, a);
        _mm512_permutexvar_epi16(places, scales)
    }
}

/// Scales of sub-blocks of 32, in lanes 8 to 15, to the pairs of a part of [`OF_HALF_BYTES`].
#[inline(always)]
unsafe fn spread_of_32(scales: __m512i, part: usize) -> __m512i {
    unsafe {
        let pair = |half: usize| 0x0001_0001 * (8 + OF_HALF_BYTES[part][half] / 32) as i32;
        let (a, b) = (pair(0), pair(1));
        let places = _mm512_set_epi32(b, b, b, b, b, b, b, b, a, a, a, a, a, a, a, a);
        _mm512_permutexvar_epi16(places, scales)
    }
}

/// The parts of [`OF_QUARTER_BYTES`] in the lowest bits, with others above.
#[inline(always)]
unsafe fn quarter_bytes(quants: &[u8; 64]) -> [__m512i; PARTS] {
    unsafe {
        let all = _mm512_loadu_si512(quants.as_ptr().cast());
        [
            all,
            _mm512_srli_epi16::<2>(all),
            _mm512_srli_epi16::<4>(all),
            _mm512_srli_epi16::<6>(all),
        ]
    }
}

/// The parts of [`OF_HALF_BYTES`].
#[inline(always)]
unsafe fn half_bytes(quants: &[u8; 128]) -> [__m512i; PARTS] {
    unsafe {
        let mut parts = [_mm512_setzero_si512(); PARTS];
        for (half, quants) in quants.as_chunks::<64>().0.iter().enumerate() {
            let both = _mm512_loadu_si512(quants.as_ptr().cast());
            let low = _mm512_set1_epi8(15);
            parts[2 * half] = _mm512_and_si512(both, low);
            parts[2 * half + 1] = _mm512_and_si512(_mm512_srli_epi16::<4>(both), low);
        }
        parts
    }
}

/// Of every byte the bits `low_mask` of `low` and the bits `high_mask`, above those, of `high`.
#[inline(always)]
unsafe fn join(low_mask: i8, low: __m512i, high_mask: i8, high: __m512i) -> __m512i {
    unsafe {
        // Bit by bit: low where the mask is set, else high.
        let both = _mm512_ternarylogic_epi32::<0xca>(_mm512_set1_epi8(low_mask), low, high);
        _mm512_and_si512(both, _mm512_set1_epi8(low_mask | high_mask))
    }
}

/// The same in both halves.
#[inline(always)]
unsafe fn twice(bytes: &[u8; 32]) -> __m512i {
    unsafe { _mm512_broadcast_i64x4(_mm256_loadu_si256(bytes.as_ptr().cast())) }
}

/// One count for the lower half and one for the upper.
#[inline(always)]
unsafe fn counts(low: i16, high: i16) -> __m512i {
    unsafe {
        let low = _mm512_castsi256_si512(_mm256_set1_epi16(low));
        _mm512_inserti64x4::<1>(low, _mm256_set1_epi16(high))
    }
}
