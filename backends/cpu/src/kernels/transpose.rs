//! An 8 x 8 transpose of 32-bit words, for rearranging weights.

use crate::blocks::Q8Block;
use std::arch::x86_64::*;

/// out\[i\] lane j = rows\[j\] lane i.
#[inline]
#[target_feature(enable = "avx2")]
pub fn transpose8(rows: [__m256i; 8]) -> [__m256i; 8] {
    let [a, b, c, d, e, f, g, h] = rows;
    let pairs = [
        _mm256_unpacklo_epi32(a, b),
        _mm256_unpackhi_epi32(a, b),
        _mm256_unpacklo_epi32(c, d),
        _mm256_unpackhi_epi32(c, d),
        _mm256_unpacklo_epi32(e, f),
        _mm256_unpackhi_epi32(e, f),
        _mm256_unpacklo_epi32(g, h),
        _mm256_unpackhi_epi32(g, h),
    ];
    let quads = [
        _mm256_unpacklo_epi64(pairs[0], pairs[2]),
        _mm256_unpackhi_epi64(pairs[0], pairs[2]),
        _mm256_unpacklo_epi64(pairs[1], pairs[3]),
        _mm256_unpackhi_epi64(pairs[1], pairs[3]),
        _mm256_unpacklo_epi64(pairs[4], pairs[6]),
        _mm256_unpackhi_epi64(pairs[4], pairs[6]),
        _mm256_unpacklo_epi64(pairs[5], pairs[7]),
        _mm256_unpackhi_epi64(pairs[5], pairs[7]),
    ];
    [
        _mm256_permute2x128_si256::<0x20>(quads[0], quads[4]),
        _mm256_permute2x128_si256::<0x20>(quads[1], quads[5]),
        _mm256_permute2x128_si256::<0x20>(quads[2], quads[6]),
        _mm256_permute2x128_si256::<0x20>(quads[3], quads[7]),
        _mm256_permute2x128_si256::<0x31>(quads[0], quads[4]),
        _mm256_permute2x128_si256::<0x31>(quads[1], quads[5]),
        _mm256_permute2x128_si256::<0x31>(quads[2], quads[6]),
        _mm256_permute2x128_si256::<0x31>(quads[3], quads[7]),
    ]
}

/// Lane r = sum of the lanes of rows\[r\].
#[inline]
#[target_feature(enable = "avx2")]
pub fn sum_rows8(rows: [__m256i; 8]) -> __m256i {
    let [a, b, c, d, e, f, g, h] = rows;
    let first = _mm256_hadd_epi32(_mm256_hadd_epi32(a, b), _mm256_hadd_epi32(c, d));
    let second = _mm256_hadd_epi32(_mm256_hadd_epi32(e, f), _mm256_hadd_epi32(g, h));
    let low = _mm256_permute2x128_si256::<0x20>(first, second);
    let high = _mm256_permute2x128_si256::<0x31>(first, second);
    _mm256_add_epi32(low, high)
}

/// Eight of sixteen blocks.
#[inline(always)]
pub fn eight(blocks: [&Q8Block; 16], first: usize) -> [&Q8Block; 8] {
    let mut part = [blocks[first]; 8];
    part.copy_from_slice(&blocks[first..first + 8]);
    part
}

/// The scales of eight blocks.
#[inline]
#[target_feature(enable = "avx2,f16c")]
pub fn scales8(blocks: [&Q8Block; 8]) -> __m256 {
    let mut scales = [0i16; 8];
    for row in 0..8 {
        scales[row] = i16::from_le_bytes(blocks[row].scale);
    }
    let [a, b, c, d, e, f, g, h] = scales;
    _mm256_cvtph_ps(_mm_set_epi16(h, g, f, e, d, c, b, a))
}
