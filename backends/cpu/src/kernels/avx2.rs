//! Primitives in AVX2 with FMA and F16C.

use super::avx2_integers as integers;
use super::transpose::{eight, scales8, sum_rows8, transpose8};
use super::{
    ActivationSuperblock, BlockOperand, Bytes2, Bytes4, DOTS, Kernel, Minima, PACKED_ROWS, SUMS,
    Simd, SmallPanel, StreamFormat, avx2_stream, superblocks,
};
use crate::blocks::{BLOCK, Q8Block, SUB_BLOCKS};
use crate::reference::LANES;
use std::arch::x86_64::*;

/// Proof that the machine has AVX2, FMA and F16C.
#[derive(Clone, Copy)]
pub struct Avx2(());

impl Avx2 {
    /// The proof, where it is true.
    pub fn detect() -> Option<Self> {
        let all = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c");
        all.then_some(Self(()))
    }
}

/// One block of sixteen rows: word p of row r, two 16-bit quants, is lane r % 8 of `words[r / 8][p]`.
#[derive(Clone, Copy)]
pub struct Packed {
    words: [[__m256i; 16]; 2],
    scales: [__m256; 2],
}

impl Default for Packed {
    fn default() -> Self {
        // SAFETY: all-zero bytes are valid vectors of integers and floats.
        unsafe { std::mem::zeroed() }
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn with_features<K: Kernel>(simd: Avx2, kernel: K) -> K::Output {
    kernel.call(simd)
}

// SAFETY of every block below: `self` proves that the machine has the instructions, and pointers come from
// references to arrays of at least the loaded or stored size.
#[allow(clippy::undocumented_unsafe_blocks, clippy::needless_range_loop)]
impl Simd for Avx2 {
    type F = [__m256; 2];
    type Sums8 = __m256;
    type Packed = Packed;
    const LARGE_TILES: bool = false;
    const PACK_FROM_TOKENS: usize = 8;
    const STREAMS: bool = true;
    const Q8_OFFSET: i32 = 0;

    fn run<K: Kernel>(self, kernel: K) -> K::Output {
        unsafe { with_features(self, kernel) }
    }

    #[inline(always)]
    fn splat(self, x: f32) -> Self::F {
        unsafe { [_mm256_set1_ps(x); 2] }
    }
    #[inline(always)]
    fn load(self, x: &[f32; LANES]) -> Self::F {
        let x = x.as_ptr();
        unsafe { [_mm256_loadu_ps(x), _mm256_loadu_ps(x.add(8))] }
    }
    #[inline(always)]
    fn load_f32(self, x: &[Bytes4; LANES]) -> Self::F {
        let x = x.as_ptr().cast::<f32>();
        unsafe { [_mm256_loadu_ps(x), _mm256_loadu_ps(x.add(8))] }
    }
    #[inline(always)]
    fn load_f16(self, x: &[Bytes2; LANES]) -> Self::F {
        let x = x.as_ptr().cast::<__m128i>();
        unsafe {
            [
                _mm256_cvtph_ps(_mm_loadu_si128(x)),
                _mm256_cvtph_ps(_mm_loadu_si128(x.add(1))),
            ]
        }
    }
    #[inline(always)]
    fn load_bf16(self, x: &[Bytes2; LANES]) -> Self::F {
        let x = x.as_ptr().cast::<__m128i>();
        unsafe {
            [
                widen_bf16(_mm_loadu_si128(x)),
                widen_bf16(_mm_loadu_si128(x.add(1))),
            ]
        }
    }
    #[inline(always)]
    fn store(self, x: Self::F, to: &mut [f32; LANES]) {
        let to = to.as_mut_ptr();
        unsafe {
            _mm256_storeu_ps(to, x[0]);
            _mm256_storeu_ps(to.add(8), x[1]);
        }
    }
    #[inline(always)]
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        unsafe {
            [
                _mm256_fmadd_ps(a[0], b[0], c[0]),
                _mm256_fmadd_ps(a[1], b[1], c[1]),
            ]
        }
    }
    #[inline(always)]
    fn mul(self, a: Self::F, b: Self::F) -> Self::F {
        unsafe { [_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])] }
    }
    #[inline(always)]
    fn reduce(self, x: Self::F) -> f32 {
        unsafe { reduce8(_mm256_add_ps(x[0], x[1])) }
    }

    #[inline(always)]
    fn prefetch(self, address: *const u8) {
        unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) }
    }

    #[inline(always)]
    fn sums8_zero(self) -> __m256 {
        unsafe { _mm256_setzero_ps() }
    }
    #[inline(always)]
    fn sums8_store(self, sums: __m256) -> [f32; 8] {
        let mut out = [0.0; 8];
        unsafe { _mm256_storeu_ps(out.as_mut_ptr(), sums) }
        out
    }
    #[inline(always)]
    fn q8_step(self, blocks: [&Q8Block; 8], x: BlockOperand<'_>, sums: __m256) -> __m256 {
        unsafe {
            let x_halves = x.wide.as_ptr().cast::<__m256i>();
            let (x_low, x_high) = (
                _mm256_loadu_si256(x_halves),
                _mm256_loadu_si256(x_halves.add(1)),
            );
            let mut products = [_mm256_setzero_si256(); 8];
            for row in 0..8 {
                let [low, high] = widen(blocks[row]);
                let (low, high) = (
                    _mm256_madd_epi16(low, x_low),
                    _mm256_madd_epi16(high, x_high),
                );
                products[row] = _mm256_add_epi32(low, high);
            }
            let dots = _mm256_cvtepi32_ps(sum_rows8(products));
            let scales = _mm256_mul_ps(scales8(blocks), _mm256_set1_ps(x.block.scale));
            _mm256_fmadd_ps(scales, dots, sums)
        }
    }

    #[inline(always)]
    fn small_step<const MINIMUM: bool>(
        self,
        panel: &SmallPanel<SUMS>,
        offset: i32,
        x: BlockOperand<'_>,
        sums: __m256,
    ) -> __m256 {
        unsafe {
            let dots = integers::small_dots(&panel.quants, x.block);
            let dots = _mm256_sub_epi32(dots, _mm256_set1_epi32(offset * x.block.sum));
            let x_scale = _mm256_set1_ps(x.block.scale);
            let scales = _mm256_mul_ps(_mm256_loadu_ps(panel.scales.as_ptr()), x_scale);
            let sums = _mm256_fmadd_ps(scales, _mm256_cvtepi32_ps(dots), sums);
            if !MINIMUM {
                return sums;
            }
            let minima = _mm256_mul_ps(_mm256_loadu_ps(panel.minima.as_ptr()), x_scale);
            _mm256_fmadd_ps(minima, _mm256_set1_ps(x.block.sum as f32), sums)
        }
    }
    #[inline(always)]
    fn superblock_step<const MINIMUM: bool, const T: usize>(
        self,
        panel: &superblocks::Panel,
        x: [&ActivationSuperblock; T],
        mut sums: [__m256; T],
    ) -> [__m256; T] {
        unsafe {
            let dots = integers::superblock_dots::<MINIMUM, false, T>(panel, x);
            let scale = integers::widen_halves(&panel.scale);
            let minimum = integers::widen_halves(&panel.minimum);
            for token in 0..T {
                let x_scale = _mm256_set1_ps(x[token].scale);
                let scales = _mm256_mul_ps(scale, x_scale);
                let products = _mm256_cvtepi32_ps(dots[token].products);
                sums[token] = _mm256_fmadd_ps(scales, products, sums[token]);
                if MINIMUM {
                    let minima = _mm256_mul_ps(minimum, x_scale);
                    let corrections = _mm256_cvtepi32_ps(dots[token].corrections);
                    sums[token] = _mm256_fnmadd_ps(minima, corrections, sums[token]);
                }
            }
            sums
        }
    }

    #[inline(always)]
    fn stream_dots<F: StreamFormat, const T: usize>(
        self,
        blocks: &[F::Block],
        x: &[[&ActivationSuperblock; T]],
        minima: &mut [Minima],
    ) -> [f32; DOTS] {
        unsafe {
            let dots = avx2_stream::dots::<F, T>(blocks, x, minima);
            self.sums8_store(_mm256_cvtepi32_ps(dots))
        }
    }
    #[inline(always)]
    fn stream_corrections<F: StreamFormat>(
        self,
        operands: [(&Minima, &ActivationSuperblock); DOTS],
    ) -> [f32; DOTS] {
        unsafe {
            let dots = avx2_stream::corrections::<F>(operands);
            self.sums8_store(_mm256_cvtepi32_ps(dots))
        }
    }
    #[inline(always)]
    fn signed_superblock_step<const T: usize>(
        self,
        panel: &superblocks::Panel,
        x: [&ActivationSuperblock; T],
        mut sums: [__m256; T],
    ) -> [__m256; T] {
        unsafe {
            let dots = integers::superblock_dots::<false, true, T>(panel, x);
            let scale = integers::widen_halves(&panel.scale);
            for token in 0..T {
                let scales = _mm256_mul_ps(scale, _mm256_set1_ps(x[token].scale));
                let products = _mm256_cvtepi32_ps(dots[token].products);
                sums[token] = _mm256_fmadd_ps(scales, products, sums[token]);
            }
            sums
        }
    }

    #[inline(always)]
    fn sums_of_eight(self, quants: &[i8; BLOCK]) -> [i64; BLOCK / 8] {
        unsafe { integers::sums_of_eight(quants) }
    }
    #[inline(always)]
    fn fifth_bits(self, bits: [u8; 4]) -> [u8; BLOCK] {
        unsafe { integers::fifth_bits(bits) }
    }
    #[inline(always)]
    fn look_up(self, table: &[u8; 16], codes: [u8; BLOCK]) -> [u8; BLOCK] {
        unsafe { integers::look_up(table, codes) }
    }
    #[inline(always)]
    fn spread_bytes(self, bytes: u64, to: &mut [i16; SUB_BLOCKS]) {
        unsafe { integers::spread_bytes(bytes, to) }
    }

    #[inline(always)]
    fn pack(self, blocks: [&Q8Block; PACKED_ROWS], to: &mut Packed) {
        unsafe {
            for half in 0..2 {
                let blocks = eight(blocks, half * 8);
                let mut wide = [[_mm256_setzero_si256(); 8]; 2];
                for row in 0..8 {
                    [wide[0][row], wide[1][row]] = widen(blocks[row]);
                }
                to.words[half][..8].copy_from_slice(&transpose8(wide[0]));
                to.words[half][8..].copy_from_slice(&transpose8(wide[1]));
                to.scales[half] = scales8(blocks);
            }
        }
    }
    #[inline(always)]
    fn pack_unsigned(
        self,
        quants: &[[u8; BLOCK]; PACKED_ROWS],
        scales: &[f32; PACKED_ROWS],
        to: &mut Packed,
    ) {
        unsafe {
            for half in 0..2 {
                let mut wide = [[_mm256_setzero_si256(); 8]; 2];
                for row in 0..8 {
                    let quants = quants[half * 8 + row].as_ptr().cast::<__m128i>();
                    wide[0][row] = _mm256_cvtepu8_epi16(_mm_loadu_si128(quants));
                    wide[1][row] = _mm256_cvtepu8_epi16(_mm_loadu_si128(quants.add(1)));
                }
                to.words[half][..8].copy_from_slice(&transpose8(wide[0]));
                to.words[half][8..].copy_from_slice(&transpose8(wide[1]));
                to.scales[half] = _mm256_loadu_ps(scales.as_ptr().add(half * 8));
            }
        }
    }
    #[inline(always)]
    fn packed_step<const T: usize>(
        self,
        packed: &Packed,
        offset: i32,
        x: [BlockOperand<'_>; T],
        sums: &mut [Self::F; T],
    ) {
        unsafe {
            for half in 0..2 {
                let mut dots = [_mm256_setzero_si256(); T];
                for token in 0..T {
                    dots[token] = _mm256_set1_epi32(-offset * x[token].block.sum);
                }
                for word in 0..16 {
                    let weights = packed.words[half][word];
                    for token in 0..T {
                        let pair = x[token]
                            .wide
                            .as_ptr()
                            .cast::<i32>()
                            .add(word)
                            .read_unaligned();
                        let products = _mm256_madd_epi16(weights, _mm256_set1_epi32(pair));
                        dots[token] = _mm256_add_epi32(dots[token], products);
                    }
                }
                for token in 0..T {
                    let scales =
                        _mm256_mul_ps(packed.scales[half], _mm256_set1_ps(x[token].block.scale));
                    sums[token][half] =
                        _mm256_fmadd_ps(scales, _mm256_cvtepi32_ps(dots[token]), sums[token][half]);
                }
            }
        }
    }
}

/// Eight bfloat16 as binary32.
#[inline]
#[target_feature(enable = "avx2")]
fn widen_bf16(x: __m128i) -> __m256 {
    _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(x)))
}

/// The 32 quants as 16-bit integers.
#[inline]
#[target_feature(enable = "avx2")]
fn widen(block: &Q8Block) -> [__m256i; 2] {
    let quants = block.quants.as_ptr().cast::<__m128i>();
    // SAFETY: the block has 32 quants.
    let (low, high) = unsafe { (_mm_loadu_si128(quants), _mm_loadu_si128(quants.add(1))) };
    [_mm256_cvtepi8_epi16(low), _mm256_cvtepi8_epi16(high)]
}

/// The sum of eight lanes by halves.
#[inline]
#[target_feature(enable = "avx2")]
pub fn reduce8(x: __m256) -> f32 {
    let four = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
    let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    let one = _mm_add_ss(two, _mm_shuffle_ps::<1>(two, two));
    _mm_cvtss_f32(one)
}
