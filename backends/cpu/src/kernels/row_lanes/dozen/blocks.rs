//! Blocks of 32.

// The compiler takes twice as long over iterators here.
#![allow(clippy::needless_range_loop)]

use super::super::blocks::{Format, WORD};
use super::super::few::{Part, Wishes};
use super::super::sixteen::{Rows, TogetherRows};
use super::{Kind, LEAST_OF_SEVERAL};
use crate::blocks::BLOCK;
use crate::kernels::activations::BlockRow;
use std::arch::x86_64::*;
use std::marker::PhantomData;

/// Words of a block.
const WORDS: usize = BLOCK / WORD;

/// Formats of blocks of 32.
pub struct Blocks<F>(PhantomData<F>);

/// Where in an operand of T tokens its parts begin: quants token by token, then what the offset of the weights adds to a
/// token's sum, the tokens' scales, and where the format has minima, their sums as floats.
struct Places<const T: usize>;

impl<const T: usize> Places<T> {
    const STARTS: usize = WORDS * T;
    const SCALES: usize = Self::STARTS + T;
    const SUMS: usize = Self::SCALES + T;
}

impl<F: Format> Kind for Blocks<F> {
    const LEAST: usize = LEAST_OF_SEVERAL;
    type Block = F::Block;
    type X<'x> = BlockRow<'x>;
    type Head = ();
    const EMPTY: () = ();

    #[inline(always)]
    fn operand_words(tokens: usize) -> usize {
        let minima = if F::MINIMUM { 1 } else { 0 };
        (WORDS + 2 + minima) * tokens
    }

    #[inline(always)]
    fn fill<const T: usize>(x: &[BlockRow<'_>; T], index: usize, to: &mut [i32]) {
        let to = &mut to[..Self::operand_words(T)];
        for t in 0..T {
            let x = x[t].block(index).block;
            let quants: [i32; WORDS] = bytemuck::cast(x.quants);
            to[t * WORDS..][..WORDS].copy_from_slice(&quants);
            to[Places::<T>::STARTS + t] = F::OFFSET_LOG2.map_or(0, |shift| -(x.sum << shift));
            to[Places::<T>::SCALES + t] = x.scale.to_bits() as i32;
            if F::MINIMUM {
                to[Places::<T>::SUMS + t] = (x.sum as f32).to_bits() as i32;
            }
        }
    }

    #[inline(always)]
    unsafe fn panel<const T: usize>(
        rows: TogetherRows<'_, F::Block>,
        operands: &[i32],
        (): &mut (),
        wishes: Wishes,
    ) -> [__m512; T] {
        let words = Self::operand_words(T);
        // SAFETY: as this function's.
        unsafe {
            let mut sums = [_mm512_setzero_ps(); T];
            for (index, x) in operands.chunks_exact(words).enumerate() {
                rows.go_on(wishes, index, Part::ALL);
                let rows = rows.at(index);
                let float = |word: usize| _mm512_set1_ps(f32::from_bits(x[word] as u32));
                let mut dots = [_mm512_setzero_si512(); T];
                for t in 0..T {
                    dots[t] = _mm512_set1_epi32(x[Places::<T>::STARTS + t]);
                }
                for (word, quants) in F::quants(rows).into_iter().enumerate() {
                    for t in 0..T {
                        let x = _mm512_set1_epi32(x[t * WORDS + word]);
                        dots[t] = _mm512_dpbusd_epi32(dots[t], quants, x);
                    }
                }
                let (scales, minima) = (F::scales(rows), F::minima(rows));
                for t in 0..T {
                    let x_scale = float(Places::<T>::SCALES + t);
                    let dots = _mm512_cvtepi32_ps(dots[t]);
                    sums[t] = _mm512_fmadd_ps(_mm512_mul_ps(scales, x_scale), dots, sums[t]);
                    if F::MINIMUM {
                        let x_sum = float(Places::<T>::SUMS + t);
                        sums[t] = _mm512_fmadd_ps(_mm512_mul_ps(minima, x_scale), x_sum, sums[t]);
                    }
                }
            }
            sums
        }
    }
}
