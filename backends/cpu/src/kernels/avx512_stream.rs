//! Superblocks from memory to integer dots in AVX-512 registers.

use super::ActivationSuperblock;
use super::avx512_integers::sum_wide_rows8;
use super::stream::{DOTS, Minima, StreamFormat};
use std::arch::x86_64::*;

/// Registers of a superblock.
const PARTS: usize = 4;

/// Number b * T + t: the exact products of block b with x\[b\]\[t\], corrections included where there are no minima.
/// Sums of four products, within 16 bits, are what scales are multiplied with.
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
        let [scales, corrections] = unsafe { F::scales_avx512(block) };
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
        for pair in 0..PARTS / 2 {
            let scales = _mm512_permutexvar_epi16(places::<F>(pair), scales);
            // SAFETY: as above.
            let quants = unsafe {
                [
                    F::quants_avx512(block, 2 * pair),
                    F::quants_avx512(block, 2 * pair + 1),
                ]
            };
            for t in 0..T {
                let fours = [
                    fours(quants[0], x[t], 2 * pair),
                    fours(quants[1], x[t], 2 * pair + 1),
                ];
                let fours = _mm512_packs_epi32(fours[0], fours[1]);
                sums[index * T + t] = _mm512_dpwssd_epi32(sums[index * T + t], fours, scales);
            }
        }
    }
    sum_wide_rows8(sums)
}

/// Sums of four products of a part.
#[inline]
#[target_feature(enable = "avx512f,avx512vnni")]
fn fours(quants: __m512i, x: &ActivationSuperblock, part: usize) -> __m512i {
    // SAFETY: parts 0 to 3 of 64 bytes lie within 256.
    let x = unsafe { _mm512_loadu_si512(x.quants.as_ptr().add(64 * part).cast()) };
    _mm512_dpbusd_epi32(_mm512_setzero_si512(), quants, x)
}

/// Where the scales of two parts go: in each 128 bits four 16-bit lanes belong to 16 elements of the first part and
/// four to 16 of the second.
#[inline]
#[target_feature(enable = "avx512f")]
fn places<F: StreamFormat>(pair: usize) -> __m512i {
    let scale = |part: usize, quarter: usize| {
        let scale = if F::WIDE_SUB_BLOCKS {
            8 + 2 * part + quarter / 2
        } else {
            4 * part + quarter
        };
        0x0001_0001_0001_0001 * scale as i64
    };
    let (a, b) = (2 * pair, 2 * pair + 1);
    _mm512_set_epi64(
        scale(b, 3),
        scale(a, 3),
        scale(b, 2),
        scale(a, 2),
        scale(b, 1),
        scale(a, 1),
        scale(b, 0),
        scale(a, 0),
    )
}

/// Q4_K and Q5_K as in `avx2_stream`, with shifts of their own for each lane.
#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
pub fn six_bit_scales(block: &[u8]) -> __m256i {
    let start = block.first_chunk::<16>().expect("units and scales");
    // SAFETY: the array has 16 bytes.
    let bytes = _mm256_broadcastsi128_si256(unsafe { _mm_loadu_si128(start.as_ptr().cast()) });
    let z = -1;
    let places = _mm256_setr_epi8(
        8, z, 9, z, 10, z, 11, z, 12, 8, 13, 9, 14, 10, 15, 11, //
        4, z, 5, z, 6, z, 7, z, 12, 4, 13, 5, 14, 6, 15, 7,
    );
    let both = _mm256_shuffle_epi8(bytes, places);
    let counts = _mm256_setr_epi16(0, 0, 0, 0, 4, 4, 4, 4, 0, 0, 0, 0, 0, 0, 0, 0);
    let (six, four) = (0x3f, 0x0f);
    let masks = _mm256_setr_epi16(
        six, six, six, six, four, four, four, four, six, six, six, six, four, four, four, four,
    );
    let low = _mm256_and_si256(_mm256_srlv_epi16(both, counts), masks);
    let high = _mm256_srli_epi16::<10>(both);
    _mm256_or_si256(low, _mm256_and_si256(high, _mm256_set1_epi16(0x30)))
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
