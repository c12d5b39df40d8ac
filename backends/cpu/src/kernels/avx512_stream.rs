//! Superblocks from memory to integer dots in AVX-512 registers.

use super::ActivationSuperblock;
use super::avx512_integers::sum_wide_rows8;
use super::stream::{DOTS, Minima, StreamFormat};
use std::arch::x86_64::*;

/// Registers of a superblock.
const PARTS: usize = 4;

/// Number b * T + t: the exact products of block b with x\[b\]\[t\], corrections included where there are no minima.
/// Sums of two products, within 16 bits, are what scales are multiplied with.
#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub fn dots<F: StreamFormat, const T: usize>(
    blocks: &[F::Block],
    x: &[[&ActivationSuperblock; T]],
    minima: &mut [Minima],
) -> __m256i {
    let mut sums = [_mm512_setzero_si512(); DOTS];
    for index in 0..DOTS / T {
        let (block, x) = (&blocks[index], &x[index]);
        // SAFETY: this function's instructions are those of `Avx512`.
        let [scales, corrections] = unsafe { F::scales(block) };
        if F::MINIMUM {
            // SAFETY: sixteen 16-bit integers are 32 bytes.
            unsafe { _mm256_storeu_si256(minima[index].as_mut_ptr().cast(), corrections) };
        } else {
            for t in 0..T {
                // SAFETY: as above.
                let x = unsafe { _mm256_loadu_si256(x[t].sums.as_ptr().cast()) };
                sums[index * T + t] = _mm512_zextsi256_si512(_mm256_madd_epi16(corrections, x));
            }
        }
        let scales = _mm512_castsi256_si512(scales);
        for part in 0..PARTS {
            let scales = _mm512_permutexvar_epi16(places::<F>(part), scales);
            // SAFETY: as above.
            let quants = unsafe { F::quants_avx512(block, part) };
            for t in 0..T {
                // SAFETY: parts 0 to 3 of 64 bytes lie within 256.
                let x = unsafe { _mm512_loadu_si512(x[t].quants.as_ptr().add(64 * part).cast()) };
                let pairs = _mm512_maddubs_epi16(quants, x);
                sums[index * T + t] = _mm512_dpwssd_epi32(sums[index * T + t], pairs, scales);
            }
        }
    }
    sum_wide_rows8(sums)
}

/// Where the scales of a part go: eight or sixteen 16-bit lanes each.
#[inline]
#[target_feature(enable = "avx512f")]
fn places<F: StreamFormat>(part: usize) -> __m512i {
    let pair = |scale: usize| 0x0001_0001 * scale as i32;
    let quarter = |q: usize| {
        pair(if F::WIDE_SUB_BLOCKS {
            8 + 2 * part + q / 2
        } else {
            4 * part + q
        })
    };
    let (a, b, c, d) = (quarter(0), quarter(1), quarter(2), quarter(3));
    _mm512_set_epi32(d, d, d, d, c, c, c, c, b, b, b, b, a, a, a, a)
}

/// Bytes 32 * part to 32 * part + 31, in both halves.
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
pub fn twice(bytes: &[u8], part: usize) -> __m512i {
    let bytes = &bytes.as_chunks::<32>().0[part];
    // SAFETY: the array has 32 bytes.
    _mm512_broadcast_i64x4(unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) })
}

/// Bytes 64 * part to 64 * part + 63.
#[inline]
#[target_feature(enable = "avx512f")]
pub fn load(bytes: &[u8], part: usize) -> __m512i {
    let bytes = &bytes.as_chunks::<64>().0[part];
    // SAFETY: the array has 64 bytes.
    unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) }
}

/// 16-bit lanes shifted to the left by `low` in the lower half and by `high` in the upper, to the right where negative.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
pub fn shift_halves(x: __m512i, low: i16, high: i16) -> __m512i {
    let counts = |low: i16, high: i16| {
        let (low, high) = (_mm256_set1_epi16(low), _mm256_set1_epi16(high));
        _mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), high)
    };
    if low == 0 && high == 0 {
        x
    } else if low >= 0 && high >= 0 {
        _mm512_sllv_epi16(x, counts(low, high))
    } else {
        _mm512_srlv_epi16(x, counts(-low, -high))
    }
}

/// `x & mask`, in each byte.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
pub fn keep(x: __m512i, mask: i8) -> __m512i {
    _mm512_and_si512(x, _mm512_set1_epi8(mask))
}

/// `x | more & mask`, in each byte.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
pub fn with(x: __m512i, more: __m512i, mask: i8) -> __m512i {
    // Truth table of a | b & c.
    _mm512_ternarylogic_epi32::<0xf8>(x, more, _mm512_set1_epi8(mask))
}

/// Four bits an element, 64 elements in 32 bytes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq")]
pub fn halves(packed: &[u8; 128], part: usize) -> __m512i {
    keep(shift_halves(twice(packed, part), 0, -4), 15)
}

/// Two bits an element, 128 elements in 32 bytes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq")]
pub fn pairs(packed: &[u8; 64], part: usize) -> __m512i {
    let first = -4 * (part as i16 % 2);
    keep(shift_halves(twice(packed, part / 2), first, first - 2), 3)
}
