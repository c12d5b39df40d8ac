//! Primitives in plain Rust, in a form that compilers vectorise.

use super::{
    ActivationSuperblock, BlockOperand, Bytes2, Bytes4, Kernel, PACKED_ROWS, SUMS, Simd,
    SmallPanel, superblocks,
};
use crate::blocks::{BLOCK, Q8Block};
use crate::reference::{LANES, reduce};

/// Needs nothing.
#[derive(Clone, Copy)]
pub struct Portable;

impl Simd for Portable {
    type F = [f32; LANES];
    type Sums8 = [f32; 8];
    type Packed = ();
    const LARGE_TILES: bool = false;
    const PACK_FROM_TOKENS: usize = usize::MAX;
    const Q8_OFFSET: i32 = 0;

    fn run<K: Kernel>(self, kernel: K) -> K::Output {
        kernel.call(self)
    }

    #[inline(always)]
    fn splat(self, x: f32) -> [f32; LANES] {
        [x; LANES]
    }
    #[inline(always)]
    fn load(self, x: &[f32; LANES]) -> [f32; LANES] {
        *x
    }
    #[inline(always)]
    fn load_f32(self, x: &[Bytes4; LANES]) -> [f32; LANES] {
        x.map(f32::from_le_bytes)
    }
    #[inline(always)]
    fn load_f16(self, x: &[Bytes2; LANES]) -> [f32; LANES] {
        x.map(widen_f16)
    }
    #[inline(always)]
    fn load_bf16(self, x: &[Bytes2; LANES]) -> [f32; LANES] {
        x.map(widen_bf16)
    }
    #[inline(always)]
    fn store(self, x: [f32; LANES], to: &mut [f32; LANES]) {
        *to = x;
    }
    #[inline(always)]
    fn fma(self, a: [f32; LANES], b: [f32; LANES], c: [f32; LANES]) -> [f32; LANES] {
        std::array::from_fn(|lane| a[lane].mul_add(b[lane], c[lane]))
    }
    #[inline(always)]
    fn mul(self, a: [f32; LANES], b: [f32; LANES]) -> [f32; LANES] {
        std::array::from_fn(|lane| a[lane] * b[lane])
    }
    #[inline(always)]
    fn reduce(self, x: [f32; LANES]) -> f32 {
        reduce(x)
    }

    #[inline(always)]
    fn prefetch(self, _address: *const u8) {}

    #[inline(always)]
    fn sums8_zero(self) -> [f32; 8] {
        [0.0; 8]
    }
    #[inline(always)]
    fn sums8_store(self, sums: [f32; 8]) -> [f32; 8] {
        sums
    }
    #[inline(always)]
    fn q8_step(self, blocks: [&Q8Block; 8], x: BlockOperand<'_>, sums: [f32; 8]) -> [f32; 8] {
        std::array::from_fn(|row| {
            let products = blocks[row]
                .quants
                .iter()
                .zip(x.wide)
                .map(|(&w, &x)| i32::from(w) * i32::from(x));
            let scale = widen_f16(blocks[row].scale) * x.block.scale;
            scale.mul_add(products.sum::<i32>() as f32, sums[row])
        })
    }

    #[inline(always)]
    fn small_step<const MINIMUM: bool>(
        self,
        panel: &SmallPanel<SUMS>,
        offset: i32,
        x: BlockOperand<'_>,
        mut sums: [f32; SUMS],
    ) -> [f32; SUMS] {
        for (row, sum) in sums.iter_mut().enumerate() {
            let dot = dot(&panel.quants[row], x.wide) - offset * x.block.sum;
            *sum = (panel.scales[row] * x.block.scale).mul_add(dot as f32, *sum);
            if MINIMUM {
                let minimum = panel.minima[row] * x.block.scale;
                *sum = minimum.mul_add(x.block.sum as f32, *sum);
            }
        }
        sums
    }
    #[inline(always)]
    fn superblock_step<const MINIMUM: bool, const T: usize>(
        self,
        panel: &superblocks::Panel,
        x: [&ActivationSuperblock; T],
        mut sums: [[f32; SUMS]; T],
    ) -> [[f32; SUMS]; T] {
        for (sums, x) in sums.iter_mut().zip(x) {
            for (row, sum) in sums.iter_mut().enumerate() {
                let (mut products, mut corrections) = (0, 0);
                let parts = panel.quants[row].as_chunks::<16>().0.iter();
                for (s, (quants, x_quants)) in parts.zip(x.quants.as_chunks::<16>().0).enumerate() {
                    products +=
                        i32::from(panel.scales[row][s]) * dot(quants, &x_quants.map(i16::from));
                    corrections += i32::from(panel.corrections[row][s]) * i32::from(x.sums[s]);
                }
                if !MINIMUM {
                    products += corrections;
                }
                let scale = widen_f16(panel.scale[row]) * x.scale;
                *sum = scale.mul_add(products as f32, *sum);
                if MINIMUM {
                    let minimum = -(widen_f16(panel.minimum[row]) * x.scale);
                    *sum = minimum.mul_add(corrections as f32, *sum);
                }
            }
        }
        sums
    }

    #[inline(always)]
    fn signed_superblock_step<const T: usize>(
        self,
        panel: &superblocks::Panel,
        x: [&ActivationSuperblock; T],
        mut sums: [[f32; SUMS]; T],
    ) -> [[f32; SUMS]; T] {
        for (sums, x) in sums.iter_mut().zip(x) {
            for (row, sum) in sums.iter_mut().enumerate() {
                let mut products = 0;
                let quants: &[[i8; 16]] = bytemuck::cast_slice(&panel.quants[row]);
                for (s, (quants, x)) in quants.iter().zip(x.quants.as_chunks::<16>().0).enumerate()
                {
                    let dot = quants.iter().zip(x);
                    let dot: i32 = dot.map(|(&w, &x)| i32::from(w) * i32::from(x)).sum();
                    products += i32::from(panel.scales[row][s]) * dot;
                }
                let scale = widen_f16(panel.scale[row]) * x.scale;
                *sum = scale.mul_add(products as f32, *sum);
            }
        }
        sums
    }

    #[inline(always)]
    fn pack(self, _blocks: [&Q8Block; PACKED_ROWS], (): &mut ()) {
        unreachable!("the portable set does not rearrange weights")
    }
    #[inline(always)]
    fn pack_unsigned(
        self,
        _quants: &[[u8; BLOCK]; PACKED_ROWS],
        _scales: &[f32; PACKED_ROWS],
        (): &mut (),
    ) {
        unreachable!("the portable set does not rearrange weights")
    }
    #[inline(always)]
    fn packed_step<const T: usize>(
        self,
        (): &(),
        _offset: i32,
        _x: [BlockOperand<'_>; T],
        _sums: &mut [[f32; LANES]; T],
    ) {
        unreachable!("the portable set does not rearrange weights")
    }
}

/// The integer dot.
#[inline(always)]
fn dot<const N: usize>(weights: &[u8; N], x: &[i16; N]) -> i32 {
    let products = weights.iter().zip(x);
    products.map(|(&w, &x)| i32::from(w) * i32::from(x)).sum()
}

/// bfloat16 to binary32: its upper half.
#[inline(always)]
pub fn widen_bf16(bytes: Bytes2) -> f32 {
    f32::from_bits(u32::from(u16::from_le_bytes(bytes)) << 16)
}

/// Binary16 to binary32, without branches.
///
/// The exponent and mantissa move to their places in binary32, where the exponent is short by 112: a product with
/// 2^112 sets it right, and normalises denormals. Infinity and NaN get the largest exponent.
#[inline(always)]
pub fn widen_f16(bytes: Bytes2) -> f32 {
    let half = u16::from_le_bytes(bytes);
    const TWO_TO_112: f32 = f32::from_bits((112 + 127) << 23);
    let magnitude = (u32::from(half) & 0x7fff) << 13;
    let sign = (u32::from(half) & 0x8000) << 16;
    let scaled = (f32::from_bits(magnitude) * TWO_TO_112).to_bits();
    let special = if magnitude >= 31 << 23 { 0xff << 23 } else { 0 };
    f32::from_bits(scaled | special | sign)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_binary16_is_widened_exactly() {
        for bits in 0..=u16::MAX {
            let expected = half::f16::from_bits(bits).to_f32();
            let actual = widen_f16(bits.to_le_bytes());
            assert!(
                actual.to_bits() == expected.to_bits() || (actual.is_nan() && expected.is_nan()),
                "{bits:#x}"
            );
        }
    }
}
