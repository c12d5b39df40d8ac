//! Superblocks from memory to integer dots in AVX2 registers.

use super::ActivationSuperblock;
use super::stream::{DOTS, Minima, StreamFormat};
use super::transpose::sum_rows8;
use crate::blocks::Q3KBlock;
use std::arch::x86_64::*;

/// Registers of a superblock.
const PARTS: usize = 8;

/// Number b * T + t: the exact products of block b with x\[b\]\[t\], corrections included where there are no minima.
#[inline]
#[target_feature(enable = "avx2")]
pub fn dots<F: StreamFormat, const T: usize>(
    blocks: &[F::Block],
    x: &[[&ActivationSuperblock; T]],
    minima: &mut [Minima],
) -> __m256i {
    let mut sums = [_mm256_setzero_si256(); DOTS];
    for index in 0..DOTS / T {
        let (block, x) = (&blocks[index], &x[index]);
        // SAFETY: this function's instructions are those of `Avx2`.
        let [scales, corrections] = unsafe { F::scales(block) };
        if F::MINIMUM {
            // SAFETY: sixteen 16-bit integers are 32 bytes.
            unsafe { _mm256_storeu_si256(minima[index].as_mut_ptr().cast(), corrections) };
        } else {
            for t in 0..T {
                // SAFETY: as above.
                let x = unsafe { _mm256_loadu_si256(x[t].sums.as_ptr().cast()) };
                sums[index * T + t] = _mm256_madd_epi16(corrections, x);
            }
        }
        let low = _mm256_permute4x64_epi64::<0b01_00_01_00>(scales);
        let high = _mm256_permute4x64_epi64::<0b11_10_11_10>(scales);
        for part in 0..PARTS {
            // Each half of a register has 16 elements.
            let scales = if F::WIDE_SUB_BLOCKS {
                _mm256_shuffle_epi8(high, places(part, part))
            } else {
                let scales = if part < 4 { low } else { high };
                _mm256_shuffle_epi8(scales, places(2 * part % 8, 2 * part % 8 + 1))
            };
            // SAFETY: as above.
            let quants = unsafe { F::quants_avx2(block, part) };
            for t in 0..T {
                // SAFETY: parts 0 to 7 of 32 bytes lie within 256.
                let x = unsafe { _mm256_loadu_si256(x[t].quants.as_ptr().add(32 * part).cast()) };
                let scaled = _mm256_madd_epi16(_mm256_maddubs_epi16(quants, x), scales);
                sums[index * T + t] = _mm256_add_epi32(sums[index * T + t], scaled);
            }
        }
    }
    sum_rows8(sums)
}

/// Number i: the exact product of minima i with the sums of x of i.
#[inline]
#[target_feature(enable = "avx2")]
pub fn corrections<F: StreamFormat>(operands: [(&Minima, &ActivationSuperblock); DOTS]) -> __m256i {
    let mut sums = [_mm256_setzero_si256(); DOTS];
    for (sums, (minima, x)) in sums.iter_mut().zip(operands) {
        // SAFETY: arrays of 16, 8 and 16 integers of 16 bits.
        let (minima, x) = unsafe {
            let x = if F::WIDE_SUB_BLOCKS {
                // Zeros where the scales are.
                _mm256_zextsi128_si256(_mm_loadu_si128(x.sums_of_32.as_ptr().cast()))
            } else {
                _mm256_loadu_si256(x.sums.as_ptr().cast())
            };
            (_mm256_loadu_si256(minima.as_ptr().cast()), x)
        };
        *sums = _mm256_madd_epi16(minima, x);
    }
    sum_rows8(sums)
}

/// The byte shuffle that spreads one scale over the lower half of a register and one over the upper.
#[inline]
#[target_feature(enable = "avx2")]
fn places(low: usize, high: usize) -> __m256i {
    let pair = |scale: usize| _mm_set1_epi16(0x0100 + 0x0202 * scale as i16);
    _mm256_set_m128i(pair(high), pair(low))
}

/// Bytes 32 * part to 32 * part + 31.
#[inline]
#[target_feature(enable = "avx2")]
pub fn load(bytes: &[u8], part: usize) -> __m256i {
    let bytes = &bytes.as_chunks::<32>().0[part];
    // SAFETY: the array has 32 bytes.
    unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
}

/// 16-bit lanes shifted to the left, to the right where `count` is negative.
#[inline]
#[target_feature(enable = "avx2")]
pub fn shift(x: __m256i, count: i32) -> __m256i {
    let places = _mm_cvtsi32_si128(count.abs());
    if count > 0 {
        _mm256_sll_epi16(x, places)
    } else {
        _mm256_srl_epi16(x, places)
    }
}

/// `x & mask`, in each byte.
#[inline]
#[target_feature(enable = "avx2")]
pub fn keep(x: __m256i, mask: i8) -> __m256i {
    _mm256_and_si256(x, _mm256_set1_epi8(mask))
}

/// `x | more & mask`, in each byte.
#[inline]
#[target_feature(enable = "avx2")]
pub fn with(x: __m256i, more: __m256i, mask: i8) -> __m256i {
    _mm256_or_si256(x, keep(more, mask))
}

/// Four bits an element, 64 elements in 32 bytes.
#[inline]
#[target_feature(enable = "avx2")]
pub fn halves(packed: &[u8; 128], part: usize) -> __m256i {
    keep(shift(load(packed, part / 2), -4 * (part as i32 % 2)), 15)
}

/// Two bits an element, 128 elements in 32 bytes.
#[inline]
#[target_feature(enable = "avx2")]
pub fn pairs(packed: &[u8; 64], part: usize) -> __m256i {
    keep(shift(load(packed, part / 4), -2 * (part as i32 % 4)), 3)
}

/// Q2_K: scales in the lower halves of bytes, minima in the upper.
#[inline]
#[target_feature(enable = "avx2")]
pub fn nibble_scales(packed: &[u8; 16]) -> [__m256i; 2] {
    // SAFETY: the array has 16 bytes.
    let bytes = _mm256_cvtepu8_epi16(unsafe { _mm_loadu_si128(packed.as_ptr().cast()) });
    let scales = _mm256_and_si256(bytes, _mm256_set1_epi16(15));
    [scales, _mm256_srli_epi16::<4>(bytes)]
}

/// Q6_K: scales, and `OFFSET` times them less.
#[inline]
#[target_feature(enable = "avx2")]
pub fn signed_scales<const OFFSET: i16>(packed: &[i8; 16]) -> [__m256i; 2] {
    // SAFETY: the array has 16 bytes.
    let scales = _mm256_cvtepi8_epi16(unsafe { _mm_loadu_si128(packed.as_ptr().cast()) });
    [
        scales,
        _mm256_mullo_epi16(scales, _mm256_set1_epi16(-OFFSET)),
    ]
}

/// Q3_K: six bits less 32, four in the halves of bytes 0 to 7 and two in bytes 8 to 11; and minus four times them.
#[inline]
#[target_feature(enable = "avx2")]
pub fn split_scales(block: &Q3KBlock) -> [__m256i; 2] {
    // The block's last sixteen bytes: two more, the scales from 2 on, and the unit.
    let end = bytemuck::bytes_of(block)
        .last_chunk::<16>()
        .expect("110 bytes");
    // SAFETY: the array has 16 bytes.
    let bytes = _mm256_broadcastsi128_si256(unsafe { _mm_loadu_si128(end.as_ptr().cast()) });
    // Each byte into the upper half of a 16-bit lane, from where a product's upper half shifts it to its place.
    let z = -1;
    let low_places = _mm256_setr_epi8(
        z, 2, z, 3, z, 4, z, 5, z, 6, z, 7, z, 8, z, 9, //
        z, 2, z, 3, z, 4, z, 5, z, 6, z, 7, z, 8, z, 9,
    );
    let low = _mm256_shuffle_epi8(bytes, low_places);
    let low_factors = _mm256_set_m128i(_mm_set1_epi16(1 << 4), _mm_set1_epi16(1 << 8));
    let low = keep(_mm256_mulhi_epu16(low, low_factors), 15);
    let high_places = _mm256_setr_epi8(
        z, 10, z, 11, z, 12, z, 13, z, 10, z, 11, z, 12, z, 13, //
        z, 10, z, 11, z, 12, z, 13, z, 10, z, 11, z, 12, z, 13,
    );
    let high = _mm256_shuffle_epi8(bytes, high_places);
    let (f0, f1, f2, f3) = (1 << 12, 1 << 10, 1 << 8, 1 << 6);
    let high_factors = _mm256_setr_epi16(
        f0, f0, f0, f0, f1, f1, f1, f1, f2, f2, f2, f2, f3, f3, f3, f3,
    );
    let high = _mm256_mulhi_epu16(high, high_factors);
    let high = _mm256_and_si256(high, _mm256_set1_epi16(0x30));
    let scales = _mm256_sub_epi16(_mm256_or_si256(low, high), _mm256_set1_epi16(32));
    [scales, _mm256_mullo_epi16(scales, _mm256_set1_epi16(-4))]
}

/// Q4_K and Q5_K, from the block's first sixteen bytes: minima in lanes 0 to 7, scales in lanes 8 to 15.
///
/// Of four they are the lower six bits of a byte; of the other four a half of a byte, and the upper two bits of the
/// bytes before.
#[inline]
#[target_feature(enable = "avx2")]
pub fn six_bit_scales(block: &[u8]) -> __m256i {
    let start = block.first_chunk::<16>().expect("units and scales");
    // SAFETY: the array has 16 bytes.
    let bytes = _mm256_broadcastsi128_si256(unsafe { _mm_loadu_si128(start.as_ptr().cast()) });
    let z = -1;
    // Into the upper half of a 16-bit lane, from where a product's upper half shifts it to its place.
    let low_places = _mm256_setr_epi8(
        z, 8, z, 9, z, 10, z, 11, z, 12, z, 13, z, 14, z, 15, //
        z, 4, z, 5, z, 6, z, 7, z, 12, z, 13, z, 14, z, 15,
    );
    let (e, f) = (1 << 8, 1 << 4);
    let low_factors = _mm256_setr_epi16(e, e, e, e, f, f, f, f, e, e, e, e, e, e, e, e);
    let (six, four) = (0x3f, 0x0f);
    let low_masks = _mm256_setr_epi16(
        six, six, six, six, four, four, four, four, six, six, six, six, four, four, four, four,
    );
    let low = _mm256_shuffle_epi8(bytes, low_places);
    let low = _mm256_and_si256(_mm256_mulhi_epu16(low, low_factors), low_masks);
    let high_places = _mm256_setr_epi8(
        z, z, z, z, z, z, z, z, 8, z, 9, z, 10, z, 11, z, //
        z, z, z, z, z, z, z, z, 4, z, 5, z, 6, z, 7, z,
    );
    let high = _mm256_srli_epi16::<2>(_mm256_shuffle_epi8(bytes, high_places));
    _mm256_or_si256(low, _mm256_and_si256(high, _mm256_set1_epi16(0x30)))
}
