//! Integer dots in NEON. The instructions for 8-bit dots and matrix products are written as assembly: their
//! intrinsics are not stable yet.

use super::superblocks::Panel;
use super::{ActivationBlock, ActivationSuperblock, BlockOperand, PACKED_ROWS, SUMS};
use crate::blocks::{BLOCK, HalfBytes, SUB_BLOCKS};
use std::arch::aarch64::*;
use std::arch::asm;

/// Integer sums of eight rows with one token.
pub struct Dots {
    /// Of products, with the corrections of formats without minima.
    pub products: [int32x4_t; 2],
    /// Of corrections of formats with minima.
    pub corrections: [int32x4_t; 2],
}

/// One block of sixteen rows, as the instructions take it. For dots, part 4 w + r has word w of rows 4 r to 4 r + 3; for
/// matrix products part 4 p + g has eight quants from 8 g on of rows 2 p and 2 p + 1.
#[derive(Clone, Copy)]
pub struct Packed {
    parts: [int8x16_t; 2 * PACKED_ROWS],
    /// Of the rows.
    pub scales: [float32x4_t; 4],
}

impl Default for Packed {
    fn default() -> Self {
        // SAFETY: all-zero bytes are valid vectors of integers and floats.
        unsafe { std::mem::zeroed() }
    }
}

/// A wish for a cache line.
#[inline(always)]
pub fn prefetch(address: *const u8) {
    // SAFETY: a wish touches nothing, whatever the address.
    unsafe {
        asm!("prfm pldl1keep, [{a}]", a = in(reg) address, options(readonly, nostack, preserves_flags));
    }
}

/// Lane i of the sum gets four products more: those of bytes 4 i to 4 i + 3.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn dot(mut sum: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
    // SAFETY: arithmetic on registers.
    unsafe {
        asm!("sdot {s:v}.4s, {a:v}.16b, {b:v}.16b", s = inout(vreg) sum, a = in(vreg) a, b = in(vreg) b,
            options(pure, nomem, nostack, preserves_flags));
    }
    sum
}

/// The same with word `WORD` of b in place of each.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn dot_with_word<const WORD: usize>(mut sum: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
    // SAFETY: arithmetic on registers.
    unsafe {
        asm!("sdot {s:v}.4s, {a:v}.16b, {b:v}.4b[{w}]", s = inout(vreg) sum, a = in(vreg) a, b = in(vreg) b,
            w = const WORD, options(pure, nomem, nostack, preserves_flags));
    }
    sum
}

/// The dots of two rows of eight with two others are added: lane 2 i + j gets that of row i of a with row j of b.
#[inline]
#[target_feature(enable = "neon,i8mm")]
fn multiply_matrices(mut sum: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
    // SAFETY: arithmetic on registers.
    unsafe {
        asm!("smmla {s:v}.4s, {a:v}.16b, {b:v}.16b", s = inout(vreg) sum, a = in(vreg) a, b = in(vreg) b,
            options(pure, nomem, nostack, preserves_flags));
    }
    sum
}

/// Eight binary16 as binary32.
#[inline]
#[target_feature(enable = "neon")]
pub fn widen_halves(halves: &[HalfBytes; SUMS]) -> [float32x4_t; 2] {
    // SAFETY: the array has 16 bytes.
    let halves = vreinterpretq_f16_u8(unsafe { vld1q_u8(halves.as_ptr().cast()) });
    [
        vcvt_f32_f16(vget_low_f16(halves)),
        vcvt_f32_f16(vget_high_f16(halves)),
    ]
}

/// Lane r % 4 of half r / 4 = sum of the lanes of rows\[r\].
#[inline]
#[target_feature(enable = "neon")]
fn sum_rows8(rows: [int32x4_t; SUMS]) -> [int32x4_t; 2] {
    let [a, b, c, d, e, f, g, h] = rows;
    [
        vpaddq_s32(vpaddq_s32(a, b), vpaddq_s32(c, d)),
        vpaddq_s32(vpaddq_s32(e, f), vpaddq_s32(g, h)),
    ]
}

/// The dots of eight rows of 32 signed quants with x.
///
/// # Safety
/// Each pointer is to 32 bytes.
#[inline]
#[target_feature(enable = "neon,dotprod")]
pub unsafe fn block_dots(quants: [*const i8; SUMS], x: &ActivationBlock) -> [int32x4_t; 2] {
    let [low, high] = load32(&x.quants);
    let mut products = [vdupq_n_s32(0); SUMS];
    for (products, quants) in products.iter_mut().zip(quants) {
        // SAFETY: by contract.
        let (first, second) = unsafe { (vld1q_s8(quants), vld1q_s8(quants.add(16))) };
        *products = dot(dot(*products, first, low), second, high);
    }
    sum_rows8(products)
}

#[inline]
#[target_feature(enable = "neon")]
fn load32(bytes: &[i8; BLOCK]) -> [int8x16_t; 2] {
    let bytes = bytes.as_ptr();
    // SAFETY: the array has 32 bytes.
    unsafe { [vld1q_s8(bytes), vld1q_s8(bytes.add(16))] }
}

/// The dots of a panel with a token. Each sub-block's lanes are multiplied with its scale.
#[inline]
#[target_feature(enable = "neon,dotprod")]
pub fn superblock_dots<const MINIMUM: bool>(panel: &Panel, x: &ActivationSuperblock) -> Dots {
    let zero = vdupq_n_s32(0);
    let (mut products, mut corrections) = ([zero; SUMS], [zero; SUMS]);
    for row in 0..SUMS {
        for s in 0..SUB_BLOCKS {
            // SAFETY: 16 bytes from 16 s on lie within 256.
            let (quants, x) = unsafe {
                (
                    vld1q_s8(panel.quants[row].as_ptr().add(16 * s).cast()),
                    vld1q_s8(x.quants.as_ptr().add(16 * s)),
                )
            };
            let scale = i32::from(panel.scales[row][s]);
            products[row] = vmlaq_n_s32(products[row], dot(zero, quants, x), scale);
        }
        for part in 0..SUB_BLOCKS / 8 {
            // SAFETY: eight integers from 8 part on lie within sixteen.
            let (of_row, sums) = unsafe {
                (
                    vld1q_s16(panel.corrections[row].as_ptr().add(8 * part)),
                    vld1q_s16(x.sums.as_ptr().add(8 * part)),
                )
            };
            let to = if MINIMUM {
                &mut corrections[row]
            } else {
                &mut products[row]
            };
            *to = vmlal_s16(*to, vget_low_s16(of_row), vget_low_s16(sums));
            *to = vmlal_high_s16(*to, of_row, sums);
        }
    }
    Dots {
        products: sum_rows8(products),
        corrections: sum_rows8(corrections),
    }
}

/// Rearranges the quants of a block of sixteen rows.
///
/// # Safety
/// Each pointer is to 32 bytes.
#[inline]
#[target_feature(enable = "neon")]
pub unsafe fn pack<const I8MM: bool>(quants: [*const i8; PACKED_ROWS], to: &mut Packed) {
    for half in 0..2 {
        let mut rows = [vdupq_n_s8(0); PACKED_ROWS];
        for (row, quants) in rows.iter_mut().zip(quants) {
            // SAFETY: by contract.
            *row = unsafe { vld1q_s8(quants.add(16 * half)) };
        }
        if I8MM {
            for (pair, rows) in rows.as_chunks::<2>().0.iter().enumerate() {
                let [a, b] = [vreinterpretq_s64_s8(rows[0]), vreinterpretq_s64_s8(rows[1])];
                let to = &mut to.parts[4 * pair + 2 * half..][..2];
                to[0] = vreinterpretq_s8_s64(vzip1q_s64(a, b));
                to[1] = vreinterpretq_s8_s64(vzip2q_s64(a, b));
            }
        } else {
            for (group, rows) in rows.as_chunks::<4>().0.iter().enumerate() {
                for (word, part) in transpose4(*rows).into_iter().enumerate() {
                    to.parts[4 * (4 * half + word) + group] = part;
                }
            }
        }
    }
}

/// out\[i\] word j = rows\[j\] word i.
#[inline]
#[target_feature(enable = "neon")]
fn transpose4(rows: [int8x16_t; 4]) -> [int8x16_t; 4] {
    let mut words = [vdupq_n_s32(0); 4];
    for (words, row) in words.iter_mut().zip(rows) {
        *words = vreinterpretq_s32_s8(row);
    }
    let [a, b, c, d] = words;
    let (even, odd) = (
        [vzip1q_s32(a, c), vzip2q_s32(a, c)],
        [vzip1q_s32(b, d), vzip2q_s32(b, d)],
    );
    [
        vreinterpretq_s8_s32(vzip1q_s32(even[0], odd[0])),
        vreinterpretq_s8_s32(vzip2q_s32(even[0], odd[0])),
        vreinterpretq_s8_s32(vzip1q_s32(even[1], odd[1])),
        vreinterpretq_s8_s32(vzip2q_s32(even[1], odd[1])),
    ]
}

/// The dots of sixteen rows with T tokens.
#[inline]
#[target_feature(enable = "neon,dotprod")]
pub fn packed_dots<const T: usize>(
    packed: &Packed,
    x: [BlockOperand<'_>; T],
) -> [[int32x4_t; 4]; T] {
    let mut dots = [[vdupq_n_s32(0); 4]; T];
    for half in 0..2 {
        let mut quants = [vdupq_n_s8(0); T];
        for (quants, x) in quants.iter_mut().zip(x) {
            *quants = load32(&x.block.quants)[half];
        }
        let words = &packed.parts[16 * half..][..16].as_chunks::<4>().0;
        for group in 0..4 {
            for (dots, quants) in dots.iter_mut().zip(quants) {
                let sum = &mut dots[group];
                *sum = dot_with_word::<0>(*sum, words[0][group], quants);
                *sum = dot_with_word::<1>(*sum, words[1][group], quants);
                *sum = dot_with_word::<2>(*sum, words[2][group], quants);
                *sum = dot_with_word::<3>(*sum, words[3][group], quants);
            }
        }
    }
    dots
}

/// The same, two rows and two tokens at a time; an odd token goes with itself.
#[inline]
#[target_feature(enable = "neon,dotprod,i8mm")]
pub fn packed_dots_by_matrices<const T: usize>(
    packed: &Packed,
    x: [BlockOperand<'_>; T],
) -> [[int32x4_t; 4]; T] {
    let mut dots = [[vdupq_n_s32(0); 4]; T];
    for first in (0..T).step_by(2) {
        let second = (first + 1).min(T - 1);
        let tokens = pair(x[first].block, x[second].block);
        for group in 0..4 {
            let [mut upper, mut lower] = [vdupq_n_s32(0); 2];
            for (part, tokens) in tokens.into_iter().enumerate() {
                upper = multiply_matrices(upper, packed.parts[8 * group + part], tokens);
                lower = multiply_matrices(lower, packed.parts[8 * group + 4 + part], tokens);
            }
            // Lanes are (row, token): 00, 01, 10, 11.
            dots[second][group] = vuzp2q_s32(upper, lower);
            dots[first][group] = vuzp1q_s32(upper, lower);
        }
    }
    dots
}

/// Part g has eight quants from 8 g on of both.
#[inline]
#[target_feature(enable = "neon")]
fn pair(a: &ActivationBlock, b: &ActivationBlock) -> [int8x16_t; 4] {
    let (a, b) = (load32(&a.quants), load32(&b.quants));
    let mut parts = [vdupq_n_s8(0); 4];
    for half in 0..2 {
        let (a, b) = (vreinterpretq_s64_s8(a[half]), vreinterpretq_s64_s8(b[half]));
        parts[2 * half] = vreinterpretq_s8_s64(vzip1q_s64(a, b));
        parts[2 * half + 1] = vreinterpretq_s8_s64(vzip2q_s64(a, b));
    }
    parts
}
