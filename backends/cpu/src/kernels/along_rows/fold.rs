//! Sums of lanes, and how those of sixteen rows come into lanes.

// SAFETY of every block below: arrays are of the length of a register; the instructions are there by the contracts.
#![allow(clippy::undocumented_unsafe_blocks)]

use super::formats::{AlongRows, Arranged};
use super::{QUAD, ROWS};
use std::arch::x86_64::*;

/// What four superblocks of sixteen rows leave with T tokens.
#[derive(Clone)]
#[repr(C, align(64))]
pub struct Quad<const T: usize> {
    /// Of each row: four quarters of sums, each of the four superblocks.
    pub products: [[[[i32; QUAD]; 4]; ROWS]; T],
    /// Of each row: the sums of minima times activations.
    pub corrections: [[[i32; QUAD]; ROWS]; T],
    /// Of each superblock, rows in lanes.
    pub units: [[u32; ROWS]; QUAD],
}

impl<const T: usize> Quad<T> {
    /// Zeros.
    pub const EMPTY: Self = Self {
        products: [[[[0; QUAD]; 4]; ROWS]; T],
        corrections: [[[0; QUAD]; ROWS]; T],
        units: [[0; ROWS]; QUAD],
    };

    /// `sum`, rows in lanes, and these superblocks with token `t`, of which there are as many as of `x`.
    ///
    /// # Safety
    /// The machine has AVX-512 F and F16C.
    #[inline(always)]
    pub unsafe fn add<F: AlongRows>(&self, t: usize, x: &[Arranged], mut sum: __m512) -> __m512 {
        unsafe {
            let products = self.products(t);
            let mut corrections = [_mm512_setzero_si512(); QUAD];
            if F::MINIMA > 0 {
                corrections = self.corrections(t);
            }
            for (place, x) in x.iter().enumerate() {
                let units = _mm512_load_si512(self.units[place].as_ptr().cast());
                let x_scale = _mm512_set1_ps(x.scale);
                let products = _mm512_cvtepi32_ps(products[place]);
                sum = _mm512_fmadd_ps(_mm512_mul_ps(low_half(units), x_scale), products, sum);
                if F::MINIMA > 0 {
                    let minimum = low_half(_mm512_srli_epi32::<16>(units));
                    let corrections = _mm512_cvtepi32_ps(corrections[place]);
                    sum = _mm512_fnmadd_ps(_mm512_mul_ps(minimum, x_scale), corrections, sum);
                }
            }
            sum
        }
    }

    /// The dots of each superblock, rows in lanes.
    #[inline(always)]
    unsafe fn products(&self, t: usize) -> [__m512i; QUAD] {
        unsafe {
            // Register g, quarter q: row g + 4 q.
            let mut rows = [_mm512_setzero_si512(); QUAD];
            for (first, to) in rows.iter_mut().enumerate() {
                let mut quarters = [*to; 4];
                for (quarter, from) in quarters.iter_mut().enumerate() {
                    let row = &self.products[t][first + 4 * quarter];
                    *from = _mm512_load_si512(row.as_ptr().cast());
                }
                *to = quarters_of_rows(quarters);
            }
            transpose(rows)
        }
    }

    /// The sums of minima times activations of each superblock, rows in lanes.
    #[inline(always)]
    unsafe fn corrections(&self, t: usize) -> [__m512i; QUAD] {
        unsafe {
            let mut rows = [_mm512_setzero_si512(); QUAD];
            for (first, to) in rows.iter_mut().enumerate() {
                let row = |quarter: usize| {
                    _mm_load_si128(self.corrections[t][first + 4 * quarter].as_ptr().cast())
                };
                let low = _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(row(0)), row(1));
                let high = _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(row(2)), row(3));
                *to = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), high);
            }
            transpose(rows)
        }
    }
}

/// Lane r of each quarter = the sum of that quarter of rows\[r\].
///
/// # Safety
/// The machine has AVX-512 F.
#[inline(always)]
pub unsafe fn quarters_of_four(rows: [__m512i; 4]) -> __m512i {
    unsafe {
        let [a, b, c, d] = rows;
        let first = _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
        let second = _mm512_add_epi32(_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
        let low = _mm512_unpacklo_epi64(first, second);
        _mm512_add_epi32(low, _mm512_unpackhi_epi64(first, second))
    }
}

/// Lane r = the sum of rows\[r\].
///
/// # Safety
/// The machine has AVX-512 F.
#[inline(always)]
pub unsafe fn four(rows: [__m128i; 4]) -> __m128i {
    unsafe {
        let [a, b, c, d] = rows;
        let first = _mm_add_epi32(_mm_unpacklo_epi32(a, b), _mm_unpackhi_epi32(a, b));
        let second = _mm_add_epi32(_mm_unpacklo_epi32(c, d), _mm_unpackhi_epi32(c, d));
        let low = _mm_unpacklo_epi64(first, second);
        _mm_add_epi32(low, _mm_unpackhi_epi64(first, second))
    }
}

/// Quarter q = the sum of the quarters of rows\[q\].
#[inline(always)]
unsafe fn quarters_of_rows(rows: [__m512i; 4]) -> __m512i {
    unsafe {
        let [a, b, c, d] = rows;
        let low = _mm512_shuffle_i64x2::<0b01_00_01_00>(a, b);
        let first = _mm512_add_epi32(low, _mm512_shuffle_i64x2::<0b11_10_11_10>(a, b));
        let low = _mm512_shuffle_i64x2::<0b01_00_01_00>(c, d);
        let second = _mm512_add_epi32(low, _mm512_shuffle_i64x2::<0b11_10_11_10>(c, d));
        let low = _mm512_shuffle_i64x2::<0b10_00_10_00>(first, second);
        _mm512_add_epi32(low, _mm512_shuffle_i64x2::<0b11_01_11_01>(first, second))
    }
}

/// out\[i\] lane j of each quarter = rows\[j\] lane i of that quarter.
#[inline(always)]
unsafe fn transpose(rows: [__m512i; 4]) -> [__m512i; 4] {
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

/// Binary16 in the lower half of each lane, widened.
#[inline(always)]
unsafe fn low_half(words: __m512i) -> __m512 {
    unsafe { _mm512_cvtph_ps(_mm512_cvtepi32_epi16(words)) }
}
