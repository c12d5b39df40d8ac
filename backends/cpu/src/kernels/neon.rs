//! Primitives in NEON with the dot products of 8-bit integers, and their matrix products where the machine has them.

use super::neon_integers as integers;
use super::{
    ActivationSuperblock, BlockOperand, Bytes2, Bytes4, Kernel, PACKED_ROWS, SUMS, Simd,
    SmallPanel, superblocks,
};
use crate::blocks::{BLOCK, Q8Block};
use crate::reference::LANES;
use integers::Packed;
use std::arch::aarch64::*;
use std::arch::is_aarch64_feature_detected;

/// Proof that the machine has NEON and the feature `dotprod`; with `I8MM` also `i8mm`.
#[derive(Clone, Copy)]
pub struct Neon<const I8MM: bool>(());

impl Neon<false> {
    /// The proof, where it is true.
    pub fn detect() -> Option<Self> {
        let all = is_aarch64_feature_detected!("neon") && is_aarch64_feature_detected!("dotprod");
        all.then_some(Self(()))
    }
}

impl Neon<true> {
    /// The proof, where it is true.
    pub fn detect() -> Option<Self> {
        let all = Neon::<false>::detect().is_some() && is_aarch64_feature_detected!("i8mm");
        all.then_some(Self(()))
    }
}

#[target_feature(enable = "neon,dotprod")]
fn with_dotprod<const I8MM: bool, K: Kernel>(simd: Neon<I8MM>, kernel: K) -> K::Output {
    kernel.call(simd)
}

#[target_feature(enable = "neon,dotprod,i8mm")]
fn with_i8mm<const I8MM: bool, K: Kernel>(simd: Neon<I8MM>, kernel: K) -> K::Output {
    kernel.call(simd)
}

// SAFETY of every block below: `self` proves that the machine has the instructions, and pointers come from
// references to arrays of at least the loaded or stored size.
#[allow(clippy::undocumented_unsafe_blocks, clippy::needless_range_loop)]
impl<const I8MM: bool> Simd for Neon<I8MM> {
    type F = [float32x4_t; 4];
    type Sums8 = [float32x4_t; 2];
    type Packed = Packed;
    const LARGE_TILES: bool = false;
    const PACK_FROM_TOKENS: usize = 4;
    const Q8_OFFSET: i32 = 0;

    fn run<K: Kernel>(self, kernel: K) -> K::Output {
        unsafe {
            if I8MM {
                with_i8mm(self, kernel)
            } else {
                with_dotprod(self, kernel)
            }
        }
    }

    #[inline(always)]
    fn splat(self, x: f32) -> Self::F {
        unsafe { [vdupq_n_f32(x); 4] }
    }
    #[inline(always)]
    fn load(self, x: &[f32; LANES]) -> Self::F {
        let mut all = self.splat(0.0);
        for part in 0..4 {
            all[part] = unsafe { vld1q_f32(x.as_ptr().add(4 * part)) };
        }
        all
    }
    #[inline(always)]
    fn load_f32(self, x: &[Bytes4; LANES]) -> Self::F {
        let mut all = self.splat(0.0);
        for part in 0..4 {
            let bytes = unsafe { vld1q_u8(x.as_ptr().add(4 * part).cast()) };
            all[part] = unsafe { vreinterpretq_f32_u8(bytes) };
        }
        all
    }
    #[inline(always)]
    fn load_f16(self, x: &[Bytes2; LANES]) -> Self::F {
        let mut all = self.splat(0.0);
        for part in 0..4 {
            let bytes = unsafe { vld1_u8(x.as_ptr().add(4 * part).cast()) };
            all[part] = unsafe { vcvt_f32_f16(vreinterpret_f16_u8(bytes)) };
        }
        all
    }
    #[inline(always)]
    fn load_bf16(self, x: &[Bytes2; LANES]) -> Self::F {
        let mut all = self.splat(0.0);
        for part in 0..4 {
            let bytes = unsafe { vld1_u8(x.as_ptr().add(4 * part).cast()) };
            all[part] =
                unsafe { vreinterpretq_f32_u32(vshll_n_u16::<16>(vreinterpret_u16_u8(bytes))) };
        }
        all
    }
    #[inline(always)]
    fn store(self, x: Self::F, to: &mut [f32; LANES]) {
        for part in 0..4 {
            unsafe { vst1q_f32(to.as_mut_ptr().add(4 * part), x[part]) }
        }
    }
    #[inline(always)]
    fn fma(self, a: Self::F, b: Self::F, mut c: Self::F) -> Self::F {
        for part in 0..4 {
            c[part] = unsafe { vfmaq_f32(c[part], a[part], b[part]) };
        }
        c
    }
    #[inline(always)]
    fn mul(self, mut a: Self::F, b: Self::F) -> Self::F {
        for part in 0..4 {
            a[part] = unsafe { vmulq_f32(a[part], b[part]) };
        }
        a
    }
    #[inline(always)]
    fn reduce(self, x: Self::F) -> f32 {
        unsafe {
            let four = vaddq_f32(vaddq_f32(x[0], x[2]), vaddq_f32(x[1], x[3]));
            let two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
            vget_lane_f32::<0>(two) + vget_lane_f32::<1>(two)
        }
    }

    #[inline(always)]
    fn prefetch(self, address: *const u8) {
        integers::prefetch(address);
    }

    #[inline(always)]
    fn sums8_zero(self) -> Self::Sums8 {
        unsafe { [vdupq_n_f32(0.0); 2] }
    }
    #[inline(always)]
    fn sums8_store(self, sums: Self::Sums8) -> [f32; 8] {
        let mut out = [0.0; 8];
        for half in 0..2 {
            unsafe { vst1q_f32(out.as_mut_ptr().add(4 * half), sums[half]) }
        }
        out
    }
    #[inline(always)]
    fn q8_step(
        self,
        blocks: [&Q8Block; SUMS],
        x: BlockOperand<'_>,
        mut sums: Self::Sums8,
    ) -> Self::Sums8 {
        unsafe {
            let mut quants = [std::ptr::null(); SUMS];
            let mut halves = [[0; 2]; SUMS];
            for row in 0..SUMS {
                quants[row] = blocks[row].quants.as_ptr();
                halves[row] = blocks[row].scale;
            }
            let dots = integers::block_dots(quants, x.block);
            let scales = integers::widen_halves(&halves);
            for half in 0..2 {
                let scale = vmulq_n_f32(scales[half], x.block.scale);
                sums[half] = vfmaq_f32(sums[half], scale, vcvtq_f32_s32(dots[half]));
            }
            sums
        }
    }

    #[inline(always)]
    fn small_step<const MINIMUM: bool>(
        self,
        panel: &SmallPanel<SUMS>,
        offset: i32,
        x: BlockOperand<'_>,
        mut sums: Self::Sums8,
    ) -> Self::Sums8 {
        unsafe {
            let mut quants = [std::ptr::null(); SUMS];
            for row in 0..SUMS {
                quants[row] = panel.quants[row].as_ptr().cast();
            }
            let dots = integers::block_dots(quants, x.block);
            let correction = vdupq_n_s32(offset * x.block.sum);
            for half in 0..2 {
                let dots = vcvtq_f32_s32(vsubq_s32(dots[half], correction));
                let scales = vld1q_f32(panel.scales.as_ptr().add(4 * half));
                let scales = vmulq_n_f32(scales, x.block.scale);
                sums[half] = vfmaq_f32(sums[half], scales, dots);
                if MINIMUM {
                    let minima = vld1q_f32(panel.minima.as_ptr().add(4 * half));
                    let minima = vmulq_n_f32(minima, x.block.scale);
                    sums[half] = vfmaq_n_f32(sums[half], minima, x.block.sum as f32);
                }
            }
            sums
        }
    }
    #[inline(always)]
    fn superblock_step<const MINIMUM: bool, const T: usize>(
        self,
        panel: &superblocks::Panel,
        x: [&ActivationSuperblock; T],
        mut sums: [Self::Sums8; T],
    ) -> [Self::Sums8; T] {
        unsafe {
            let scale = integers::widen_halves(&panel.scale);
            let minimum = integers::widen_halves(&panel.minimum);
            for token in 0..T {
                let dots = integers::superblock_dots::<MINIMUM>(panel, x[token]);
                for half in 0..2 {
                    let sum = &mut sums[token][half];
                    let scales = vmulq_n_f32(scale[half], x[token].scale);
                    *sum = vfmaq_f32(*sum, scales, vcvtq_f32_s32(dots.products[half]));
                    if MINIMUM {
                        let minima = vmulq_n_f32(minimum[half], x[token].scale);
                        *sum = vfmsq_f32(*sum, minima, vcvtq_f32_s32(dots.corrections[half]));
                    }
                }
            }
            sums
        }
    }
    /// Its quants are signed for these instructions in any case.
    #[inline(always)]
    fn signed_superblock_step<const T: usize>(
        self,
        panel: &superblocks::Panel,
        x: [&ActivationSuperblock; T],
        sums: [Self::Sums8; T],
    ) -> [Self::Sums8; T] {
        self.superblock_step::<false, T>(panel, x, sums)
    }

    #[inline(always)]
    fn look_up(self, table: &[u8; 16], mut codes: [u8; BLOCK]) -> [u8; BLOCK] {
        unsafe {
            let table = vld1q_u8(table.as_ptr());
            for half in codes.as_chunks_mut::<16>().0 {
                let found = vqtbl1q_u8(table, vld1q_u8(half.as_ptr()));
                vst1q_u8(half.as_mut_ptr(), found);
            }
            codes
        }
    }

    #[inline(always)]
    fn pack(self, blocks: [&Q8Block; PACKED_ROWS], to: &mut Packed) {
        let mut quants = [std::ptr::null(); PACKED_ROWS];
        let mut scales = [[0; 2]; LANES];
        for row in 0..PACKED_ROWS {
            quants[row] = blocks[row].quants.as_ptr();
            scales[row] = blocks[row].scale;
        }
        to.scales = self.load_f16(&scales);
        unsafe { integers::pack::<I8MM>(quants, to) }
    }
    #[inline(always)]
    fn pack_unsigned(
        self,
        quants: &[[u8; BLOCK]; PACKED_ROWS],
        scales: &[f32; PACKED_ROWS],
        to: &mut Packed,
    ) {
        to.scales = self.load(scales);
        unsafe { integers::pack::<I8MM>(quants.each_ref().map(|row| row.as_ptr().cast()), to) }
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
            let dots = if I8MM {
                integers::packed_dots_by_matrices(packed, x)
            } else {
                integers::packed_dots(packed, x)
            };
            for token in 0..T {
                let correction = vdupq_n_s32(offset * x[token].block.sum);
                for part in 0..4 {
                    let dots = vcvtq_f32_s32(vsubq_s32(dots[token][part], correction));
                    let scales = vmulq_n_f32(packed.scales[part], x[token].block.scale);
                    sums[token][part] = vfmaq_f32(sums[token][part], scales, dots);
                }
            }
        }
    }
}
