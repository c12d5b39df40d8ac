//! Blocks of 32 of each format, sixteen rows in lanes.

// SAFETY of every block below: pointers come from references to blocks, of which fields are read in whole words, and
// from arrays of the length of a register; the instructions are there by the contract of `unpack`.
#![allow(clippy::undocumented_unsafe_blocks)]

use super::blocks::{Format, Words};
use super::columns::{ROWS, bytes, down, look_up, pointers, words};
use crate::blocks::{HalfBytes, Mxfp4Block, Q4Block, Q4MinBlock, Q5Block, Q5MinBlock, Q8Block};
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
    unsafe fn quants(rows: [&Q8Block; ROWS]) -> Words {
        unsafe {
            let mut quants = words::<8>(pointers(rows), offset_of!(Q8Block, quants));
            for quants in &mut quants {
                *quants = _mm512_xor_si512(*quants, bytes(-128));
            }
            quants
        }
    }
    #[inline(always)]
    unsafe fn scales(rows: [&Q8Block; ROWS]) -> __m512 {
        unsafe { widen(|row| rows[row].scale) }
    }
}

impl Format for Q4_0 {
    type Block = Q4Block;
    const OFFSET_LOG2: Option<u32> = Some(3);
    const MINIMUM: bool = false;

    #[inline(always)]
    unsafe fn quants(rows: [&Q4Block; ROWS]) -> Words {
        unsafe { halves(pointers(rows), offset_of!(Q4Block, quants)) }
    }
    #[inline(always)]
    unsafe fn scales(rows: [&Q4Block; ROWS]) -> __m512 {
        unsafe { widen(|row| rows[row].scale) }
    }
}

impl Format for Q4_1 {
    type Block = Q4MinBlock;
    const OFFSET_LOG2: Option<u32> = None;
    const MINIMUM: bool = true;

    #[inline(always)]
    unsafe fn quants(rows: [&Q4MinBlock; ROWS]) -> Words {
        unsafe { halves(pointers(rows), offset_of!(Q4MinBlock, quants)) }
    }
    #[inline(always)]
    unsafe fn scales(rows: [&Q4MinBlock; ROWS]) -> __m512 {
        unsafe { widen(|row| rows[row].scale) }
    }
    #[inline(always)]
    unsafe fn minima(rows: [&Q4MinBlock; ROWS]) -> __m512 {
        unsafe { widen(|row| rows[row].minimum) }
    }
}

impl Format for Q5_0 {
    type Block = Q5Block;
    const OFFSET_LOG2: Option<u32> = Some(4);
    const MINIMUM: bool = false;

    #[inline(always)]
    unsafe fn quants(rows: [&Q5Block; ROWS]) -> Words {
        unsafe {
            let codes = halves(pointers(rows), offset_of!(Q5Block, quants));
            five_bits(codes, |row| rows[row].fifth)
        }
    }
    #[inline(always)]
    unsafe fn scales(rows: [&Q5Block; ROWS]) -> __m512 {
        unsafe { widen(|row| rows[row].scale) }
    }
}

impl Format for Q5_1 {
    type Block = Q5MinBlock;
    const OFFSET_LOG2: Option<u32> = None;
    const MINIMUM: bool = true;

    #[inline(always)]
    unsafe fn quants(rows: [&Q5MinBlock; ROWS]) -> Words {
        unsafe {
            let codes = halves(pointers(rows), offset_of!(Q5MinBlock, quants));
            five_bits(codes, |row| rows[row].fifth)
        }
    }
    #[inline(always)]
    unsafe fn scales(rows: [&Q5MinBlock; ROWS]) -> __m512 {
        unsafe { widen(|row| rows[row].scale) }
    }
    #[inline(always)]
    unsafe fn minima(rows: [&Q5MinBlock; ROWS]) -> __m512 {
        unsafe { widen(|row| rows[row].minimum) }
    }
}

impl Format for Mxfp4 {
    type Block = Mxfp4Block;
    const OFFSET_LOG2: Option<u32> = Some(4);
    const MINIMUM: bool = false;

    #[inline(always)]
    unsafe fn quants(rows: [&Mxfp4Block; ROWS]) -> Words {
        unsafe {
            let codes = halves(pointers(rows), offset_of!(Mxfp4Block, quants));
            look_up(&TWICE_AND_16, codes)
        }
    }
    #[inline(always)]
    unsafe fn scales(rows: [&Mxfp4Block; ROWS]) -> __m512 {
        let mut scales = [0.0; ROWS];
        for (scale, block) in scales.iter_mut().zip(rows) {
            // 2^(exponent - 128); the two least are below the normal floats.
            let exponent = u32::from(block.exponent);
            let denormal = 0x0020_0000 << (exponent & 1);
            let normal = exponent.wrapping_sub(1) << 23;
            *scale = f32::from_bits(if exponent < 2 { denormal } else { normal });
        }
        unsafe { _mm512_loadu_ps(scales.as_ptr()) }
    }
}

impl Format for Iq4Nl {
    type Block = Q4Block;
    const OFFSET_LOG2: Option<u32> = Some(7);
    const MINIMUM: bool = false;

    #[inline(always)]
    unsafe fn quants(rows: [&Q4Block; ROWS]) -> Words {
        unsafe {
            let codes = halves(pointers(rows), offset_of!(Q4Block, quants));
            look_up(&VALUES_AND_128, codes)
        }
    }
    #[inline(always)]
    unsafe fn scales(rows: [&Q4Block; ROWS]) -> __m512 {
        unsafe { widen(|row| rows[row].scale) }
    }
}

/// Four bits an element: the lower halves of sixteen bytes, then the upper.
#[inline(always)]
unsafe fn halves(rows: [*const u8; ROWS], offset: usize) -> Words {
    unsafe {
        let packed = words::<4>(rows, offset);
        let mut codes = [_mm512_setzero_si512(); 8];
        for (word, packed) in packed.into_iter().enumerate() {
            codes[word] = _mm512_and_si512(packed, bytes(15));
            codes[4 + word] = _mm512_and_si512(_mm512_srli_epi32::<4>(packed), bytes(15));
        }
        codes
    }
}

/// Four bits an element, and the fifth from bit i of a row's word.
#[inline(always)]
unsafe fn five_bits(mut codes: Words, fifth: impl Fn(usize) -> [u8; 4]) -> Words {
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
    let mut words = [0u32; ROWS];
    for (row, word) in words.iter_mut().enumerate() {
        *word = u32::from_le_bytes(fifth(row));
    }
    unsafe {
        let spread = _mm512_loadu_si512(SPREAD.as_ptr().cast());
        let fifth = _mm512_loadu_si512(words.as_ptr().cast());
        for (word, codes) in codes.iter_mut().enumerate() {
            // The instruction looks at the lower four bits of each lane alone.
            let fifth = _mm512_permutexvar_epi32(down(fifth, 4 * word as u32), spread);
            *codes = _mm512_or_si512(*codes, fifth);
        }
    }
    codes
}

#[inline(always)]
unsafe fn widen(half: impl Fn(usize) -> HalfBytes) -> __m512 {
    let mut halves = [[0; 2]; ROWS];
    for (row, to) in halves.iter_mut().enumerate() {
        *to = half(row);
    }
    unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(halves.as_ptr().cast())) }
}
