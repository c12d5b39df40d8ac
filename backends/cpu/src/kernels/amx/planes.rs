//! Superblocks as two planes of bytes.
//!
//! An integer weight, the scale of its sub-block times its quant, is 256 * high + low with a signed and an unsigned
//! byte. Products of planes need no scale in between: a superblock's 256 elements sum up in a tile.

use crate::blocks::SUPERBLOCK;
use crate::kernels::row_lanes::{ROWS, Slice, SuperblockFormat, WORD};
use std::arch::x86_64::*;

/// Slices of sixteen rows that are multiplied together: their tiles share the tokens'.
pub const SLICES: usize = 2;

/// Four bytes of each of sixteen rows, for four elements each.
type Plane = [[[u8; 4]; ROWS]; SUPERBLOCK / 4];

/// One superblock of sixteen rows.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub struct Planes {
    /// The lower bytes, unsigned.
    pub low: Plane,
    /// The upper bytes, signed.
    pub high: Plane,
}

impl Planes {
    /// Zeros.
    pub const EMPTY: Self = Self {
        low: [[[0; 4]; ROWS]; SUPERBLOCK / 4],
        high: [[[0; 4]; ROWS]; SUPERBLOCK / 4],
    };

    /// Writes the products of quants and scales.
    #[target_feature(enable = "avx512f,avx512bw")]
    pub fn fill<F: SuperblockFormat>(&mut self, slice: &Slice) {
        const WORDS: usize = 4;
        let lower = _mm512_set1_epi16(0x00ff);
        let offset = _mm512_set1_epi16(F::OFFSET);
        let parts = slice.quants.as_chunks::<WORDS>().0;
        let (low, high) = (
            self.low.as_chunks_mut::<WORDS>().0,
            self.high.as_chunks_mut::<WORDS>().0,
        );
        for (index, ((quants, low), high)) in parts.iter().zip(low).zip(high).enumerate() {
            let scales = &slice.head.scales[index * WORDS * WORD / F::SUB_BLOCK];
            // SAFETY: the arrays have the 64 bytes of a register.
            unsafe {
                let scales = _mm512_loadu_si512(scales.as_ptr().cast());
                let scales = _mm512_or_si512(scales, _mm512_slli_epi32::<16>(scales));
                for word in 0..WORDS {
                    let quants = _mm512_loadu_si512(quants[word].as_ptr().cast());
                    let even = _mm512_and_si512(quants, lower);
                    let odd = _mm512_srli_epi16::<8>(quants);
                    let even = _mm512_mullo_epi16(_mm512_sub_epi16(even, offset), scales);
                    let odd = _mm512_mullo_epi16(_mm512_sub_epi16(odd, offset), scales);
                    // Bit by bit: the first where the mask is set, else the second.
                    let lows =
                        _mm512_ternarylogic_epi32::<0xca>(lower, even, _mm512_slli_epi16::<8>(odd));
                    let highs =
                        _mm512_ternarylogic_epi32::<0xca>(lower, _mm512_srli_epi16::<8>(even), odd);
                    _mm512_storeu_si512(low[word].as_mut_ptr().cast(), lows);
                    _mm512_storeu_si512(high[word].as_mut_ptr().cast(), highs);
                }
            }
        }
    }
}
