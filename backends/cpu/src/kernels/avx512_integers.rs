//! Integer dots in AVX-512 with VNNI.

use super::avx2_integers::Dots;
use super::superblocks::Panel;
use super::transpose::sum_rows8;
use super::{ActivationBlock, ActivationSuperblock, SUMS};
use crate::blocks::{BLOCK, SUB_BLOCKS};
use std::arch::x86_64::*;

/// Registers of a superblock.
const PARTS: usize = 4;

/// Lane r = dot of quants\[r\] with x.
#[inline]
#[target_feature(enable = "avx2,avx512f,avx512vl,avx512vnni")]
pub fn small_dots(quants: &[[u8; BLOCK]; SUMS], x: &ActivationBlock) -> __m256i {
    // SAFETY: all arrays have 32 bytes.
    let load = |bytes: *const u8| unsafe { _mm256_loadu_si256(bytes.cast()) };
    let x = load(x.quants.as_ptr().cast());
    let mut products = [_mm256_setzero_si256(); SUMS];
    for (products, quants) in products.iter_mut().zip(quants) {
        *products = _mm256_dpbusd_epi32(*products, load(quants.as_ptr()), x);
    }
    sum_rows8(products)
}

/// The dots of a panel with T tokens. Sums of two products, within 16 bits, are what scales are multiplied with.
#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub fn superblock_dots<const MINIMUM: bool, const SIGNED: bool, const T: usize>(
    panel: &Panel,
    x: [&ActivationSuperblock; T],
) -> [Dots; T] {
    let mut products = [[_mm512_setzero_si512(); SUMS]; T];
    let mut corrections = [[_mm256_setzero_si256(); SUMS]; T];
    for row in 0..SUMS {
        let row_corrections = load_sixteen(&panel.corrections[row]);
        for token in 0..T {
            let sums = load_sixteen(&x[token].sums);
            let row_corrections = _mm256_madd_epi16(row_corrections, sums);
            if MINIMUM {
                corrections[token][row] = row_corrections;
            } else {
                products[token][row] = _mm512_zextsi256_si512(row_corrections);
            }
        }
        let scales = _mm512_zextsi256_si512(load_sixteen(&panel.scales[row]));
        for part in 0..PARTS {
            let scales = _mm512_permutexvar_epi16(scale_places(part), scales);
            // SAFETY: parts 0 to 3 of 64 bytes lie within 256.
            let quants = unsafe { load_part(panel.quants[row].as_ptr(), part) };
            for token in 0..T {
                // SAFETY: as above.
                let x = unsafe { load_part(x[token].quants.as_ptr().cast(), part) };
                let pairs = pairs::<SIGNED>(quants, x);
                products[token][row] = _mm512_dpwssd_epi32(products[token][row], pairs, scales);
            }
        }
    }
    let mut dots = [Dots {
        products: _mm256_setzero_si256(),
        corrections: _mm256_setzero_si256(),
    }; T];
    for token in 0..T {
        dots[token].products = sum_wide_rows8(products[token]);
        if MINIMUM {
            dots[token].corrections = sum_rows8(corrections[token]);
        }
    }
    dots
}

/// Sums of two products. Signed quants give the activations their sign, of which neither has -128.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn pairs<const SIGNED: bool>(quants: __m512i, x: __m512i) -> __m512i {
    if SIGNED {
        let negative = _mm512_movepi8_mask(quants);
        let x = _mm512_mask_sub_epi8(x, negative, _mm512_setzero_si512(), x);
        _mm512_maddubs_epi16(_mm512_abs_epi8(quants), x)
    } else {
        _mm512_maddubs_epi16(quants, x)
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn load_sixteen(integers: &[i16; SUB_BLOCKS]) -> __m256i {
    // SAFETY: the array has 32 bytes.
    unsafe { _mm256_loadu_si256(integers.as_ptr().cast()) }
}

/// Where the four scales of a part go: eight 16-bit lanes each.
#[inline]
#[target_feature(enable = "avx512f")]
fn scale_places(part: usize) -> __m512i {
    let pair = |scale: usize| 0x0001_0001 * (4 * part + scale) as i32;
    let (a, b, c, d) = (pair(0), pair(1), pair(2), pair(3));
    _mm512_set_epi32(d, d, d, d, c, c, c, c, b, b, b, b, a, a, a, a)
}

/// 64 bytes.
///
/// # Safety
/// There are 64 * (part + 1).
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn load_part(bytes: *const u8, part: usize) -> __m512i {
    // SAFETY: by contract.
    unsafe { _mm512_loadu_si512(bytes.add(64 * part).cast()) }
}

/// Lane r = sum of the lanes of rows\[r\].
#[inline]
#[target_feature(enable = "avx2,avx512f")]
pub fn sum_wide_rows8(rows: [__m512i; SUMS]) -> __m256i {
    let [a, b, c, d, e, f, g, h] = rows;
    // Two rows a register, eight lanes each; then four of four; then eight of two.
    let fours = [
        fold_quarters(fold_halves(a, b), fold_halves(c, d)),
        fold_quarters(fold_halves(e, f), fold_halves(g, h)),
    ];
    let low = _mm512_unpacklo_epi64(fours[0], fours[1]);
    let high = _mm512_unpackhi_epi64(fours[0], fours[1]);
    let twos = _mm512_add_epi32(low, high);
    // 128-bit lane q: two lanes of row q, two of row q + 4.
    let odd = _mm512_srli_epi64::<32>(twos);
    let ones = _mm512_add_epi32(twos, odd);
    let places = _mm512_set_epi32(0, 0, 0, 0, 0, 0, 0, 0, 14, 10, 6, 2, 12, 8, 4, 0);
    _mm512_castsi512_si256(_mm512_permutexvar_epi32(places, ones))
}

/// Sixteen lanes to eight, of two registers: the lower half belongs to `a`.
#[inline]
#[target_feature(enable = "avx512f")]
fn fold_halves(a: __m512i, b: __m512i) -> __m512i {
    let low = _mm512_shuffle_i64x2::<0b01_00_01_00>(a, b);
    let high = _mm512_shuffle_i64x2::<0b11_10_11_10>(a, b);
    _mm512_add_epi32(low, high)
}

/// Eight lanes to four, of two registers of two rows each: 128-bit lanes are rows a0, a1, b0, b1.
#[inline]
#[target_feature(enable = "avx512f")]
fn fold_quarters(a: __m512i, b: __m512i) -> __m512i {
    let low = _mm512_shuffle_i64x2::<0b10_00_10_00>(a, b);
    let high = _mm512_shuffle_i64x2::<0b11_01_11_01>(a, b);
    _mm512_add_epi32(low, high)
}
