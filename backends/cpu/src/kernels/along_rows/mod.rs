//! Products of superblocks with one to four tokens in AVX-512, each superblock multiplied along its row.
//!
//! Sixteen rows that lie one after another are read once, in ascending address. Each superblock leaves sums of lanes,
//! four superblocks of a row folded into one register; then those of sixteen rows are brought into lanes and added up
//! in the order of decision 0008. Beside rows in lanes (`row_lanes::few`) it takes three loads a superblock instead of
//! forty, but a fold for every token.

mod fold;
mod formats;
#[cfg(test)]
mod tests;

use super::avx512::Avx512;
use super::processor::is_amd;
use super::product::Product;
use crate::blocks::SUB_BLOCKS;
use fold::Quad;
use formats::{AlongRows, Arranged};
use odmoe_formats::BlockFormat as F;
use std::arch::x86_64::*;

/// Rows that are brought into lanes.
const ROWS: usize = 16;
/// Superblocks of a row that are folded together.
const QUAD: usize = 4;
/// Registers of a superblock's quants.
const PARTS: usize = 4;
/// How far ahead lines are asked for, into the second cache. The machine's own prefetcher follows the stream as well;
/// from 8 KiB on the two do not hinder each other.
const AHEAD_BYTES: usize = 8192;

/// Runs the product, where it is done here; else says so. On Intel's cores rows in lanes are as fast (decision 9).
pub fn product(proof: Avx512, product: &Product<'_>) -> bool {
    is_amd() && run(proof, product)
}

fn run(proof: Avx512, product: &Product<'_>) -> bool {
    match product.weight.format {
        F::Q2_K => few_tokens::<formats::Q2K>(proof, product),
        F::Q3_K => few_tokens::<formats::Q3K>(proof, product),
        F::Q4_K => few_tokens::<formats::Q4K>(proof, product),
        F::Q5_K => few_tokens::<formats::Q5K>(proof, product),
        F::Q6_K => few_tokens::<formats::Q6K>(proof, product),
        _ => false,
    }
}

/// Runs the product, unless there are too many tokens.
fn few_tokens<F: AlongRows>(_proof: Avx512, product: &Product<'_>) -> bool {
    if product.tokens.len() > F::TOKENS_MAX {
        return false;
    }
    let rows = product.x.superblocks.expect("activations in superblocks");
    let x = |token: u32| -> Vec<Arranged> {
        let row = rows.row(token as usize).iter();
        row.map(Arranged::of::<F>).collect()
    };
    // SAFETY: the machine has the instructions, as the proof says.
    unsafe {
        match *product.tokens {
            [a] => of_tokens::<F, 1>(product, [&x(a)]),
            [a, b] => of_tokens::<F, 2>(product, [&x(a), &x(b)]),
            [a, b, c] => of_tokens::<F, 3>(product, [&x(a), &x(b), &x(c)]),
            [a, b, c, d] => of_tokens::<F, 4>(product, [&x(a), &x(b), &x(c), &x(d)]),
            _ => unreachable!("{} tokens are none or not few", product.tokens.len()),
        }
    }
    true
}

/// Every product of weight rows with T rows of x.
///
/// # Safety
/// The machine has AVX-512 F, BW, DQ, VL and VNNI.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn of_tokens<F: AlongRows, const T: usize>(product: &Product<'_>, x: [&[Arranged]; T]) {
    let blocks = x[0].len();
    let mut quads = vec![Quad::<T>::EMPTY; blocks.div_ceil(QUAD)];
    let rows = product.rows.clone();
    for first in rows.clone().step_by(ROWS) {
        let height = ROWS.min(rows.end - first);
        for row in 0..height {
            let weights = product.weight.blocks::<F::Block>(first + row);
            // SAFETY: as this function's.
            unsafe { multiply::<F, T>(weights, &x, row, &mut quads) };
        }
        let mut sums = [[0.0; ROWS]; T];
        for t in 0..T {
            // SAFETY: as this function's.
            unsafe {
                let mut sum = _mm512_setzero_ps();
                for (quad, x) in quads.iter().zip(x[t].chunks(QUAD)) {
                    sum = quad.add::<F>(t, x, sum);
                }
                _mm512_storeu_ps(sums[t].as_mut_ptr(), sum);
            }
            product.out.put(t, first, &sums[t][..height]);
        }
    }
}

/// Leaves the sums of one row with T tokens.
#[inline(always)]
unsafe fn multiply<F: AlongRows, const T: usize>(
    weights: &[F::Block],
    x: &[&[Arranged]; T],
    row: usize,
    quads: &mut [Quad<T>],
) {
    // SAFETY: as the caller's; arrays are of the length of a register and aligned to it.
    unsafe {
        for (index, quad) in quads.iter_mut().enumerate() {
            let first = index * QUAD;
            let weights = &weights[first..weights.len().min(first + QUAD)];
            let mut products = [[_mm512_setzero_si512(); QUAD]; T];
            let mut corrections = [[_mm_setzero_si128(); QUAD]; T];
            for (place, block) in weights.iter().enumerate() {
                ask_ahead(block);
                quad.units[place][row] = F::units(block);
                let (scales, minima) = F::scales(block);
                let quants = F::parts(block);
                for t in 0..T {
                    let x = &x[t][first + place];
                    products[t][place] = dot::<F>(&quants, scales, x);
                    if F::MINIMA > 0 {
                        corrections[t][place] = correction::<F>(minima, x);
                    }
                }
            }
            for t in 0..T {
                let sums = fold::quarters_of_four(products[t]);
                _mm512_store_si512(quad.products[t][row].as_mut_ptr().cast(), sums);
                if F::MINIMA > 0 {
                    let sums = fold::four(corrections[t]);
                    _mm_store_si128(quad.corrections[t][row].as_mut_ptr().cast(), sums);
                }
            }
        }
    }
}

/// The sums of lanes of one superblock with one token.
#[inline(always)]
unsafe fn dot<F: AlongRows>(quants: &[__m512i; PARTS], scales: __m512i, x: &Arranged) -> __m512i {
    // SAFETY: as above.
    unsafe {
        let mut sum = _mm512_setzero_si512();
        if let Some(offset) = F::OFFSET_LOG2 {
            let sums = _mm256_load_si256(x.minus_sums.as_ptr().cast());
            let sums = _mm256_madd_epi16(_mm512_castsi512_si256(scales), sums);
            let sums = _mm256_sll_epi32(sums, _mm_cvtsi32_si128(offset as i32));
            sum = _mm512_zextsi256_si512(sums);
        }
        for (part, (&quants, x)) in quants.iter().zip(&x.quants).enumerate() {
            let x = _mm512_load_si512(x.as_ptr().cast());
            let pairs = _mm512_maddubs_epi16(quants, x);
            sum = _mm512_dpwssd_epi32(sum, pairs, F::spread(scales, part));
        }
        sum
    }
}

/// The sums of lanes of one superblock's minima with one token.
#[inline(always)]
unsafe fn correction<F: AlongRows>(minima: __m256i, x: &Arranged) -> __m128i {
    // SAFETY: as above.
    unsafe {
        if F::MINIMA == SUB_BLOCKS {
            let sums = _mm256_load_si256(x.sums.as_ptr().cast());
            let all = _mm256_madd_epi16(minima, sums);
            _mm_add_epi32(
                _mm256_castsi256_si128(all),
                _mm256_extracti128_si256::<1>(all),
            )
        } else {
            let sums = _mm_load_si128(x.sums_of_32.as_ptr().cast());
            _mm_madd_epi16(_mm256_castsi256_si128(minima), sums)
        }
    }
}

/// Wishes for as much as this block is, so far ahead of it.
#[inline(always)]
fn ask_ahead<B>(block: &B) {
    const LINE: usize = 64;
    let start: *const i8 = std::ptr::from_ref(block).cast();
    for offset in (0..size_of::<B>()).step_by(LINE) {
        // SAFETY: a wish may be for any address; the instruction is older than what the callers need.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(start.wrapping_add(AHEAD_BYTES + offset)) };
    }
}
