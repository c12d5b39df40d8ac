//! Sums of lanes, and how those of sixteen rows come into lanes.

// SAFETY of every block below: arrays are of the length of a register; the instructions are there by the contracts.
#![allow(clippy::undocumented_unsafe_blocks)]

use super::ROWS;
use super::formats::AlongRows;
use crate::kernels::arranged::{ArrangedQuad, QUAD};
use crate::kernels::row_lanes::{transpose_quarters, widen_low_halves};
use std::arch::x86_64::*;

/// A register of four quarters.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub struct Quarters(pub [[i32; 4]; 4]);

impl Quarters {
    /// Writes a register.
    #[inline(always)]
    pub unsafe fn put(&mut self, lanes: __m512i) {
        unsafe { _mm512_store_si512(self.0.as_mut_ptr().cast(), lanes) }
    }

    #[inline(always)]
    unsafe fn get(&self) -> __m512i {
        unsafe { _mm512_load_si512(self.0.as_ptr().cast()) }
    }
}

/// What four superblocks of sixteen rows leave with one token.
#[derive(Clone)]
#[repr(C, align(64))]
pub struct Quad {
    /// Of each row: four quarters of sums, each of the four superblocks.
    pub products: [Quarters; ROWS],
    /// Of each row: a quarter of sums of minima times activations for each superblock.
    pub corrections: [Quarters; ROWS],
}

/// The units of four superblocks, rows in lanes.
#[derive(Clone)]
#[repr(C, align(64))]
pub struct Units(pub [[u32; ROWS]; QUAD]);

impl Units {
    /// Zeros.
    pub const EMPTY: Self = Self([[0; ROWS]; QUAD]);
}

impl Quad {
    /// Zeros.
    pub const EMPTY: Self = Self {
        products: [Quarters([[0; 4]; 4]); ROWS],
        corrections: [Quarters([[0; 4]; 4]); ROWS],
    };

    /// `sum`, rows in lanes, and the first `count` of these superblocks with their units.
    ///
    /// # Safety
    /// The machine has AVX-512 F and F16C.
    #[inline(always)]
    pub unsafe fn add<F: AlongRows>(
        &self,
        units: &Units,
        x: &ArrangedQuad,
        count: usize,
        mut sum: __m512,
    ) -> __m512 {
        unsafe {
            let products = across_rows(&self.products);
            let mut corrections = [_mm512_setzero_si512(); QUAD];
            if F::MINIMA {
                corrections = along_quarters(&self.corrections);
            }
            for place in 0..count {
                let units = _mm512_load_si512(units.0[place].as_ptr().cast());
                let x_scale = _mm512_set1_ps(x.scales[place]);
                let scale = _mm512_mul_ps(widen_low_halves(units), x_scale);
                sum = _mm512_fmadd_ps(scale, _mm512_cvtepi32_ps(products[place]), sum);
                if F::MINIMA {
                    let minimum = widen_low_halves(_mm512_srli_epi32::<16>(units));
                    let corrections = _mm512_cvtepi32_ps(corrections[place]);
                    sum = _mm512_fnmadd_ps(_mm512_mul_ps(minimum, x_scale), corrections, sum);
                }
            }
            sum
        }
    }
}

/// Of each lane of the quarters: the sum over quarters, rows in lanes.
#[inline(always)]
unsafe fn across_rows(rows: &[Quarters; ROWS]) -> [__m512i; 4] {
    unsafe {
        // Register g, quarter q: row g + 4 q.
        let mut sums = [_mm512_setzero_si512(); 4];
        for (first, to) in sums.iter_mut().enumerate() {
            let row = |quarter: usize| rows[first + 4 * quarter].get();
            *to = quarters_of_rows([row(0), row(1), row(2), row(3)]);
        }
        transpose_quarters(sums)
    }
}

/// Of each quarter: the sum over its lanes, rows in lanes.
#[inline(always)]
unsafe fn along_quarters(rows: &[Quarters; ROWS]) -> [__m512i; 4] {
    unsafe {
        // Register g, lane l: row 4 g + l.
        let mut sums = [_mm512_setzero_si512(); 4];
        for (to, [a, b, c, d]) in sums.iter_mut().zip(rows.as_chunks().0) {
            *to = quarters_of_four([a.get(), b.get(), c.get(), d.get()]);
        }
        let [a, b, c, d] = sums;
        let low = [
            _mm512_shuffle_i64x2::<0b01_00_01_00>(a, b),
            _mm512_shuffle_i64x2::<0b01_00_01_00>(c, d),
        ];
        let high = [
            _mm512_shuffle_i64x2::<0b11_10_11_10>(a, b),
            _mm512_shuffle_i64x2::<0b11_10_11_10>(c, d),
        ];
        [
            _mm512_shuffle_i64x2::<0b10_00_10_00>(low[0], low[1]),
            _mm512_shuffle_i64x2::<0b11_01_11_01>(low[0], low[1]),
            _mm512_shuffle_i64x2::<0b10_00_10_00>(high[0], high[1]),
            _mm512_shuffle_i64x2::<0b11_01_11_01>(high[0], high[1]),
        ]
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
