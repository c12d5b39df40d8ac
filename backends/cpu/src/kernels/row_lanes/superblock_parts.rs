//! What formats of superblocks have in common: where quants lie, and how heads are written.

// SAFETY of every block below: pointers come from references to blocks, of which fields are read in whole words, and
// from arrays of the length of a register; the instructions are there by the contract of `Format`.
#![allow(clippy::undocumented_unsafe_blocks)]

use super::columns::{bytes, down, widen_low_halves};
use super::sixteen::Sixteen;
use super::superblocks::{Head, RUN, Run};
use std::arch::x86_64::*;

/// Words of 32 elements of a row.
pub const EIGHT: usize = 8;

/// Where four bits an element lie: 64 elements in two columns.
#[inline(always)]
pub fn half_word(column: usize, run: usize) -> usize {
    column / 2 * 2 * EIGHT + run * EIGHT + column % 2 * RUN
}

/// The inverse of [`half_word`], in runs.
#[inline(always)]
pub fn half_place(run: usize) -> (usize, usize) {
    (run / 4 * 2 + run % 2, run % 4 / 2)
}

/// The inverse of [`quarter_word`], in runs.
#[inline(always)]
pub fn quarter_place(run: usize) -> (usize, usize) {
    (run / 8 * 2 + run % 2, run % 8 / 2)
}

/// Where two bits an element lie: 128 elements in two columns.
#[inline(always)]
pub fn quarter_word(column: usize, run: usize) -> usize {
    column / 2 * 4 * EIGHT + run * EIGHT + column % 2 * RUN
}

/// The four words of sixteen bytes of each row, so many columns after `offset`.
#[inline(always)]
pub unsafe fn one_column(rows: impl Sixteen, offset: usize, column: usize) -> Run {
    unsafe { rows.words::<RUN>(offset + 16 * column) }
}

/// Those bits of every byte.
#[inline(always)]
pub unsafe fn keep(words: Run, mask: i8) -> Run {
    let mut kept = words;
    for word in &mut kept {
        *word = unsafe { _mm512_and_si512(*word, bytes(mask)) };
    }
    kept
}

/// Every lane that value.
#[inline(always)]
pub unsafe fn lanes(value: i32) -> __m512i {
    unsafe { _mm512_set1_epi32(value) }
}

/// Bits 0 to 3 of `low` and 4 and 5 of `high`.
#[inline(always)]
pub unsafe fn six_bits(low: __m512i, high: __m512i) -> __m512i {
    unsafe {
        // Bit by bit: low where the mask is set, else high.
        let both = _mm512_ternarylogic_epi32::<0xca>(bytes(15), low, high);
        _mm512_and_si512(both, bytes(63))
    }
}

/// The unit in the lower half of each lane.
#[inline(always)]
pub unsafe fn put_units(to: &mut Head, units: __m512i) {
    unsafe { _mm512_store_ps(to.scale.as_mut_ptr(), widen_low_halves(units)) }
}

/// The unit of the minima in the lower half of each lane.
#[inline(always)]
pub unsafe fn put_minimum(to: &mut Head, units: __m512i) {
    unsafe { _mm512_store_ps(to.minimum.as_mut_ptr(), widen_low_halves(units)) }
}

/// The scales of one sub-block.
#[inline(always)]
pub unsafe fn put_scale(to: &mut Head, sub_block: usize, scales: __m512i) {
    unsafe { _mm512_store_si512(to.scales[sub_block].as_mut_ptr().cast(), scales) }
}

/// Scales of four sub-blocks of 16 from `first` on, one in each byte.
#[inline(always)]
pub unsafe fn put_scales(to: &mut Head, first: usize, packed: __m512i) {
    unsafe {
        for index in 0..4 {
            let scales = _mm512_and_si512(down(packed, 8 * index as u32), _mm512_set1_epi32(255));
            put_scale(to, first + index, scales);
        }
    }
}

/// The same with a sign.
#[inline(always)]
pub unsafe fn put_signed_scales<const WHOLE: bool>(to: &mut Head, first: usize, packed: __m512i) {
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
pub unsafe fn put_minima(to: &mut Head, first: usize, packed: __m512i) {
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
pub unsafe fn put_scales_and_minima(to: &mut Head, words: [__m512i; 4]) {
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
