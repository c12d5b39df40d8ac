//! Superblocks of each format, 64 elements of a row in a register.
//!
//! Shifts are of 16-bit lanes and move bits across bytes, so each is followed by a mask.

// SAFETY of every block below: pointers come from references to blocks, of which fields are read in whole registers;
// the instructions are there by the contract of the trait.
#![allow(clippy::undocumented_unsafe_blocks)]

use crate::blocks::{Q2KBlock, Q3KBlock, Q4KBlock, Q5KBlock, Q6KBlock};
use crate::kernels::arranged::{ArrangedQuad, Order, PARTS, QUAD};
use crate::kernels::avx2_stream::{nibble_scales, split_scales};
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

/// A format whose quants come into order by shifts alone.
pub trait AlongRows {
    /// One as it lies in memory.
    type Block: bytemuck::Pod;
    /// Up to so many tokens it is faster than rows in lanes; at most 4.
    const TOKENS_MAX: usize;
    /// 2 to which power is taken from every quant; None where nothing is.
    const OFFSET_LOG2: Option<u32>;
    /// Whether sub-blocks have minima.
    const MINIMA: bool;
    /// In which order quants come out.
    const ORDER: Order;
    /// The scales and minima of four superblocks.
    type Scales: Copy;

    /// The unit of the scales, and in the upper half that of the minima.
    fn units(block: &Self::Block) -> u32;
    /// The scales and minima.
    ///
    /// # Safety
    /// The machine has AVX-512 F, BW, DQ, VL, VNNI and VBMI; as everywhere in this trait.
    unsafe fn scales(blocks: [&Self::Block; QUAD]) -> Self::Scales;
    /// Those of one of the superblocks.
    ///
    /// # Safety
    /// As above.
    unsafe fn spread(scales: &Self::Scales, place: usize) -> Spread;
    /// The products of minima and sums of activations, a quarter for each superblock.
    ///
    /// # Safety
    /// As above.
    unsafe fn corrections(scales: &Self::Scales, x: &ArrangedQuad) -> __m512i;
    /// The unsigned quants of each part, below 64.
    ///
    /// # Safety
    /// As above.
    unsafe fn parts(block: &Self::Block) -> [__m512i; PARTS];
}

/// The scales of one superblock.
#[derive(Clone, Copy)]
pub struct Spread {
    /// Of each pair of parts, as their sums of four products are packed: in every quarter four of the first part and
    /// four of the second.
    pub of_pairs: [__m512i; PARTS / 2],
    /// Of the sixteen sub-blocks, in a format with an offset; else anything.
    pub of_sub_blocks: __m256i,
}

impl AlongRows for Q2K {
    type Block = Q2KBlock;
    const TOKENS_MAX: usize = 2;
    const OFFSET_LOG2: Option<u32> = None;
    const MINIMA: bool = true;
    const ORDER: Order = Order::QuarterBytes;
    type Scales = [[__m256i; 2]; QUAD];

    #[inline(always)]
    fn units(block: &Q2KBlock) -> u32 {
        two_units(block.scale, block.minimum)
    }
    #[inline(always)]
    unsafe fn scales(blocks: [&Q2KBlock; QUAD]) -> Self::Scales {
        unsafe {
            let mut all = [[_mm256_setzero_si256(); 2]; QUAD];
            for (scales, block) in all.iter_mut().zip(blocks) {
                *scales = nibble_scales(&block.scales);
            }
            all
        }
    }
    #[inline(always)]
    unsafe fn spread(scales: &Self::Scales, place: usize) -> Spread {
        unsafe { spread_words::<Self>(scales[place][0]) }
    }
    #[inline(always)]
    unsafe fn corrections(scales: &Self::Scales, x: &ArrangedQuad) -> __m512i {
        unsafe {
            let mut quarters = [_mm_setzero_si128(); QUAD];
            for (place, quarter) in quarters.iter_mut().enumerate() {
                let sums = _mm256_load_si256(x.sums[place].as_ptr().cast());
                let all = _mm256_madd_epi16(scales[place][1], sums);
                let upper = _mm256_extracti128_si256::<1>(all);
                *quarter = _mm_add_epi32(_mm256_castsi256_si128(all), upper);
            }
            let [a, b, c, d] = quarters;
            let low = _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(a), b);
            let high = _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(c), d);
            _mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), high)
        }
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
    const TOKENS_MAX: usize = 2;
    const OFFSET_LOG2: Option<u32> = Some(2);
    const MINIMA: bool = false;
    const ORDER: Order = Order::QuarterBytes;
    type Scales = [__m256i; QUAD];

    #[inline(always)]
    fn units(block: &Q3KBlock) -> u32 {
        two_units(block.scale, [0; 2])
    }
    #[inline(always)]
    unsafe fn scales(blocks: [&Q3KBlock; QUAD]) -> Self::Scales {
        unsafe {
            let mut all = [_mm256_setzero_si256(); QUAD];
            for (scales, block) in all.iter_mut().zip(blocks) {
                *scales = split_scales(block)[0];
            }
            all
        }
    }
    #[inline(always)]
    unsafe fn spread(scales: &Self::Scales, place: usize) -> Spread {
        unsafe { spread_words::<Self>(scales[place]) }
    }
    #[inline(always)]
    unsafe fn corrections(_scales: &Self::Scales, _x: &ArrangedQuad) -> __m512i {
        unreachable!("it has no minima")
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
    const TOKENS_MAX: usize = 2;
    const OFFSET_LOG2: Option<u32> = None;
    const MINIMA: bool = true;
    const ORDER: Order = Order::HalfBytes;
    type Scales = __m512i;

    #[inline(always)]
    fn units(block: &Q4KBlock) -> u32 {
        two_units(block.scale, block.minimum)
    }
    #[inline(always)]
    unsafe fn scales(blocks: [&Q4KBlock; QUAD]) -> __m512i {
        unsafe { six_bit_scales(blocks) }
    }
    #[inline(always)]
    unsafe fn spread(scales: &__m512i, place: usize) -> Spread {
        unsafe { spread_bytes(*scales, place) }
    }
    #[inline(always)]
    unsafe fn corrections(scales: &__m512i, x: &ArrangedQuad) -> __m512i {
        unsafe { corrections_of_bytes(*scales, x) }
    }
    #[inline(always)]
    unsafe fn parts(block: &Q4KBlock) -> [__m512i; PARTS] {
        unsafe { half_bytes(&block.quants) }
    }
}

impl AlongRows for Q5K {
    type Block = Q5KBlock;
    const TOKENS_MAX: usize = 3;
    const OFFSET_LOG2: Option<u32> = None;
    const MINIMA: bool = true;
    const ORDER: Order = Order::HalfBytes;
    type Scales = __m512i;

    #[inline(always)]
    fn units(block: &Q5KBlock) -> u32 {
        two_units(block.scale, block.minimum)
    }
    #[inline(always)]
    unsafe fn scales(blocks: [&Q5KBlock; QUAD]) -> __m512i {
        unsafe { six_bit_scales(blocks) }
    }
    #[inline(always)]
    unsafe fn spread(scales: &__m512i, place: usize) -> Spread {
        unsafe { spread_bytes(*scales, place) }
    }
    #[inline(always)]
    unsafe fn corrections(scales: &__m512i, x: &ArrangedQuad) -> __m512i {
        unsafe { corrections_of_bytes(*scales, x) }
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
    const MINIMA: bool = false;
    const ORDER: Order = Order::Plain;
    type Scales = [__m256i; QUAD];

    #[inline(always)]
    fn units(block: &Q6KBlock) -> u32 {
        two_units(block.scale, [0; 2])
    }
    #[inline(always)]
    unsafe fn scales(blocks: [&Q6KBlock; QUAD]) -> Self::Scales {
        unsafe {
            let mut all = [_mm256_setzero_si256(); QUAD];
            for (scales, block) in all.iter_mut().zip(blocks) {
                *scales = _mm256_cvtepi8_epi16(_mm_loadu_si128(block.scales.as_ptr().cast()));
            }
            all
        }
    }
    #[inline(always)]
    unsafe fn spread(scales: &Self::Scales, place: usize) -> Spread {
        unsafe { spread_words::<Self>(scales[place]) }
    }
    #[inline(always)]
    unsafe fn corrections(_scales: &Self::Scales, _x: &ArrangedQuad) -> __m512i {
        unreachable!("it has no minima")
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

/// Of four superblocks of Q4_K or Q5_K, a quarter each: eight scales, then eight minima.
#[inline(always)]
unsafe fn six_bit_scales<B>(blocks: [&B; QUAD]) -> __m512i {
    unsafe {
        // The units, then three words in which they are packed.
        let start = |place: usize| _mm_loadu_si128(std::ptr::from_ref(blocks[place]).cast());
        let all = _mm512_castsi128_si512(start(0));
        let all = _mm512_mask_broadcast_i32x4(all, 0x00f0, start(1));
        let all = _mm512_mask_broadcast_i32x4(all, 0x0f00, start(2));
        let all = _mm512_mask_broadcast_i32x4(all, 0xf000, start(3));
        // First and third for the scales, second and third for the minima.
        let words = _mm512_shuffle_epi32::<0b11_10_11_01>(all);
        // Each byte gets the eight bits of its quadword from there on: of the first four the whole, of the last four the
        // lower half, and then two bits from the end of the first four.
        let low = _mm_setr_epi8(0, 8, 16, 24, 32, 40, 48, 56, 0, 8, 16, 24, 36, 44, 52, 60);
        let high = _mm_setr_epi8(0, 8, 16, 24, 2, 10, 18, 26, 0, 8, 16, 24, 2, 10, 18, 26);
        let low = _mm512_multishift_epi64_epi8(_mm512_broadcast_i32x4(low), words);
        let high = _mm512_multishift_epi64_epi8(_mm512_broadcast_i32x4(high), words);
        join(15, low, 48, high)
    }
}

/// Of [`six_bit_scales`].
#[inline(always)]
unsafe fn corrections_of_bytes(scales: __m512i, x: &ArrangedQuad) -> __m512i {
    unsafe {
        let minima = _mm512_unpackhi_epi8(scales, _mm512_setzero_si512());
        let sums = _mm512_load_si512(x.sums_of_32.as_ptr().cast());
        _mm512_madd_epi16(minima, sums)
    }
}

/// Of which element of the superblock the first of the four is whose products are word `word` of a pair of parts.
const fn element(order: Order, pair: usize, word: usize) -> usize {
    let (quarter, of_second) = (word / 8, word % 8 / 4);
    order.halves()[2 * pair + of_second][quarter / 2] + quarter % 2 * 16
}

/// Where the scales of sub-blocks of 16 go.
const fn word_places(order: Order, pair: usize) -> [u16; 32] {
    let mut places = [0; 32];
    let mut word = 0;
    while word < places.len() {
        places[word] = (element(order, pair, word) / 16) as u16;
        word += 1;
    }
    places
}

/// Where the scales of one of the superblocks of [`six_bit_scales`] go; each to both bytes of a word.
const fn byte_places(place: usize, pair: usize) -> [u8; 64] {
    let mut places = [0; 64];
    let mut byte = 0;
    while byte < places.len() {
        let sub_block = element(Order::HalfBytes, pair, byte / 2) / 32;
        places[byte] = (16 * place + sub_block) as u8;
        byte += 1;
    }
    places
}

/// Scales of sub-blocks of 16.
#[inline(always)]
unsafe fn spread_words<F: AlongRows + ?Sized>(scales: __m256i) -> Spread {
    let places = const { &[word_places(F::ORDER, 0), word_places(F::ORDER, 1)] };
    unsafe {
        let wide = _mm512_castsi256_si512(scales);
        let of_pair = |pair: usize| {
            let places = _mm512_loadu_si512(places[pair].as_ptr().cast());
            _mm512_permutexvar_epi16(places, wide)
        };
        Spread {
            of_pairs: [of_pair(0), of_pair(1)],
            of_sub_blocks: scales,
        }
    }
}

/// Scales of [`six_bit_scales`].
#[inline(always)]
unsafe fn spread_bytes(scales: __m512i, place: usize) -> Spread {
    const PLACES: [[[u8; 64]; PARTS / 2]; QUAD] = [
        [byte_places(0, 0), byte_places(0, 1)],
        [byte_places(1, 0), byte_places(1, 1)],
        [byte_places(2, 0), byte_places(2, 1)],
        [byte_places(3, 0), byte_places(3, 1)],
    ];
    const LOWER_BYTES: __mmask64 = 0x5555_5555_5555_5555;
    unsafe {
        let of_pair = |pair: usize| {
            let places = _mm512_loadu_si512(PLACES[place][pair].as_ptr().cast());
            _mm512_maskz_permutexvar_epi8(LOWER_BYTES, places, scales)
        };
        Spread {
            of_pairs: [of_pair(0), of_pair(1)],
            of_sub_blocks: _mm256_setzero_si256(),
        }
    }
}

/// The parts of [`Order::QuarterBytes`] in the lowest bits, with others above.
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

/// The parts of [`Order::HalfBytes`].
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
