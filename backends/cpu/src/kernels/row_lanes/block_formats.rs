//! Blocks of 32 of each format, sixteen rows in lanes.

// SAFETY of every block below: pointers come from references to blocks, of which fields are read in whole words, and
// from arrays of the length of a register; the instructions are there by the contract of `unpack`.
#![allow(clippy::undocumented_unsafe_blocks)]

use super::blocks::{Format, Words};
use super::columns::{bytes, down, look_up};
use super::sixteen::Sixteen;
use crate::blocks::{Mxfp4Block, Q4Block, Q4MinBlock, Q5Block, Q5MinBlock, Q8Block};
use crate::kernels::iq4::VALUES_AND_128;
use std::arch::x86_64::*;
use std::mem::offset_of;

/// Q8_0.
pub struct Q8_0;
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
/// IQ4_NL.
pub struct Iq4Nl;

/// What the codes of MXFP4 stand for: twice each float, 0 to 12 in magnitude, 16 more.
const TWICE_AND_16: [u8; 16] = [
    16, 17, 18, 19, 20, 22, 24, 28, // 0, 1, 2, 3, 4, 6, 8, 12
    16, 15, 14, 13, 12, 10, 8, 4, // and their negatives
];

impl Format for Q8_0 {
    type Block = Q8Block;
    const OFFSET_LOG2: Option<u32> = Some(7);
    const MINIMUM: bool = false;

    #[inline(always)]
    unsafe fn quants<R: Sixteen<Block = Q8Block>>(rows: R) -> Words {
        unsafe {
            let mut quants = rows.words::<8>(offset_of!(Q8Block, quants));
            for quants in &mut quants {
                *quants = _mm512_xor_si512(*quants, bytes(-128));
            }
            quants
        }
    }
    #[inline(always)]
    unsafe fn scales<R: Sixteen<Block = Q8Block>>(rows: R) -> __m512 {
        unsafe { rows.half_floats(offset_of!(Q8Block, scale)) }
    }
}

impl Format for Q4_0 {
    type Block = Q4Block;
    const OFFSET_LOG2: Option<u32> = Some(3);
    const MINIMUM: bool = false;

    #[inline(always)]
    unsafe fn quants<R: Sixteen<Block = Q4Block>>(rows: R) -> Words {
        unsafe { halves(rows, offset_of!(Q4Block, quants)) }
    }
    #[inline(always)]
    unsafe fn scales<R: Sixteen<Block = Q4Block>>(rows: R) -> __m512 {
        unsafe { rows.half_floats(offset_of!(Q4Block, scale)) }
    }
}

impl Format for Q4_1 {
    type Block = Q4MinBlock;
    const OFFSET_LOG2: Option<u32> = None;
    const MINIMUM: bool = true;

    #[inline(always)]
    unsafe fn quants<R: Sixteen<Block = Q4MinBlock>>(rows: R) -> Words {
        unsafe { halves(rows, offset_of!(Q4MinBlock, quants)) }
    }
    #[inline(always)]
    unsafe fn scales<R: Sixteen<Block = Q4MinBlock>>(rows: R) -> __m512 {
        unsafe { rows.half_floats(offset_of!(Q4MinBlock, scale)) }
    }
    #[inline(always)]
    unsafe fn minima<R: Sixteen<Block = Q4MinBlock>>(rows: R) -> __m512 {
        unsafe { rows.half_floats(offset_of!(Q4MinBlock, minimum)) }
    }
}

impl Format for Q5_0 {
    type Block = Q5Block;
    const OFFSET_LOG2: Option<u32> = Some(4);
    const MINIMUM: bool = false;

    #[inline(always)]
    unsafe fn quants<R: Sixteen<Block = Q5Block>>(rows: R) -> Words {
        unsafe {
            let codes = halves(rows, offset_of!(Q5Block, quants));
            five_bits(codes, rows.word(offset_of!(Q5Block, fifth)))
        }
    }
    #[inline(always)]
    unsafe fn scales<R: Sixteen<Block = Q5Block>>(rows: R) -> __m512 {
        unsafe { rows.half_floats(offset_of!(Q5Block, scale)) }
    }
}

impl Format for Q5_1 {
    type Block = Q5MinBlock;
    const OFFSET_LOG2: Option<u32> = None;
    const MINIMUM: bool = true;

    #[inline(always)]
    unsafe fn quants<R: Sixteen<Block = Q5MinBlock>>(rows: R) -> Words {
        unsafe {
            let codes = halves(rows, offset_of!(Q5MinBlock, quants));
            five_bits(codes, rows.word(offset_of!(Q5MinBlock, fifth)))
        }
    }
    #[inline(always)]
    unsafe fn scales<R: Sixteen<Block = Q5MinBlock>>(rows: R) -> __m512 {
        unsafe { rows.half_floats(offset_of!(Q5MinBlock, scale)) }
    }
    #[inline(always)]
    unsafe fn minima<R: Sixteen<Block = Q5MinBlock>>(rows: R) -> __m512 {
        unsafe { rows.half_floats(offset_of!(Q5MinBlock, minimum)) }
    }
}

impl Format for Mxfp4 {
    type Block = Mxfp4Block;
    const OFFSET_LOG2: Option<u32> = Some(4);
    const MINIMUM: bool = false;

    #[inline(always)]
    unsafe fn quants<R: Sixteen<Block = Mxfp4Block>>(rows: R) -> Words {
        unsafe {
            let codes = halves(rows, offset_of!(Mxfp4Block, quants));
            look_up(&TWICE_AND_16, codes)
        }
    }
    #[inline(always)]
    unsafe fn scales<R: Sixteen<Block = Mxfp4Block>>(rows: R) -> __m512 {
        unsafe {
            // 2^(exponent - 128); the two least are below the normal floats.
            let exponent = rows.first_byte();
            let one = _mm512_set1_epi32(1);
            let normal = _mm512_slli_epi32::<23>(_mm512_sub_epi32(exponent, one));
            let denormal = _mm512_sllv_epi32(_mm512_set1_epi32(0x0020_0000), exponent);
            let small = _mm512_cmple_epi32_mask(exponent, one);
            _mm512_castsi512_ps(_mm512_mask_mov_epi32(normal, small, denormal))
        }
    }
}

impl Format for Iq4Nl {
    type Block = Q4Block;
    const OFFSET_LOG2: Option<u32> = Some(7);
    const MINIMUM: bool = false;

    #[inline(always)]
    unsafe fn quants<R: Sixteen<Block = Q4Block>>(rows: R) -> Words {
        unsafe {
            let codes = halves(rows, offset_of!(Q4Block, quants));
            look_up(&VALUES_AND_128, codes)
        }
    }
    #[inline(always)]
    unsafe fn scales<R: Sixteen<Block = Q4Block>>(rows: R) -> __m512 {
        unsafe { rows.half_floats(offset_of!(Q4Block, scale)) }
    }
}

/// Four bits an element: the lower halves of sixteen bytes, then the upper.
#[inline(always)]
unsafe fn halves(rows: impl Sixteen, offset: usize) -> Words {
    unsafe {
        let packed = rows.words::<4>(offset);
        let mut codes = [_mm512_setzero_si512(); 8];
        for (word, packed) in packed.into_iter().enumerate() {
            codes[word] = _mm512_and_si512(packed, bytes(15));
            codes[4 + word] = _mm512_and_si512(_mm512_srli_epi32::<4>(packed), bytes(15));
        }
        codes
    }
}

/// Four bits an element, and the fifth from bit i of a row's word in `fifth`.
#[inline(always)]
unsafe fn five_bits(mut codes: Words, fifth: __m512i) -> Words {
    /// 16 in byte i of entry n where bit i of n is set.
    const SPREAD: [u32; 16] = {
        let mut spread = [0; 16];
        let mut bits = 0;
        while bits < 16 {
            spread[bits as usize] =
                (bits & 1 | (bits & 2) << 7 | (bits & 4) << 14 | (bits & 8) << 21) << 4;
            bits += 1;
        }
        spread
    };
    unsafe {
        let spread = _mm512_loadu_si512(SPREAD.as_ptr().cast());
        for (word, codes) in codes.iter_mut().enumerate() {
            // The instruction looks at the lower four bits of each lane alone.
            let fifth = _mm512_permutexvar_epi32(down(fifth, 4 * word as u32), spread);
            *codes = _mm512_or_si512(*codes, fifth);
        }
    }
    codes
}
