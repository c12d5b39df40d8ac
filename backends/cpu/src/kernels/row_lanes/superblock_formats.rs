//! Superblocks of each format, sixteen rows in lanes.

// SAFETY of every block below: pointers come from references to blocks, of which fields are read in whole words, and
// from arrays of the length of a register; the instructions are there by the contract of `unpack`.
#![allow(clippy::undocumented_unsafe_blocks)]

use super::columns::{bytes, down, look_up};
use super::sixteen::Sixteen;
use super::superblock_parts::{
    EIGHT, half_place, half_word, keep, lanes, one_column, put_minima, put_minimum, put_scale,
    put_scales, put_scales_and_minima, put_signed_scales, put_units, quarter_place, quarter_word,
    six_bits,
};
use super::superblocks::{Format, Head, RUN, Run};
use crate::blocks::{Iq4XsBlock, Q2KBlock, Q3KBlock, Q4KBlock, Q5KBlock, Q6KBlock, SUPERBLOCK};
use crate::kernels::iq4::VALUES_AND_128;
use std::arch::x86_64::*;
use std::mem::offset_of;

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
/// IQ4_XS.
pub struct Iq4Xs;

impl Format for Q2K {
    type Block = Q2KBlock;
    const SUB_BLOCK: usize = 16;
    const GROUP: usize = 16;
    const OFFSET: i16 = 0;
    const SHIFT: u32 = 0;
    const MINIMA: usize = 16;
    const FEW_ON_AMD: usize = 8;
    const COLUMNS: usize = 4;
    const RUNS: usize = 4;
    type Column = [Run; 4];
    type Shared = ();

    #[inline(always)]
    fn shift(run: usize) -> u32 {
        2 * run as u32
    }
    #[inline(always)]
    fn word(column: usize, run: usize) -> usize {
        quarter_word(column, run)
    }
    #[inline(always)]
    fn place(run: usize) -> (usize, usize) {
        quarter_place(run)
    }
    #[inline(always)]
    unsafe fn head<const WHOLE: bool, R: Sixteen<Block = Q2KBlock>>(rows: R, to: &mut Head) {
        unsafe {
            let packed = rows.words::<4>(offset_of!(Q2KBlock, scales));
            for (index, packed) in packed.into_iter().enumerate() {
                put_scales(to, 4 * index, _mm512_and_si512(packed, bytes(15)));
                let minima = _mm512_and_si512(down(packed, 4), bytes(15));
                put_minima(to, 2 * index, minima);
            }
            put_units(to, rows.halves(offset_of!(Q2KBlock, scale)));
            put_minimum(to, rows.halves(offset_of!(Q2KBlock, minimum)));
        }
    }
    #[inline(always)]
    unsafe fn shared<R: Sixteen<Block = Q2KBlock>>(_rows: R) {}
    #[inline(always)]
    unsafe fn column<R: Sixteen<Block = Q2KBlock>>(rows: R, (): &(), column: usize) -> [Run; 4] {
        unsafe {
            let packed = one_column(rows, offset_of!(Q2KBlock, quants), column);
            [
                keep(packed, 3),
                keep(packed, 12),
                keep(packed, 48),
                keep(packed, -64),
            ]
        }
    }
}

impl Format for Q3K {
    type Block = Q3KBlock;
    const SUB_BLOCK: usize = 16;
    const GROUP: usize = 8;
    const OFFSET: i16 = 32;
    /// Quants are 8 times as large, so that their offset of 4 becomes 32.
    const SHIFT: u32 = 3;
    const MINIMA: usize = 0;
    const FEW_ON_AMD: usize = 5;
    const COLUMNS: usize = 4;
    const RUNS: usize = 4;
    type Column = [Run; 4];
    /// The third bits of eight elements a byte.
    type Shared = [Run; 2];

    #[inline(always)]
    fn word(column: usize, run: usize) -> usize {
        quarter_word(column, run)
    }
    #[inline(always)]
    fn place(run: usize) -> (usize, usize) {
        quarter_place(run)
    }
    #[inline(always)]
    unsafe fn head<const WHOLE: bool, R: Sixteen<Block = Q3KBlock>>(rows: R, to: &mut Head) {
        unsafe {
            let ([first, second, upper], unit) = rows.last_14_bytes();
            let scales = |low: __m512i, shift: u32, high: u32| {
                let low = _mm512_and_si512(down(low, shift), bytes(15));
                let high = _mm512_and_si512(down(upper, high), bytes(3));
                let both = _mm512_or_si512(low, _mm512_slli_epi32::<4>(high));
                _mm512_sub_epi8(both, bytes(32))
            };
            put_signed_scales::<WHOLE>(to, 0, scales(first, 0, 0));
            put_signed_scales::<WHOLE>(to, 4, scales(second, 0, 2));
            put_signed_scales::<WHOLE>(to, 8, scales(first, 4, 4));
            put_signed_scales::<WHOLE>(to, 12, scales(second, 4, 6));
            put_units(to, unit);
        }
    }
    #[inline(always)]
    unsafe fn shared<R: Sixteen<Block = Q3KBlock>>(rows: R) -> [Run; 2] {
        unsafe {
            let offset = offset_of!(Q3KBlock, third);
            [one_column(rows, offset, 0), one_column(rows, offset, 1)]
        }
    }
    #[inline(always)]
    unsafe fn column<R: Sixteen<Block = Q3KBlock>>(
        rows: R,
        thirds: &[Run; 2],
        column: usize,
    ) -> [Run; 4] {
        unsafe {
            let packed = one_column(rows, offset_of!(Q3KBlock, quants), column);
            let mut runs = [packed; 4];
            for (run, words) in runs.iter_mut().enumerate() {
                let place = (column / 2 * 4 + run) as u32;
                for (word, third) in words.iter_mut().zip(thirds[column % 2]) {
                    let low = _mm512_and_si512(down(*word, 2 * run as u32), bytes(3));
                    let third = _mm512_and_si512(down(third, place), bytes(1));
                    *word =
                        _mm512_or_si512(_mm512_slli_epi32::<3>(low), _mm512_slli_epi32::<5>(third));
                }
            }
            runs
        }
    }
}

impl Format for Q4K {
    type Block = Q4KBlock;
    const SUB_BLOCK: usize = 32;
    const GROUP: usize = 16;
    const OFFSET: i16 = 0;
    const SHIFT: u32 = 0;
    const MINIMA: usize = 8;
    const FEW_ON_AMD: usize = 8;
    const COLUMNS: usize = 8;
    const RUNS: usize = 2;
    type Column = [Run; 2];
    type Shared = ();

    #[inline(always)]
    fn shift(run: usize) -> u32 {
        4 * run as u32
    }
    #[inline(always)]
    fn word(column: usize, run: usize) -> usize {
        half_word(column, run)
    }
    #[inline(always)]
    fn place(run: usize) -> (usize, usize) {
        half_place(run)
    }
    #[inline(always)]
    unsafe fn head<const WHOLE: bool, R: Sixteen<Block = Q4KBlock>>(rows: R, to: &mut Head) {
        unsafe { put_scales_and_minima(to, rows.words::<4>(0)) }
    }
    #[inline(always)]
    unsafe fn shared<R: Sixteen<Block = Q4KBlock>>(_rows: R) {}
    #[inline(always)]
    unsafe fn column<R: Sixteen<Block = Q4KBlock>>(rows: R, (): &(), column: usize) -> [Run; 2] {
        unsafe {
            let packed = one_column(rows, offset_of!(Q4KBlock, quants), column);
            [keep(packed, 15), keep(packed, -16)]
        }
    }
}

impl Format for Q5K {
    type Block = Q5KBlock;
    const SUB_BLOCK: usize = 32;
    const GROUP: usize = 8;
    const OFFSET: i16 = 0;
    const SHIFT: u32 = 0;
    const MINIMA: usize = 8;
    const FEW_ON_AMD: usize = 8;
    const COLUMNS: usize = 8;
    const RUNS: usize = 2;
    type Column = [Run; 2];
    /// The fifth bits of eight elements a byte.
    type Shared = [Run; 2];

    #[inline(always)]
    fn word(column: usize, run: usize) -> usize {
        half_word(column, run)
    }
    #[inline(always)]
    fn place(run: usize) -> (usize, usize) {
        half_place(run)
    }
    #[inline(always)]
    unsafe fn head<const WHOLE: bool, R: Sixteen<Block = Q5KBlock>>(rows: R, to: &mut Head) {
        unsafe { put_scales_and_minima(to, rows.words::<4>(0)) }
    }
    #[inline(always)]
    unsafe fn shared<R: Sixteen<Block = Q5KBlock>>(rows: R) -> [Run; 2] {
        unsafe {
            let offset = offset_of!(Q5KBlock, fifth);
            [one_column(rows, offset, 0), one_column(rows, offset, 1)]
        }
    }
    #[inline(always)]
    unsafe fn column<R: Sixteen<Block = Q5KBlock>>(
        rows: R,
        fifths: &[Run; 2],
        column: usize,
    ) -> [Run; 2] {
        unsafe {
            let packed = one_column(rows, offset_of!(Q5KBlock, quants), column);
            let mut runs = [packed; 2];
            for (run, words) in runs.iter_mut().enumerate() {
                let place = (column / 2 * 2 + run) as u32;
                for (word, fifth) in words.iter_mut().zip(fifths[column % 2]) {
                    let low = _mm512_and_si512(down(*word, 4 * run as u32), bytes(15));
                    let fifth = _mm512_and_si512(down(fifth, place), bytes(1));
                    *word = _mm512_or_si512(low, _mm512_slli_epi32::<4>(fifth));
                }
            }
            runs
        }
    }
}

impl Format for Q6K {
    type Block = Q6KBlock;
    const SUB_BLOCK: usize = 16;
    const GROUP: usize = 8;
    const OFFSET: i16 = 32;
    const SHIFT: u32 = 0;
    const MINIMA: usize = 0;
    const FEW_ON_AMD: usize = 4;
    const COLUMNS: usize = 4;
    const RUNS: usize = 4;
    type Column = [Run; 4];
    type Shared = ();

    #[inline(always)]
    fn word(column: usize, run: usize) -> usize {
        quarter_word(column, run)
    }
    #[inline(always)]
    fn place(run: usize) -> (usize, usize) {
        quarter_place(run)
    }
    #[inline(always)]
    unsafe fn head<const WHOLE: bool, R: Sixteen<Block = Q6KBlock>>(rows: R, to: &mut Head) {
        unsafe {
            let scales = rows.words::<4>(offset_of!(Q6KBlock, scales));
            for (index, scales) in scales.into_iter().enumerate() {
                put_signed_scales::<WHOLE>(to, 4 * index, scales);
            }
            put_units(to, rows.halves(offset_of!(Q6KBlock, scale)));
        }
    }
    #[inline(always)]
    unsafe fn shared<R: Sixteen<Block = Q6KBlock>>(_rows: R) {}
    #[inline(always)]
    unsafe fn column<R: Sixteen<Block = Q6KBlock>>(rows: R, (): &(), column: usize) -> [Run; 4] {
        unsafe {
            let (half, part) = (column / 2, column % 2);
            let first = one_column(rows, offset_of!(Q6KBlock, low), 4 * half + part);
            let second = one_column(rows, offset_of!(Q6KBlock, low), 4 * half + 2 + part);
            let high = one_column(rows, offset_of!(Q6KBlock, high), column);
            let mut runs = [first, second, first, second];
            for word in 0..RUN {
                let (first, second, high) = (first[word], second[word], high[word]);
                runs[0][word] = six_bits(first, _mm512_slli_epi32::<4>(high));
                runs[1][word] = six_bits(second, _mm512_slli_epi32::<2>(high));
                runs[2][word] = six_bits(_mm512_srli_epi32::<4>(first), high);
                let high = _mm512_srli_epi32::<2>(high);
                runs[3][word] = six_bits(_mm512_srli_epi32::<4>(second), high);
            }
            runs
        }
    }
}

impl Format for Iq4Xs {
    type Block = Iq4XsBlock;
    const SUB_BLOCK: usize = 32;
    const GROUP: usize = 0;
    const OFFSET: i16 = 128;
    const SHIFT: u32 = 0;
    const MINIMA: usize = 0;
    const FEW_ON_AMD: usize = 8;
    const COLUMNS: usize = 8;
    const RUNS: usize = 2;
    type Column = [Run; 2];
    type Shared = ();

    #[inline(always)]
    fn word(column: usize, run: usize) -> usize {
        column * EIGHT + run * RUN
    }
    #[inline(always)]
    fn place(run: usize) -> (usize, usize) {
        (run / 2, run % 2)
    }
    #[inline(always)]
    unsafe fn head<const WHOLE: bool, R: Sixteen<Block = Iq4XsBlock>>(rows: R, to: &mut Head) {
        unsafe {
            // The unit and the upper bits, the lower bits, and the first quants.
            let [first, low, ..] = rows.words::<4>(0);
            put_units(to, first);
            let high = _mm512_srli_epi32::<16>(first);
            for sub_block in 0..SUPERBLOCK / Self::SUB_BLOCK {
                let low = _mm512_and_si512(down(low, 4 * sub_block as u32), lanes(15));
                let high = _mm512_and_si512(down(high, 2 * sub_block as u32), lanes(3));
                let scale = _mm512_or_si512(low, _mm512_slli_epi32::<4>(high));
                let scale = _mm512_sub_epi32(scale, lanes(32));
                let scale = if WHOLE {
                    scale
                } else {
                    _mm512_and_si512(scale, lanes(0xffff))
                };
                put_scale(to, sub_block, scale);
            }
        }
    }
    #[inline(always)]
    unsafe fn shared<R: Sixteen<Block = Iq4XsBlock>>(_rows: R) {}
    #[inline(always)]
    unsafe fn column<R: Sixteen<Block = Iq4XsBlock>>(rows: R, (): &(), column: usize) -> [Run; 2] {
        unsafe {
            let packed = one_column(rows, offset_of!(Iq4XsBlock, quants), column);
            let mut upper = packed;
            for word in &mut upper {
                *word = _mm512_srli_epi32::<4>(*word);
            }
            [
                look_up(&VALUES_AND_128, keep(packed, 15)),
                look_up(&VALUES_AND_128, keep(upper, 15)),
            ]
        }
    }
}
