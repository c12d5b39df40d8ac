//! Blocks of 32.

use super::super::blocks::{Format, WORD};
use super::super::sixteen::Rows;
use super::{Kind, Most, Part, TOKENS_MAX, Wishes};
use crate::kernels::activations::BlockRow;
use std::arch::x86_64::*;
use std::marker::PhantomData;

/// Formats of blocks of 32.
pub struct Blocks<F>(PhantomData<F>);

impl<F: Format> Kind for Blocks<F> {
    const MOST: Most = Most {
        apart: TOKENS_MAX,
        together: TOKENS_MAX,
    };
    type Block = F::Block;
    type X<'x> = BlockRow<'x>;
    type Head = ();
    const EMPTY: () = ();

    #[inline(always)]
    unsafe fn panel<R: Rows<Block = F::Block>, const T: usize>(
        rows: R,
        x: &[BlockRow<'_>; T],
        (): &mut (),
        wishes: Wishes,
    ) -> [__m512; T] {
        // SAFETY: as this function's; words of x lie within its 32 elements.
        unsafe {
            let mut sums = [_mm512_setzero_ps(); T];
            for index in 0..rows.len() {
                rows.go_on(wishes, index, Part::ALL);
                let rows = rows.at(index);
                let quants = F::quants(rows);
                let scales = F::scales(rows);
                let minima = F::minima(rows);
                for t in 0..T {
                    let x = x[t].block(index).block;
                    let offset = F::OFFSET_LOG2.map_or(0, |shift| -(x.sum << shift));
                    // Two chains of products are half as long to wait for.
                    let mut dots = [_mm512_set1_epi32(offset), _mm512_setzero_si512()];
                    for (word, quants) in quants.into_iter().enumerate() {
                        let x = x.quants.as_ptr().add(word * WORD);
                        let x = _mm512_set1_epi32(x.cast::<i32>().read_unaligned());
                        let dots = &mut dots[word % 2];
                        *dots = _mm512_dpbusd_epi32(*dots, quants, x);
                    }
                    let dots = _mm512_add_epi32(dots[0], dots[1]);
                    let x_scale = _mm512_set1_ps(x.scale);
                    let dots = _mm512_cvtepi32_ps(dots);
                    sums[t] = _mm512_fmadd_ps(_mm512_mul_ps(scales, x_scale), dots, sums[t]);
                    if F::MINIMUM {
                        let x_sum = _mm512_set1_ps(x.sum as f32);
                        sums[t] = _mm512_fmadd_ps(_mm512_mul_ps(minima, x_scale), x_sum, sums[t]);
                    }
                }
            }
            sums
        }
    }
}
