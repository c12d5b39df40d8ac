//! Superblocks of each format, sixteen rows in lanes.

// SAFETY of every block below: pointers come from references to blocks, of which fields are read in whole words, and
// from arrays of the length of a register; the instructions are there by the contract of `unpack`.
#![allow(clippy::undocumented_unsafe_blocks)]

use super::columns::{ROWS, bytes, down, look_up, pointers, widen_low_halves, words};
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

/// Words of 32 elements of a row.
const EIGHT: usize = 8;

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
    unsafe fn head<const WHOLE: bool>(rows: [&Q2KBlock; ROWS], to: &mut Head) {
        unsafe {
            let rows = pointers(rows);
            let packed = words::<4>(rows, offset_of!(Q2KBlock, scales));
            for (index, packed) in packed.into_iter().enumerate() {
                put_scales(to, 4 * index, _mm512_and_si512(packed, bytes(15)));
                let minima = _mm512_and_si512(down(packed, 4), bytes(15));
                put_minima(to, 2 * index, minima);
            }
            put_units(to, halves(rows, offset_of!(Q2KBlock, scale)));
            put_minimum(to, halves(rows, offset_of!(Q2KBlock, minimum)));
        }
    }
    #[inline(always)]
    unsafe fn shared(_rows: [&Q2KBlock; ROWS]) {}
    #[inline(always)]
    unsafe fn column(rows: [&Q2KBlock; ROWS], (): &(), column: usize) -> [Run; 4] {
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
    fn shift(_run: usize) -> u32 {
        0
    }
    #[inline(always)]
    fn word(column: usize, run: usize) -> usize {
        quarter_word(column, run)
    }
    #[inline(always)]
    unsafe fn head<const WHOLE: bool>(rows: [&Q3KBlock; ROWS], to: &mut Head) {
        unsafe {
            // The last 16 bytes: two that are no part of it, then the scales and the unit.
            const FIRST: usize = size_of::<Q3KBlock>() - 16;
            let last = words::<4>(pointers(rows), FIRST);
            let word = |index: usize| {
                _mm512_or_si512(
                    _mm512_srli_epi32::<16>(last[index]),
                    _mm512_slli_epi32::<16>(last[index + 1]),
                )
            };
            let [first, second, upper] = [word(0), word(1), word(2)];
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
            put_units(to, _mm512_srli_epi32::<16>(last[3]));
        }
    }
    #[inline(always)]
    unsafe fn shared(rows: [&Q3KBlock; ROWS]) -> [Run; 2] {
        unsafe {
            let offset = offset_of!(Q3KBlock, third);
            [one_column(rows, offset, 0), one_column(rows, offset, 1)]
        }
    }
    #[inline(always)]
    unsafe fn column(rows: [&Q3KBlock; ROWS], thirds: &[Run; 2], column: usize) -> [Run; 4] {
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
    unsafe fn head<const WHOLE: bool>(rows: [&Q4KBlock; ROWS], to: &mut Head) {
        unsafe { put_scales_and_minima(to, words::<4>(pointers(rows), 0)) }
    }
    #[inline(always)]
    unsafe fn shared(_rows: [&Q4KBlock; ROWS]) {}
    #[inline(always)]
    unsafe fn column(rows: [&Q4KBlock; ROWS], (): &(), column: usize) -> [Run; 2] {
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
    fn shift(_run: usize) -> u32 {
        0
    }
    #[inline(always)]
    fn word(column: usize, run: usize) -> usize {
        half_word(column, run)
    }
    #[inline(always)]
    unsafe fn head<const WHOLE: bool>(rows: [&Q5KBlock; ROWS], to: &mut Head) {
        unsafe { put_scales_and_minima(to, words::<4>(pointers(rows), 0)) }
    }
    #[inline(always)]
    unsafe fn shared(rows: [&Q5KBlock; ROWS]) -> [Run; 2] {
        unsafe {
            let offset = offset_of!(Q5KBlock, fifth);
            [one_column(rows, offset, 0), one_column(rows, offset, 1)]
        }
    }
    #[inline(always)]
    unsafe fn column(rows: [&Q5KBlock; ROWS], fifths: &[Run; 2], column: usize) -> [Run; 2] {
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
    fn shift(_run: usize) -> u32 {
        0
    }
    #[inline(always)]
    fn word(column: usize, run: usize) -> usize {
        quarter_word(column, run)
    }
    #[inline(always)]
    unsafe fn head<const WHOLE: bool>(rows: [&Q6KBlock; ROWS], to: &mut Head) {
        unsafe {
            let rows = pointers(rows);
            let scales = words::<4>(rows, offset_of!(Q6KBlock, scales));
            for (index, scales) in scales.into_iter().enumerate() {
                put_signed_scales::<WHOLE>(to, 4 * index, scales);
            }
            put_units(to, halves(rows, offset_of!(Q6KBlock, scale)));
        }
    }
    #[inline(always)]
    unsafe fn shared(_rows: [&Q6KBlock; ROWS]) {}
    #[inline(always)]
    unsafe fn column(rows: [&Q6KBlock; ROWS], (): &(), column: usize) -> [Run; 4] {
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
    fn shift(_run: usize) -> u32 {
        0
    }
    #[inline(always)]
    fn word(column: usize, run: usize) -> usize {
        column * EIGHT + run * RUN
    }
    #[inline(always)]
    unsafe fn head<const WHOLE: bool>(rows: [&Iq4XsBlock; ROWS], to: &mut Head) {
        unsafe {
            // The unit and the upper bits, the lower bits, and the first quants.
            let [first, low, ..] = words::<4>(pointers(rows), 0);
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
    unsafe fn shared(_rows: [&Iq4XsBlock; ROWS]) {}
    #[inline(always)]
    unsafe fn column(rows: [&Iq4XsBlock; ROWS], (): &(), column: usize) -> [Run; 2] {
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

/// Where four bits an element lie: 64 elements in two columns.
#[inline(always)]
fn half_word(column: usize, run: usize) -> usize {
    column / 2 * 2 * EIGHT + run * EIGHT + column % 2 * RUN
}

/// Where two bits an element lie: 128 elements in two columns.
#[inline(always)]
fn quarter_word(column: usize, run: usize) -> usize {
    column / 2 * 4 * EIGHT + run * EIGHT + column % 2 * RUN
}

/// The four words of sixteen bytes of each row, so many columns after `offset`.
#[inline(always)]
unsafe fn one_column<B>(rows: [&B; ROWS], offset: usize, column: usize) -> Run {
    unsafe { words::<RUN>(pointers(rows), offset + 16 * column) }
}

/// Those bits of every byte.
#[inline(always)]
unsafe fn keep(words: Run, mask: i8) -> Run {
    let mut kept = words;
    for word in &mut kept {
        *word = unsafe { _mm512_and_si512(*word, bytes(mask)) };
    }
    kept
}

/// Every lane that value.
#[inline(always)]
unsafe fn lanes(value: i32) -> __m512i {
    unsafe { _mm512_set1_epi32(value) }
}

/// Bits 0 to 3 of `low` and 4 and 5 of `high`.
#[inline(always)]
unsafe fn six_bits(low: __m512i, high: __m512i) -> __m512i {
    unsafe {
        // Bit by bit: low where the mask is set, else high.
        let both = _mm512_ternarylogic_epi32::<0xca>(bytes(15), low, high);
        _mm512_and_si512(both, bytes(63))
    }
}

/// The two bytes at `offset` of each row.
#[inline(always)]
unsafe fn halves(rows: [*const u8; ROWS], offset: usize) -> __m512i {
    let mut halves = [0u16; ROWS];
    for (half, row) in halves.iter_mut().zip(rows) {
        *half = unsafe { row.add(offset).cast::<u16>().read_unaligned() };
    }
    unsafe { _mm512_cvtepu16_epi32(_mm256_loadu_si256(halves.as_ptr().cast())) }
}

/// The unit in the lower half of each lane.
#[inline(always)]
unsafe fn put_units(to: &mut Head, units: __m512i) {
    unsafe { _mm512_store_ps(to.scale.as_mut_ptr(), widen_low_halves(units)) }
}

/// The unit of the minima in the lower half of each lane.
#[inline(always)]
unsafe fn put_minimum(to: &mut Head, units: __m512i) {
    unsafe { _mm512_store_ps(to.minimum.as_mut_ptr(), widen_low_halves(units)) }
}

#[inline(always)]
unsafe fn put_scale(to: &mut Head, sub_block: usize, scales: __m512i) {
    unsafe { _mm512_store_si512(to.scales[sub_block].as_mut_ptr().cast(), scales) }
}

/// Scales of four sub-blocks of 16 from `first` on, one in each byte.
#[inline(always)]
unsafe fn put_scales(to: &mut Head, first: usize, packed: __m512i) {
    unsafe {
        for index in 0..4 {
            let scales = _mm512_and_si512(down(packed, 8 * index as u32), _mm512_set1_epi32(255));
            put_scale(to, first + index, scales);
        }
    }
}

/// The same with a sign.
#[inline(always)]
unsafe fn put_signed_scales<const WHOLE: bool>(to: &mut Head, first: usize, packed: __m512i) {
    unsafe {
        for index in 0..4 {
            // To the top, then down with its sign: all of a lane, or its lower half with 0 above.
            let top = _mm512_sll_epi32(packed, _mm_cvtsi32_si128(24 - 8 * index));
            let scales = if WHOLE {
                _mm512_srai_epi32::<24>(top)
            } else {
                _mm512_srli_epi32::<16>(_mm512_srai_epi32::<8>(top))
            };
            put_scale(to, first + index as usize, scales);
        }
    }
}

/// Minima of four sub-blocks in the bytes, as two pairs from `first` on.
#[inline(always)]
unsafe fn put_minima(to: &mut Head, first: usize, packed: __m512i) {
    unsafe {
        for index in 0..2 {
            let pair = down(packed, 16 * index as u32);
            let low = _mm512_and_si512(pair, _mm512_set1_epi32(255));
            let high = _mm512_and_si512(_mm512_slli_epi32::<8>(pair), _mm512_set1_epi32(255 << 16));
            let pair = _mm512_or_si512(low, high);
            _mm512_store_si512(to.minima[first + index].as_mut_ptr().cast(), pair);
        }
    }
}

/// The units, scales and minima of Q4_K and Q5_K: the first 16 bytes of a block.
#[inline(always)]
unsafe fn put_scales_and_minima(to: &mut Head, words: [__m512i; 4]) {
    unsafe {
        let [units, first, second, third] = words;
        put_units(to, units);
        put_minimum(to, _mm512_srli_epi32::<16>(units));
        let upper = |word: __m512i| {
            let bits = _mm512_and_si512(_mm512_srli_epi32::<6>(word), bytes(3));
            _mm512_slli_epi32::<4>(bits)
        };
        let low = |word: __m512i| _mm512_and_si512(word, bytes(15));
        let scales = [
            _mm512_and_si512(first, bytes(63)),
            _mm512_or_si512(low(third), upper(first)),
        ];
        for (half, packed) in scales.into_iter().enumerate() {
            for index in 0..4 {
                let scales =
                    _mm512_and_si512(down(packed, 8 * index as u32), _mm512_set1_epi32(255));
                put_scale(to, 4 * half + index, scales);
            }
        }
        put_minima(to, 0, _mm512_and_si512(second, bytes(63)));
        let last = _mm512_or_si512(low(_mm512_srli_epi32::<4>(third)), upper(second));
        put_minima(to, 2, last);
    }
}
