//! Sums of a few rows of every lane, which come lane by lane and are wanted row after row.

use super::super::columns::{ROWS, transpose_quarters};
use std::arch::x86_64::*;

/// Rows of a lane whose sums are kept: as many as make the turned ones a register each.
pub const STEPS: usize = 16;

/// Of one token.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub struct Steps([[f32; ROWS]; STEPS]);

/// The same, turned: the rows of a lane one after another.
#[repr(C, align(64))]
pub struct Lanes(pub [[f32; STEPS]; ROWS]);

impl Steps {
    /// Zeros.
    pub const EMPTY: Self = Self([[0.0; ROWS]; STEPS]);

    /// Sets those of one row of every lane.
    ///
    /// # Safety
    /// The machine has AVX-512 F.
    #[inline(always)]
    pub unsafe fn put(&mut self, step: usize, sums: __m512) {
        // SAFETY: sixteen floats are a register and aligned to it.
        unsafe { _mm512_store_ps(self.0[step].as_mut_ptr(), sums) }
    }

    /// What was put, lane by lane.
    ///
    /// # Safety
    /// The machine has AVX-512 F.
    #[inline(always)]
    pub unsafe fn turn(&self) -> Lanes {
        const QUARTER: usize = 4;
        let mut lanes = Lanes([[0.0; STEPS]; ROWS]);
        // SAFETY: rows are aligned to registers; quarters lie within rows.
        unsafe {
            for (first, steps) in self.0.as_chunks::<QUARTER>().0.iter().enumerate() {
                let mut rows = [_mm512_setzero_si512(); QUARTER];
                for (row, step) in rows.iter_mut().zip(steps) {
                    *row = _mm512_load_si512(step.as_ptr().cast());
                }
                for (lane, turned) in transpose_quarters(rows).into_iter().enumerate() {
                    let quarters = [
                        _mm512_extracti32x4_epi32::<0>(turned),
                        _mm512_extracti32x4_epi32::<1>(turned),
                        _mm512_extracti32x4_epi32::<2>(turned),
                        _mm512_extracti32x4_epi32::<3>(turned),
                    ];
                    for (quarter, sums) in quarters.into_iter().enumerate() {
                        let to = &mut lanes.0[quarter * QUARTER + lane][first * QUARTER..];
                        _mm_storeu_si128(to.as_mut_ptr().cast(), sums);
                    }
                }
            }
        }
        lanes
    }
}
