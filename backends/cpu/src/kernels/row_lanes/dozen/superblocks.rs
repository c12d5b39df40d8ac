//! Superblocks of 256.

// The compiler takes twice as long over iterators here.
#![allow(clippy::needless_range_loop)]

use super::super::SUPERBLOCKS_BY_DOZENS;
use super::super::columns::down;
use super::super::few::{Part, Wishes};
use super::super::sixteen::{Rows, Together, TogetherRows};
use super::super::superblocks::{Format, Head, RUN, WORD};
use super::Kind;
use crate::blocks::{SUB_BLOCKS, SUPERBLOCK};
use crate::kernels::activations::ActivationSuperblock;
use std::arch::asm;
use std::arch::x86_64::*;
use std::marker::PhantomData;

/// Words of a superblock.
const WORDS: usize = SUPERBLOCK / WORD;

/// Formats of superblocks. Each sub-block's sum is multiplied with its scale as a whole.
pub struct Superblocks<F>(PhantomData<F>);

/// Where in an operand of T tokens its parts begin: quants token by token, then the tokens' scales, where the format has
/// an offset what that adds to each sub-block, and where it has minima the sums of two sub-blocks in halves.
struct Places<F, const T: usize>(PhantomData<F>);

impl<F: Format, const T: usize> Places<F, T> {
    const SCALES: usize = WORDS * T;
    const STARTS: usize = Self::SCALES + T;
    const SUMS: usize = Self::STARTS + starts::<F>() * T;
}

/// An operand's parts, as [`Places`] has them. Arrays of tokens, whose indices need no check.
#[derive(Clone, Copy)]
struct Operand<'x, const T: usize> {
    quants: &'x [[i32; WORDS]; T],
    /// Bits of floats.
    scales: &'x [i32; T],
    starts: &'x [[i32; T]],
    sums: &'x [[i32; T]],
}

impl<'x, const T: usize> Operand<'x, T> {
    #[inline(always)]
    fn of<F: Format>(words: &'x [i32]) -> Self {
        let (scales, starts) = (Places::<F, T>::SCALES, Places::<F, T>::STARTS);
        let sums = Places::<F, T>::SUMS;
        let whole = "an operand has its parts";
        Self {
            quants: words[..scales].as_chunks().0.try_into().expect(whole),
            scales: words[scales..starts].try_into().expect(whole),
            starts: words[starts..sums].as_chunks().0,
            sums: words[sums..].as_chunks().0,
        }
    }
}

/// Sub-blocks that begin with what an offset adds.
const fn starts<F: Format>() -> usize {
    if F::OFFSET > 0 { sub_blocks::<F>() } else { 0 }
}

const fn sub_blocks<F: Format>() -> usize {
    SUPERBLOCK / F::SUB_BLOCK
}

impl<F: Format> Kind for Superblocks<F> {
    const LEAST: usize = SUPERBLOCKS_BY_DOZENS;
    type Block = F::Block;
    type X<'x> = &'x [ActivationSuperblock];
    type Head = Head;
    const EMPTY: Head = Head::EMPTY;

    #[inline(always)]
    fn operand_words(tokens: usize) -> usize {
        (WORDS + 1 + starts::<F>() + F::MINIMA / 2) * tokens
    }

    #[inline(always)]
    fn fill<const T: usize>(x: &[&[ActivationSuperblock]; T], index: usize, to: &mut [i32]) {
        let to = &mut to[..Self::operand_words(T)];
        for t in 0..T {
            let x = &x[t][index];
            let quants: &[i32; WORDS] = bytemuck::cast_ref(&x.quants);
            to[t * WORDS..][..WORDS].copy_from_slice(quants);
            to[Places::<F, T>::SCALES + t] = x.scale.to_bits() as i32;
            let offsets = x.offsets.chunks_exact(F::SUB_BLOCK / 8);
            for (sub_block, offsets) in offsets.take(starts::<F>()).enumerate() {
                let of_32 = offsets.iter().sum::<i32>();
                to[Places::<F, T>::STARTS + sub_block * T + t] = of_32 * i32::from(F::OFFSET) / 32;
            }
            let sums: &[i16] = if F::MINIMA == SUB_BLOCKS {
                &x.sums
            } else {
                &x.sums_of_32
            };
            let pairs = sums.as_chunks::<2>().0.iter().take(F::MINIMA / 2);
            for (pair, sums) in pairs.enumerate() {
                to[Places::<F, T>::SUMS + pair * T + t] = bytemuck::cast(*sums);
            }
        }
    }

    #[inline(always)]
    unsafe fn panel<const T: usize>(
        rows: TogetherRows<'_, F::Block>,
        operands: &[i32],
        head: &mut Head,
        wishes: Wishes,
    ) -> [__m512; T] {
        let words = Self::operand_words(T);
        // SAFETY: as this function's; heads are aligned to registers.
        unsafe {
            let mut sums = [_mm512_setzero_ps(); T];
            for (block, x) in operands.chunks_exact(words).enumerate() {
                let x = Operand::of::<F>(x);
                F::head::<true, _>(rows.at(block), head);
                let dots = dots::<F, T>(rows.at(block), head, x, |part| {
                    rows.go_on(wishes, block, part);
                });
                let corrections = corrections::<F, T>(head, x);
                let scale = _mm512_load_ps(head.scale.as_ptr());
                let minimum = _mm512_load_ps(head.minimum.as_ptr());
                for t in 0..T {
                    let x_scale = f32::from_bits(x.scales[t] as u32);
                    let x_scale = _mm512_set1_ps(x_scale);
                    let dots = _mm512_cvtepi32_ps(dots[t]);
                    sums[t] = _mm512_fmadd_ps(_mm512_mul_ps(scale, x_scale), dots, sums[t]);
                    if F::MINIMA > 0 {
                        let correction = _mm512_cvtepi32_ps(corrections[t]);
                        let minimum = _mm512_mul_ps(minimum, x_scale);
                        sums[t] = _mm512_fnmadd_ps(minimum, correction, sums[t]);
                    }
                }
            }
            sums
        }
    }
}

/// The integer sums of minima times activations.
#[inline(always)]
unsafe fn corrections<F: Format, const T: usize>(head: &Head, x: Operand<'_, T>) -> [__m512i; T] {
    // SAFETY: heads are aligned to registers; the instructions are there by the contract of `panel`.
    unsafe {
        let mut totals = [_mm512_setzero_si512(); T];
        for (pair, sums) in x.sums.iter().enumerate() {
            let minima = _mm512_load_si512(head.minima[pair].as_ptr().cast());
            for t in 0..T {
                let sums = _mm512_set1_epi32(sums[t]);
                totals[t] = _mm512_dpwssd_epi32(totals[t], minima, sums);
            }
        }
        totals
    }
}

/// The integer dots of one superblock of sixteen rows.
#[inline(always)]
unsafe fn dots<F: Format, const T: usize>(
    rows: Together<'_, F::Block>,
    head: &Head,
    mut x: Operand<'_, T>,
    go_on: impl Fn(Part),
) -> [__m512i; T] {
    // SAFETY: the instructions are there by the contract of `panel`.
    unsafe {
        let mut totals = [_mm512_setzero_si512(); T];
        // In a loop the compiler would look up at run time where words lie, and pass them through memory.
        macro_rules! sub_blocks {
            ($($index:literal)*) => {
                $(if const { $index < sub_blocks::<F>() } {
                    go_on(Part { index: $index, of: sub_blocks::<F>() });
                    sub_block::<F, T>($index, rows, head, x, &mut totals);
                    x.quants = in_order(x.quants, &mut totals);
                })*
            };
        }
        sub_blocks!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
        if F::SHIFT > 0 {
            for total in &mut totals {
                *total = _mm512_sra_epi32(*total, _mm_cvtsi32_si128(F::SHIFT as i32));
            }
        }
        totals
    }
}

/// Adds the dots of one sub-block, times its scale.
#[inline(always)]
unsafe fn sub_block<F: Format, const T: usize>(
    index: usize,
    rows: Together<'_, F::Block>,
    head: &Head,
    x: Operand<'_, T>,
    totals: &mut [__m512i; T],
) {
    let runs = F::SUB_BLOCK / WORD / RUN;
    // SAFETY: heads are aligned to registers; the instructions are there by the contract of `panel`.
    unsafe {
        let mut sums = [_mm512_setzero_si512(); T];
        if F::OFFSET > 0 {
            for t in 0..T {
                sums[t] = _mm512_set1_epi32(x.starts[index][t]);
            }
        }
        add_run::<F, T>(index * runs, rows, x.quants, &mut sums);
        if runs > 1 {
            add_run::<F, T>(index * runs + 1, rows, x.quants, &mut sums);
        }
        let scales = _mm512_load_si512(head.scales[index].as_ptr().cast());
        for t in 0..T {
            totals[t] = _mm512_add_epi32(totals[t], _mm512_mullo_epi32(sums[t], scales));
        }
    }
}

#[inline(always)]
unsafe fn add_run<F: Format, const T: usize>(
    index: usize,
    rows: Together<'_, F::Block>,
    x: &[[i32; WORDS]; T],
    sums: &mut [__m512i; T],
) {
    let (column, run) = F::place(index);
    // SAFETY: the instructions are there by the contract of `panel`.
    unsafe {
        let quants = F::column(rows, &F::shared(rows), column).as_ref()[run];
        for (word, quants) in quants.into_iter().enumerate() {
            let quants = down(quants, F::shift(run));
            for t in 0..T {
                let x = _mm512_set1_epi32(x[t][index * RUN + word]);
                sums[t] = _mm512_dpbusd_epi32(sums[t], quants, x);
            }
        }
    }
}

/// What is loaded from the `x` that comes back is loaded after these totals are known. Else the compiler, which may add
/// in any order, adds at the end, and what it keeps until then goes through memory.
#[inline]
#[expect(clippy::pointers_in_nomem_asm_block, reason = "nothing is read")]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn in_order<'x, const T: usize>(
    x: &'x [[i32; WORDS]; T],
    totals: &mut [__m512i; T],
) -> &'x [[i32; WORDS]; T] {
    let mut start: *const [[i32; WORDS]; T] = x;
    // SAFETY: no instructions; `start` stays as it was.
    unsafe {
        for t in 0..T {
            asm!(
                "/* {0} */",
                inout(zmm_reg) totals[t],
                options(nomem, nostack, preserves_flags)
            );
        }
        asm!("/* {0} */", inout(reg) start, options(nomem, nostack, preserves_flags));
        &*start
    }
}
