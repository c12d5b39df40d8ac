//! Integer dots in AVX2.

use super::superblocks::Panel;
use super::transpose::sum_rows8;
use super::{ActivationBlock, ActivationSuperblock, SUMS};
use crate::blocks::{BLOCK, HalfBytes, SUB_BLOCKS};
use std::arch::x86_64::*;

/// Integer sums of eight rows with one token.
#[derive(Clone, Copy)]
pub struct Dots {
    /// Of products, with the corrections of formats without minima.
    pub products: __m256i,
    /// Of corrections of formats with minima.
    pub corrections: __m256i,
}

/// Eight binary16 as binary32.
#[inline]
#[target_feature(enable = "avx2,f16c")]
pub fn widen_halves(halves: &[HalfBytes; SUMS]) -> __m256 {
    // SAFETY: the array has 16 bytes.
    _mm256_cvtph_ps(unsafe { _mm_loadu_si128(halves.as_ptr().cast()) })
}

/// Sums of eight quants each: bytes are summed without a sign, so that each is 128 more on the way.
#[inline]
#[target_feature(enable = "avx2")]
pub fn sums_of_eight(quants: &[i8; BLOCK]) -> [i64; BLOCK / 8] {
    // SAFETY: the array has 32 bytes.
    let quants = unsafe { _mm256_loadu_si256(quants.as_ptr().cast()) };
    let unsigned = _mm256_xor_si256(quants, _mm256_set1_epi8(-128));
    let sums = _mm256_sad_epu8(unsigned, _mm256_setzero_si256());
    let mut out = [0; BLOCK / 8];
    // SAFETY: as above.
    unsafe {
        let sums = _mm256_sub_epi64(sums, _mm256_set1_epi64x(8 * 128));
        _mm256_storeu_si256(out.as_mut_ptr().cast(), sums);
    }
    out
}

/// 16 in byte i where bit i is set, else 0.
#[inline]
#[target_feature(enable = "avx2")]
pub fn fifth_bits(bits: [u8; 4]) -> [u8; BLOCK] {
    let all = _mm256_set1_epi32(i32::from_le_bytes(bits));
    let eight = 0x0101_0101_0101_0101;
    let bytes = _mm256_set_epi64x(3 * eight, 2 * eight, eight, 0);
    let kept = _mm256_set1_epi64x(0x8040_2010_0804_0201_u64 as i64);
    let of_byte = _mm256_and_si256(_mm256_shuffle_epi8(all, bytes), kept);
    let set = _mm256_cmpeq_epi8(of_byte, kept);
    store(_mm256_and_si256(set, _mm256_set1_epi8(16)))
}

/// The entry of each code, all below 16.
#[inline]
#[target_feature(enable = "avx2")]
pub fn look_up(table: &[u8; 16], codes: [u8; BLOCK]) -> [u8; BLOCK] {
    // SAFETY: arrays of 16 and 32 bytes.
    let (table, codes) = unsafe {
        (
            _mm_loadu_si128(table.as_ptr().cast()),
            _mm256_loadu_si256(codes.as_ptr().cast()),
        )
    };
    store(_mm256_shuffle_epi8(
        _mm256_broadcastsi128_si256(table),
        codes,
    ))
}

#[inline]
#[target_feature(enable = "avx2")]
fn store(bytes: __m256i) -> [u8; BLOCK] {
    let mut out = [0; BLOCK];
    // SAFETY: the array has 32 bytes.
    unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast(), bytes) }
    out
}

/// Each of eight bytes as two 16-bit integers.
#[inline]
#[target_feature(enable = "avx2")]
pub fn spread_bytes(bytes: u64, to: &mut [i16; SUB_BLOCKS]) {
    let wide = _mm_cvtepu8_epi16(_mm_cvtsi64_si128(bytes as i64));
    let (low, high) = (
        _mm_unpacklo_epi16(wide, wide),
        _mm_unpackhi_epi16(wide, wide),
    );
    // SAFETY: the array has 32 bytes.
    unsafe { _mm256_storeu_si256(to.as_mut_ptr().cast(), _mm256_set_m128i(high, low)) }
}

/// Lane r = dot of quants\[r\] with x. Quants below 64 keep the sums of two products within 16 bits.
#[inline]
#[target_feature(enable = "avx2")]
pub fn small_dots(quants: &[[u8; BLOCK]; SUMS], x: &ActivationBlock) -> __m256i {
    // SAFETY: all arrays have 32 bytes.
    let load = |bytes: *const u8| unsafe { _mm256_loadu_si256(bytes.cast()) };
    let (x, ones) = (load(x.quants.as_ptr().cast()), _mm256_set1_epi16(1));
    let mut products = [_mm256_setzero_si256(); SUMS];
    for (products, quants) in products.iter_mut().zip(quants) {
        let pairs = _mm256_maddubs_epi16(load(quants.as_ptr()), x);
        *products = _mm256_madd_epi16(pairs, ones);
    }
    sum_rows8(products)
}

/// The dots of a panel with T tokens.
#[inline]
#[target_feature(enable = "avx2")]
pub fn superblock_dots<const MINIMUM: bool, const SIGNED: bool, const T: usize>(
    panel: &Panel,
    x: [&ActivationSuperblock; T],
) -> [Dots; T] {
    let zero = _mm256_setzero_si256();
    let mut products = [[zero; SUMS]; T];
    let mut corrections = [[zero; SUMS]; T];
    for row in 0..SUMS {
        let (low, high) = halves(panel.scales[row].as_ptr());
        // SAFETY: arrays of sixteen 16-bit integers.
        let row_corrections = unsafe { _mm256_loadu_si256(panel.corrections[row].as_ptr().cast()) };
        for token in 0..T {
            // SAFETY: as above.
            let sums = unsafe { _mm256_loadu_si256(x[token].sums.as_ptr().cast()) };
            corrections[token][row] = _mm256_madd_epi16(row_corrections, sums);
        }
        for part in 0..8 {
            // Each half of the register has one sub-block of 16, so two scales: number 2 * part and the next.
            let scales = if part < 4 { low } else { high };
            let scales = _mm256_shuffle_epi8(scales, scale_places(part % 4));
            // SAFETY: parts 0 to 7 of 32 bytes lie within 256.
            let quants = unsafe { load_part(panel.quants[row].as_ptr(), part) };
            for token in 0..T {
                // SAFETY: as above.
                let x = unsafe { load_part(x[token].quants.as_ptr().cast(), part) };
                let scaled = _mm256_madd_epi16(pairs::<SIGNED>(quants, x), scales);
                products[token][row] = _mm256_add_epi32(products[token][row], scaled);
            }
        }
    }
    let mut dots = [Dots {
        products: zero,
        corrections: zero,
    }; T];
    for token in 0..T {
        if MINIMUM {
            dots[token].corrections = sum_rows8(corrections[token]);
        } else {
            for row in 0..SUMS {
                products[token][row] =
                    _mm256_add_epi32(products[token][row], corrections[token][row]);
            }
        }
        dots[token].products = sum_rows8(products[token]);
    }
    dots
}

/// Sums of two products. Signed quants give the activations their sign, of which neither has -128.
#[inline]
#[target_feature(enable = "avx2")]
fn pairs<const SIGNED: bool>(quants: __m256i, x: __m256i) -> __m256i {
    if SIGNED {
        _mm256_maddubs_epi16(_mm256_abs_epi8(quants), _mm256_sign_epi8(x, quants))
    } else {
        _mm256_maddubs_epi16(quants, x)
    }
}

/// Scales 0 to 7 and 8 to 15, each in both halves of a register.
#[inline]
#[target_feature(enable = "avx2")]
fn halves(scales: *const i16) -> (__m256i, __m256i) {
    // SAFETY: the caller's array has sixteen.
    let (low, high) = unsafe {
        (
            _mm_loadu_si128(scales.cast()),
            _mm_loadu_si128(scales.add(8).cast()),
        )
    };
    (
        _mm256_broadcastsi128_si256(low),
        _mm256_broadcastsi128_si256(high),
    )
}

/// The byte shuffle that spreads scale 2 * pair over the lower half of a register and the next over the upper.
#[inline]
#[target_feature(enable = "avx2")]
fn scale_places(pair: usize) -> __m256i {
    let lower = 0x0100 + 0x0404 * pair as i16;
    _mm256_set_m128i(_mm_set1_epi16(lower + 0x0202), _mm_set1_epi16(lower))
}

/// 32 bytes.
///
/// # Safety
/// There are 32 * (part + 1).
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn load_part(bytes: *const u8, part: usize) -> __m256i {
    // SAFETY: by contract.
    unsafe { _mm256_loadu_si256(bytes.add(32 * part).cast()) }
}
