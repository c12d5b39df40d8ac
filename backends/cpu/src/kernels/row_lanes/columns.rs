//! Sixteen rows of bytes as columns: what lies at one place of every row, in one register.

// SAFETY of every block below: by the contracts of the functions.
#![allow(clippy::undocumented_unsafe_blocks)]

use std::arch::x86_64::*;

/// Rows of weights in one register.
pub const ROWS: usize = 16;

/// Lane r of word w = bytes 4 w to 4 w + 4 of the sixteen at `rows[r]`. The rows are brought together by quarters of
/// registers straight from memory, so that only two of four steps of the transpose need the one port that shuffles.
///
/// # Safety
/// Each pointer is to 16 readable bytes, and the machine has AVX-512 F.
#[inline(always)]
pub unsafe fn words_of_16_bytes(rows: [*const u8; ROWS]) -> [__m512i; 4] {
    unsafe {
        let mut quarters = [_mm512_setzero_si512(); 4];
        for (first, quarter) in quarters.iter_mut().enumerate() {
            let load = |lane: usize| _mm_loadu_si128(rows[4 * lane + first].cast());
            let all = _mm512_castsi128_si512(load(0));
            let all = _mm512_mask_broadcast_i32x4(all, 0x00f0, load(1));
            let all = _mm512_mask_broadcast_i32x4(all, 0x0f00, load(2));
            *quarter = _mm512_mask_broadcast_i32x4(all, 0xf000, load(3));
        }
        transpose_quarters(quarters)
    }
}

/// out\[i\] lane j of each quarter = rows\[j\] lane i of that quarter.
///
/// # Safety
/// The machine has AVX-512 F.
#[inline(always)]
pub unsafe fn transpose_quarters(rows: [__m512i; 4]) -> [__m512i; 4] {
    unsafe {
        let [a, b, c, d] = rows;
        let low = [_mm512_unpacklo_epi32(a, b), _mm512_unpacklo_epi32(c, d)];
        let high = [_mm512_unpackhi_epi32(a, b), _mm512_unpackhi_epi32(c, d)];
        [
            _mm512_unpacklo_epi64(low[0], low[1]),
            _mm512_unpackhi_epi64(low[0], low[1]),
            _mm512_unpacklo_epi64(high[0], high[1]),
            _mm512_unpackhi_epi64(high[0], high[1]),
        ]
    }
}

/// Sixteen 16-bit words as binary16, widened: what is in the lower half of each lane.
///
/// # Safety
/// The machine has AVX-512 F.
#[inline(always)]
pub unsafe fn widen_low_halves(words: __m512i) -> __m512 {
    unsafe { _mm512_cvtph_ps(_mm512_cvtepi32_epi16(words)) }
}

/// Every byte that value.
#[inline(always)]
pub unsafe fn bytes(value: i8) -> __m512i {
    unsafe { _mm512_set1_epi8(value) }
}

/// What each byte, a number below 16, stands for.
#[inline(always)]
pub unsafe fn look_up<const N: usize>(table: &[u8; 16], mut codes: [__m512i; N]) -> [__m512i; N] {
    unsafe {
        let table = _mm512_broadcast_i32x4(_mm_loadu_si128(table.as_ptr().cast()));
        for codes in &mut codes {
            *codes = _mm512_shuffle_epi8(table, *codes);
        }
        codes
    }
}

/// Each lane moved down by so many bits.
#[inline(always)]
pub unsafe fn down(words: __m512i, bits: u32) -> __m512i {
    unsafe { _mm512_srl_epi32(words, _mm_cvtsi32_si128(bits as i32)) }
}
