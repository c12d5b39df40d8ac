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

use super::arranged::{ArrangedQuad, Order, PARTS, QUAD};
use super::avx512::Avx512;
use super::processor::is_amd;
use super::product::Product;
use super::rows::blocks_at;
use crate::blocks::SUPERBLOCK;
use fold::{Quad, Units};
use formats::AlongRows;
use odmoe_formats::{BlockFormat as F, WeightLayout};
use std::arch::x86_64::*;
use std::cell::Cell;

/// Rows that are brought into lanes.
const ROWS: usize = 16;
/// The most tokens that any format takes.
const TOKENS_MAX: usize = 4;
/// How far ahead lines are asked for, into the second cache. The machine's own prefetcher follows the stream as well;
/// from 8 KiB on the two do not hinder each other.
const AHEAD_BYTES: usize = 8192;

/// In which order products with weights of that format want their activations, where they are done here. On Intel's cores
/// rows in lanes are as fast (decision 9).
pub fn order(format: F) -> Option<Order> {
    let order = match format {
        F::Q2_K => formats::Q2K::ORDER,
        F::Q3_K => formats::Q3K::ORDER,
        F::Q4_K => formats::Q4K::ORDER,
        F::Q5_K => formats::Q5K::ORDER,
        F::Q6_K => formats::Q6K::ORDER,
        _ => return None,
    };
    (is_amd() && can_permute_bytes()).then_some(order)
}

/// Whether the machine has the one thing that [`Avx512`] does not prove.
fn can_permute_bytes() -> bool {
    is_x86_feature_detected!("avx512vbmi")
}

/// Runs the product, where it is done here and its activations were rearranged for it; else says so.
pub fn product(proof: Avx512, product: &Product<'_>) -> bool {
    let row_major = product.weight.layout == WeightLayout::RowMajor;
    if product.tokens.len() > TOKENS_MAX || !row_major || !can_permute_bytes() {
        return false;
    }
    match product.weight.format {
        F::Q2_K => where_it_pays::<formats::Q2K>(proof, product),
        F::Q3_K => where_it_pays::<formats::Q3K>(proof, product),
        F::Q4_K => where_it_pays::<formats::Q4K>(proof, product),
        F::Q5_K => where_it_pays::<formats::Q5K>(proof, product),
        F::Q6_K => where_it_pays::<formats::Q6K>(proof, product),
        _ => None,
    }
    .is_some()
}

/// Runs the product, unless rows in lanes are faster.
fn where_it_pays<F: AlongRows>(proof: Avx512, product: &Product<'_>) -> Option<()> {
    let tokens = product.tokens.len();
    if tokens > F::TOKENS_MAX || (tokens > 1 && sums_bytes::<F>(product) > SUMS_BYTES_MAX) {
        return None;
    }
    few_tokens::<F>(proof, product)
}

/// Runs the product, if its activations were rearranged for it.
fn few_tokens<F: AlongRows>(_proof: Avx512, product: &Product<'_>) -> Option<()> {
    let rows = product.x.superblocks.expect("activations in superblocks");
    let x = |token: u32| rows.arranged(token as usize, F::ORDER);
    // SAFETY: the machine has AVX-512 as the proof says, and bytes can be permuted as the caller saw.
    unsafe {
        match *product.tokens {
            [a] => of_tokens::<F, 1>(product, [x(a)?]),
            [a, b] => of_tokens::<F, 2>(product, [x(a)?, x(b)?]),
            [a, b, c] => of_tokens::<F, 3>(product, [x(a)?, x(b)?, x(c)?]),
            [a, b, c, d] => of_tokens::<F, 4>(product, [x(a)?, x(b)?, x(c)?, x(d)?]),
            _ => unreachable!("{} tokens are none or not few", product.tokens.len()),
        }
    }
    Some(())
}

/// Bytes of sums with which several tokens stay in the innermost cache, beside activations and weights.
const SUMS_BYTES_MAX: usize = 24 << 10;

/// Bytes of sums that sixteen rows leave.
fn sums_bytes<F: AlongRows>(product: &Product<'_>) -> usize {
    let quads = product.weight.columns.div_ceil(QUAD * SUPERBLOCK) * product.tokens.len();
    let unused = if F::MINIMA { 0 } else { size_of::<Quad>() / 2 };
    quads * (size_of::<Quad>() - unused)
}

/// Sums of sixteen rows.
#[derive(Default)]
struct Sums {
    /// T for every four superblocks of a row.
    quads: Vec<Quad>,
    units: Vec<Units>,
}

thread_local! {
    /// Kept between products: 2 KiB for every 1024 columns and token.
    static SUMS: Cell<Sums> = const { Cell::new(Sums { quads: Vec::new(), units: Vec::new() }) };
}

/// Every product of weight rows with T rows of x.
///
/// # Safety
/// The machine has AVX-512 F, BW, DQ, VL, VNNI and VBMI.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl")]
#[target_feature(enable = "avx512vnni,avx512vbmi")]
unsafe fn of_tokens<F: AlongRows, const T: usize>(product: &Product<'_>, x: [&[ArrangedQuad]; T]) {
    let mut sums = SUMS.take();
    let count = x[0].len();
    if sums.units.len() < count || sums.quads.len() < count * T {
        sums.units.resize(count.max(sums.units.len()), Units::EMPTY);
        sums.quads
            .resize((count * T).max(sums.quads.len()), Quad::EMPTY);
    }
    let units = &mut sums.units[..count];
    let quads = sums.quads[..count * T].as_chunks_mut::<T>().0;
    let superblocks = product.weight.columns / SUPERBLOCK;
    let rows = product.rows.clone();
    for first in rows.clone().step_by(ROWS) {
        let height = ROWS.min(rows.end - first);
        for row in 0..height {
            let weights = product.weight.blocks::<F::Block>(first + row);
            // SAFETY: as this function's.
            unsafe { multiply::<F, T>(weights, &x, row, quads, units) };
        }
        for (t, x) in x.iter().enumerate() {
            let mut out = [0.0; ROWS];
            // SAFETY: as this function's.
            unsafe {
                let mut sum = _mm512_setzero_ps();
                let sums = quads.iter().map(|quads| &quads[t]).zip(&*units);
                for (index, ((quad, units), x)) in sums.zip(*x).enumerate() {
                    let count = QUAD.min(superblocks - index * QUAD);
                    sum = quad.add::<F>(units, x, count, sum);
                }
                _mm512_storeu_ps(out.as_mut_ptr(), sum);
            }
            product.out.put(t, first, &out[..height]);
        }
    }
    SUMS.set(sums);
}

/// Leaves the sums of one row with T tokens.
#[inline(always)]
unsafe fn multiply<F: AlongRows, const T: usize>(
    weights: &[F::Block],
    x: &[&[ArrangedQuad]; T],
    row: usize,
    quads: &mut [[Quad; T]],
    units: &mut [Units],
) {
    let to = quads.iter_mut().zip(units);
    for (index, ((quads, units), weights)) in to.zip(weights.chunks(QUAD)).enumerate() {
        let x = blocks_at(x, index);
        // SAFETY: as the caller's.
        unsafe {
            // Four with a number that the compiler knows, so that they stay in registers.
            match weights {
                [a, b, c, d] => four::<F, T>([a, b, c, d], QUAD, x, row, quads, units),
                [rest @ .., last] => {
                    let block = |place: usize| rest.get(place).unwrap_or(last);
                    let weights = [block(0), block(1), block(2), last];
                    four::<F, T>(weights, rest.len() + 1, x, row, quads, units);
                }
                [] => unreachable!("chunks are never empty"),
            }
        }
    }
}

/// The same of the first `count` of four superblocks; others may be anything.
#[inline(always)]
unsafe fn four<F: AlongRows, const T: usize>(
    weights: [&F::Block; QUAD],
    count: usize,
    x: [&ArrangedQuad; T],
    row: usize,
    quads: &mut [Quad; T],
    units: &mut Units,
) {
    // SAFETY: as the caller's.
    unsafe {
        let scales = F::scales(weights);
        if F::MINIMA {
            for (quad, x) in quads.iter_mut().zip(x) {
                quad.corrections[row].put(F::corrections(&scales, x));
            }
        }
        let mut products = [[_mm512_setzero_si512(); QUAD]; T];
        for place in 0..count {
            let block = weights[place];
            ask_ahead(block);
            units.0[place][row] = F::units(block);
            let quants = F::parts(block);
            let scales = F::spread(&scales, place);
            for (products, x) in products.iter_mut().zip(x) {
                let mut sum = _mm512_setzero_si512();
                if let Some(offset) = F::OFFSET_LOG2 {
                    sum = minus_offset(scales.of_sub_blocks, x, place, offset);
                }
                products[place] = dot(&quants, scales.of_pairs, x, place, sum);
            }
        }
        for (quad, products) in quads.iter_mut().zip(products) {
            quad.products[row].put(fold::quarters_of_four(products));
        }
    }
}

/// Sums of lanes of one superblock's products with one token, on top of `sum`. Sums of four products are within 16 bits.
#[inline(always)]
unsafe fn dot(
    quants: &[__m512i; PARTS],
    scales: [__m512i; PARTS / 2],
    x: &ArrangedQuad,
    place: usize,
    mut sum: __m512i,
) -> __m512i {
    // SAFETY: as the caller's; arrays are of the length of a register and aligned to it.
    unsafe {
        let of_part = |part: usize| {
            let x = _mm512_load_si512(x.quants[place][part].as_ptr().cast());
            _mm512_dpbusd_epi32(_mm512_setzero_si512(), quants[part], x)
        };
        for (pair, scales) in scales.into_iter().enumerate() {
            let words = _mm512_packs_epi32(of_part(2 * pair), of_part(2 * pair + 1));
            sum = _mm512_dpwssd_epi32(sum, words, scales);
        }
        sum
    }
}

/// What 2^`offset` in every quant adds to the products, with the other sign.
#[inline(always)]
unsafe fn minus_offset(scales: __m256i, x: &ArrangedQuad, place: usize, offset: u32) -> __m512i {
    // SAFETY: as above.
    unsafe {
        let sums = _mm256_load_si256(x.sums[place].as_ptr().cast());
        let sums = _mm256_madd_epi16(scales, sums);
        let sums = _mm256_sll_epi32(sums, _mm_cvtsi32_si128(offset as i32));
        _mm512_zextsi256_si512(_mm256_sub_epi32(_mm256_setzero_si256(), sums))
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
