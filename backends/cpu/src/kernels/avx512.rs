//! Primitives in AVX-512 with VNNI.

use super::amx::{self, Amx};
use super::avx2::reduce8;
use super::avx512_integers as integers;
use super::transpose::{eight, scales8, sum_rows8, transpose8};
use super::{
    ActivationSuperblock, BlockOperand, Bytes2, Bytes4, Kernel, PACKED_ROWS, Product, SUMS, Simd,
    SmallPanel, along_rows, avx2_integers, row_lanes, superblocks,
};
use crate::blocks::{BLOCK, Q8Block, SUB_BLOCKS};
use crate::reference::LANES;
use std::arch::x86_64::*;

/// Proof that the machine has AVX-512 F, BW, DQ, VL and VNNI, and what AVX2 machines have.
#[derive(Clone, Copy)]
pub struct Avx512 {
    /// For products of many tokens, where they are wanted and there.
    tiles: Option<Amx>,
}

impl Avx512 {
    /// The proof, where it is true.
    pub fn detect() -> Option<Self> {
        let all = super::avx2::Avx2::detect().is_some()
            && is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512vnni");
        all.then_some(Self { tiles: None })
    }

    /// The same with tiles.
    pub fn detect_with_tiles() -> Option<Self> {
        Self::detect()?;
        let tiles = Some(Amx::detect()?);
        Some(Self { tiles })
    }
}

/// One block of sixteen rows: bytes 4w..4w + 4 of row r are lane r of `words[w]`, unsigned, as the dot-product
/// instruction wants one side: those of Q8_0 have 128 added to each.
#[derive(Clone, Copy)]
pub struct Packed {
    words: [[__m256i; 2]; 8],
    scales: [__m256; 2],
}

impl Default for Packed {
    fn default() -> Self {
        // SAFETY: all-zero bytes are valid vectors of integers and floats.
        unsafe { std::mem::zeroed() }
    }
}

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn with_features<K: Kernel>(simd: Avx512, kernel: K) -> K::Output {
    kernel.call(simd)
}

// SAFETY of every block below: `self` proves that the machine has the instructions, and pointers come from
// references to arrays of at least the loaded or stored size.
#[allow(clippy::undocumented_unsafe_blocks, clippy::needless_range_loop)]
impl Simd for Avx512 {
    type F = __m512;
    type Sums8 = __m256;
    type Packed = Packed;
    const LARGE_TILES: bool = true;
    const PACK_FROM_TOKENS: usize = 4;
    const Q8_OFFSET: i32 = 128;
    const WIDE: bool = false;

    fn run<K: Kernel>(self, kernel: K) -> K::Output {
        unsafe { with_features(self, kernel) }
    }

    #[inline(always)]
    fn rows_in_lanes(self, product: &Product<'_>) -> bool {
        self.tiles
            .is_some_and(|tiles| amx::product(self, tiles, product))
            || along_rows::product(self, product)
            || row_lanes::product(self, product)
    }

    #[inline(always)]
    fn splat(self, x: f32) -> __m512 {
        unsafe { _mm512_set1_ps(x) }
    }
    #[inline(always)]
    fn load(self, x: &[f32; LANES]) -> __m512 {
        unsafe { _mm512_loadu_ps(x.as_ptr()) }
    }
    #[inline(always)]
    fn load_f32(self, x: &[Bytes4; LANES]) -> __m512 {
        unsafe { _mm512_loadu_ps(x.as_ptr().cast()) }
    }
    #[inline(always)]
    fn load_f16(self, x: &[Bytes2; LANES]) -> __m512 {
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(x.as_ptr().cast())) }
    }
    #[inline(always)]
    fn load_bf16(self, x: &[Bytes2; LANES]) -> __m512 {
        unsafe {
            let words = _mm512_cvtepu16_epi32(_mm256_loadu_si256(x.as_ptr().cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(words))
        }
    }
    #[inline(always)]
    fn store(self, x: __m512, to: &mut [f32; LANES]) {
        unsafe { _mm512_storeu_ps(to.as_mut_ptr(), x) }
    }
    #[inline(always)]
    fn fma(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_mul_ps(a, b) }
    }
    #[inline(always)]
    fn reduce(self, x: __m512) -> f32 {
        unsafe {
            reduce8(_mm256_add_ps(
                _mm512_castps512_ps256(x),
                _mm512_extractf32x8_ps::<1>(x),
            ))
        }
    }

    #[inline(always)]
    fn reduce_tile(self, x: [[__m512; 4]; 4]) -> [[f32; 4]; 4] {
        let mut sums = [[0.0; 4]; 4];
        unsafe { _mm512_storeu_ps(sums.as_mut_ptr().cast(), sum_lanes(x)) }
        sums
    }
    #[inline(always)]
    fn prefetch(self, address: *const u8) {
        unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) }
    }
    #[inline(always)]
    fn prefetch_far(self, address: *const u8) {
        unsafe { _mm_prefetch::<_MM_HINT_T1>(address.cast()) }
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
            let x_quants = _mm256_loadu_si256(x.block.quants.as_ptr().cast());
            let mut products = [_mm256_setzero_si256(); 8];
            for row in 0..8 {
                products[row] = _mm256_dpbusd_epi32(products[row], unsigned(blocks[row]), x_quants);
            }
            let dots = _mm256_sub_epi32(
                sum_rows8(products),
                _mm256_set1_epi32(Self::Q8_OFFSET * x.block.sum),
            );
            let scales = _mm256_mul_ps(scales8(blocks), _mm256_set1_ps(x.block.scale));
            _mm256_fmadd_ps(scales, _mm256_cvtepi32_ps(dots), sums)
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
            let scale = avx2_integers::widen_halves(&panel.scale);
            let minimum = avx2_integers::widen_halves(&panel.minimum);
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
    fn signed_superblock_step<const T: usize>(
        self,
        panel: &superblocks::Panel,
        x: [&ActivationSuperblock; T],
        mut sums: [__m256; T],
    ) -> [__m256; T] {
        unsafe {
            let dots = integers::superblock_dots::<false, true, T>(panel, x);
            let scale = avx2_integers::widen_halves(&panel.scale);
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
        unsafe { avx2_integers::sums_of_eight(quants) }
    }
    #[inline(always)]
    fn fifth_bits(self, bits: [u8; 4]) -> [u8; BLOCK] {
        unsafe { avx2_integers::fifth_bits(bits) }
    }
    #[inline(always)]
    fn look_up(self, table: &[u8; 16], codes: [u8; BLOCK]) -> [u8; BLOCK] {
        unsafe { avx2_integers::look_up(table, codes) }
    }
    #[inline(always)]
    fn spread_bytes(self, bytes: u64, to: &mut [i16; SUB_BLOCKS]) {
        unsafe { avx2_integers::spread_bytes(bytes, to) }
    }

    #[inline(always)]
    fn pack(self, blocks: [&Q8Block; PACKED_ROWS], to: &mut Packed) {
        unsafe {
            for half in 0..2 {
                let blocks = eight(blocks, half * 8);
                let mut words = [_mm256_setzero_si256(); 8];
                for row in 0..8 {
                    words[row] = unsigned(blocks[row]);
                }
                let words = transpose8(words);
                for (to, words) in to.words.iter_mut().zip(words) {
                    to[half] = words;
                }
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
                let mut words = [_mm256_setzero_si256(); 8];
                for row in 0..8 {
                    words[row] = _mm256_loadu_si256(quants[half * 8 + row].as_ptr().cast());
                }
                let words = transpose8(words);
                for (to, words) in to.words.iter_mut().zip(words) {
                    to[half] = words;
                }
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
        sums: &mut [__m512; T],
    ) {
        unsafe {
            let mut dots = [_mm512_setzero_si512(); T];
            for token in 0..T {
                dots[token] = _mm512_set1_epi32(-offset * x[token].block.sum);
            }
            for word in 0..8 {
                let weights = _mm512_loadu_si512(packed.words[word].as_ptr().cast());
                for token in 0..T {
                    let quad = x[token]
                        .block
                        .quants
                        .as_ptr()
                        .cast::<i32>()
                        .add(word)
                        .read_unaligned();
                    dots[token] =
                        _mm512_dpbusd_epi32(dots[token], weights, _mm512_set1_epi32(quad));
                }
            }
            let row_scales = _mm512_loadu_ps(packed.scales.as_ptr().cast());
            for token in 0..T {
                let scales = _mm512_mul_ps(row_scales, _mm512_set1_ps(x[token].block.scale));
                sums[token] = _mm512_fmadd_ps(scales, _mm512_cvtepi32_ps(dots[token]), sums[token]);
            }
        }
    }
}

/// Lane 4q + j = sum of the lanes of x\[j\]\[q\] by halves. Each step adds the halves of two vectors at once.
#[inline]
#[target_feature(enable = "avx512f")]
fn sum_lanes(x: [[__m512; 4]; 4]) -> __m512 {
    let mut quarters = [_mm512_setzero_ps(); 4];
    for j in 0..4 {
        let first = fold_halves(x[j][0], x[j][1]);
        let second = fold_halves(x[j][2], x[j][3]);
        // Eight lanes to four: 128-bit lane q now belongs to x[j][q].
        let low = _mm512_shuffle_f32x4::<0b10_00_10_00>(first, second);
        let high = _mm512_shuffle_f32x4::<0b11_01_11_01>(first, second);
        quarters[j] = _mm512_add_ps(low, high);
    }
    let first = fold_pairs(quarters[0], quarters[1]);
    let second = fold_pairs(quarters[2], quarters[3]);
    let even = _mm512_shuffle_ps::<0b10_00_10_00>(first, second);
    let odd = _mm512_shuffle_ps::<0b11_01_11_01>(first, second);
    _mm512_add_ps(even, odd)
}

/// Sixteen lanes to eight, of two vectors.
#[inline]
#[target_feature(enable = "avx512f")]
fn fold_halves(a: __m512, b: __m512) -> __m512 {
    let low = _mm512_shuffle_f32x4::<0b01_00_01_00>(a, b);
    let high = _mm512_shuffle_f32x4::<0b11_10_11_10>(a, b);
    _mm512_add_ps(low, high)
}

/// Four lanes to two, in each 128 bits of two vectors.
#[inline]
#[target_feature(enable = "avx512f")]
fn fold_pairs(a: __m512, b: __m512) -> __m512 {
    let (a, b) = (_mm512_castps_pd(a), _mm512_castps_pd(b));
    let low = _mm512_castpd_ps(_mm512_unpacklo_pd(a, b));
    let high = _mm512_castpd_ps(_mm512_unpackhi_pd(a, b));
    _mm512_add_ps(low, high)
}

/// The 32 quants, 128 added to each.
#[inline]
#[target_feature(enable = "avx2")]
fn unsigned(block: &Q8Block) -> __m256i {
    // SAFETY: the block has 32 quants.
    let quants = unsafe { _mm256_loadu_si256(block.quants.as_ptr().cast()) };
    _mm256_xor_si256(quants, _mm256_set1_epi8(-128))
}
