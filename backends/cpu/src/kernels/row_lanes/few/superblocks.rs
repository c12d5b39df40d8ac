//! Superblocks of 256: a column of sixteen bytes of sixteen rows is brought into lanes, taken apart, multiplied with
//! every token and forgotten.

use super::super::columns::down;
use super::super::sixteen::{Rows, Sixteen};
use super::super::superblocks::{Format, Head, RUN, WORD, correction, offset};
use super::super::{FEW_ELSEWHERE, SUPERBLOCKS_BY_DOZENS};
use super::{Kind, Most, Part, Wishes};
use crate::kernels::activations::ActivationSuperblock;
use crate::kernels::rows::blocks_at;
use std::arch::x86_64::*;
use std::marker::PhantomData;

/// Formats of superblocks. `WHOLE`: see [`super::super::superblocks::products`].
pub struct Superblocks<F, const WHOLE: bool>(PhantomData<F>);

impl<F: Format, const WHOLE: bool> Kind for Superblocks<F, WHOLE> {
    // On AMD's cores sums are scaled as a whole, and from some number of tokens on dozens do what lies in lanes. What has
    // only that way to scale has it on others too.
    const MOST: Most = if !WHOLE {
        Most {
            apart: FEW_ELSEWHERE,
            together: FEW_ELSEWHERE,
        }
    } else if F::GROUP > 0 {
        Most {
            apart: F::FEW_ON_AMD,
            together: SUPERBLOCKS_BY_DOZENS - 1,
        }
    } else {
        Most {
            apart: F::FEW_ON_AMD,
            together: FEW_ELSEWHERE,
        }
    };
    type Block = F::Block;
    type X<'x> = &'x [ActivationSuperblock];
    type Head = Head;
    const EMPTY: Head = Head::EMPTY;

    #[inline(always)]
    unsafe fn panel<R: Rows<Block = F::Block>, const T: usize>(
        rows: R,
        x: &[&[ActivationSuperblock]; T],
        head: &mut Head,
        wishes: Wishes,
    ) -> [__m512; T] {
        // SAFETY: as this function's; heads are aligned to registers.
        unsafe {
            let mut sums = [_mm512_setzero_ps(); T];
            for block in 0..rows.len() {
                let all = rows;
                let rows = rows.at(block);
                F::head::<WHOLE, _>(rows, head);
                let x = blocks_at(x, block);
                let dots =
                    dots::<F, _, WHOLE, T>(rows, head, x, |part| all.go_on(wishes, block, part));
                let scale = _mm512_load_ps(head.scale.as_ptr());
                let minimum = _mm512_load_ps(head.minimum.as_ptr());
                for t in 0..T {
                    let x_scale = _mm512_set1_ps(x[t].scale);
                    let dots = _mm512_cvtepi32_ps(dots[t]);
                    sums[t] = _mm512_fmadd_ps(_mm512_mul_ps(scale, x_scale), dots, sums[t]);
                    if F::MINIMA > 0 {
                        let correction = _mm512_cvtepi32_ps(correction::<F>(head, x[t]));
                        let minimum = _mm512_mul_ps(minimum, x_scale);
                        sums[t] = _mm512_fnmadd_ps(minimum, correction, sums[t]);
                    }
                }
            }
            sums
        }
    }
}

/// Tokens from which on shifting quants is less than shifting sums.
const SHIFT_QUANTS_FROM: usize = RUN;

/// The integer dots of one superblock of sixteen rows.
#[inline(always)]
unsafe fn dots<F: Format, R: Sixteen<Block = F::Block>, const WHOLE: bool, const T: usize>(
    rows: R,
    head: &Head,
    x: [&ActivationSuperblock; T],
    go_on: impl Fn(Part),
) -> [__m512i; T] {
    // Of a run, which is no more than a sub-block.
    let together = if WHOLE { RUN * WORD } else { F::GROUP };
    // SAFETY: words of x lie within its elements; the instructions are there by the contract of `panel`.
    unsafe {
        let mut totals = [_mm512_setzero_si512(); T];
        let shared = F::shared(rows);
        for column in 0..F::COLUMNS {
            // All wishes at once would hold up the loads behind them.
            go_on(Part {
                index: column,
                of: F::COLUMNS,
            });
            let quants = F::column(rows, &shared, column);
            for run in 0..F::RUNS {
                let mut quants = quants.as_ref()[run];
                let mut shift = F::shift(run);
                if T >= SHIFT_QUANTS_FROM {
                    for quants in &mut quants {
                        *quants = down(*quants, shift);
                    }
                    shift = 0;
                }
                let first = F::word(column, run);
                for group in 0..RUN * WORD / together {
                    let element = first * WORD + group * together;
                    let scales = &head.scales[element / F::SUB_BLOCK];
                    let scales = _mm512_load_si512(scales.as_ptr().cast());
                    for t in 0..T {
                        let mut sum = _mm512_setzero_si512();
                        if F::OFFSET > 0 {
                            sum = offset::<F>(x[t], element / 8, together / 8);
                        }
                        for word in 0..together / WORD {
                            let x = x[t].quants.as_ptr().add(element + word * WORD);
                            let x = _mm512_set1_epi32(x.cast::<i32>().read_unaligned());
                            let quants = quants[group * (together / WORD) + word];
                            sum = _mm512_dpbusd_epi32(sum, quants, x);
                        }
                        if shift > 0 {
                            sum = down(sum, shift);
                        }
                        totals[t] = if WHOLE && F::GROUP < together {
                            _mm512_add_epi32(totals[t], _mm512_mullo_epi32(sum, scales))
                        } else {
                            _mm512_dpwssd_epi32(totals[t], sum, scales)
                        };
                    }
                }
            }
        }
        if F::SHIFT > 0 {
            for total in &mut totals {
                *total = _mm512_sra_epi32(*total, _mm_cvtsi32_si128(F::SHIFT as i32));
            }
        }
        totals
    }
}
