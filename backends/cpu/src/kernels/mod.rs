//! Fast kernels. Each is written once, over [`Simd`], and compiled for every kernel set; only the few primitives in
//! `portable`, `avx2`, `avx512` and `neon` differ. They reproduce `reference` bit for bit.

mod activations;
#[cfg(target_arch = "x86_64")]
mod along_rows;
#[cfg(target_arch = "x86_64")]
mod amx;
mod arranged;
mod attention;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx2_integers;
#[cfg(target_arch = "x86_64")]
mod avx2_stream;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod avx512_integers;
mod bytes;
mod elementwise;
mod float;
mod iq4;
#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(target_arch = "aarch64")]
mod neon_integers;
mod packed;
mod portable;
#[cfg(target_arch = "x86_64")]
mod processor;
mod product;
mod q8;
#[cfg(target_arch = "x86_64")]
mod row_lanes;
mod rows;
mod small_block_formats;
mod small_blocks;
#[cfg(target_arch = "x86_64")]
mod stream;
#[cfg(target_arch = "x86_64")]
mod stream_formats;
mod superblock_formats;
mod superblocks;
#[cfg(target_arch = "x86_64")]
mod transpose;
#[cfg(all(test, target_arch = "x86_64"))]
mod trials;
mod weighted_values;

pub use activations::{
    BlockRows, BlocksPart, QuantiseBlocks, QuantiseSuperblocks, SuperblockRows, SuperblocksPart,
};
pub use arranged::Order;
pub use attention::{AttentionSplit, KvHead, MergeSplit, SplitState, TILE_POSITIONS};
pub use elementwise::{
    AddGatedRow, AddInPlace, Choose, CombineRow, RmsNormRows, RotateHeads, SiluMul,
};
pub use product::{ActivationForm, Activations, OutRows, PANEL_ROWS, Product};

use crate::blocks::{BLOCK, Q8Block, SUB_BLOCKS};
use crate::kernel_set::KernelSet;
use crate::reference::LANES;
use activations::{ActivationBlock, ActivationSuperblock, BlockOperand};
use odmoe_formats::BlockFormat;
use portable::{Portable, widen_bf16, widen_f16};
use small_blocks::SmallPanel;
#[cfg(target_arch = "x86_64")]
use stream::{DOTS, Minima, StreamFormat};

/// Elements as they lie in memory, without alignment.
pub type Bytes2 = [u8; 2];
/// See [`Bytes2`].
pub type Bytes4 = [u8; 4];

/// Rows of weights in one packed panel of the integer kernels.
pub const PACKED_ROWS: usize = 16;
/// Rows of weights that one token is multiplied with at a time.
pub const SUMS: usize = 8;
/// Tokens that a panel of superblocks is multiplied with at a time.
const PANEL_TOKENS: usize = 4;

/// What differs between kernel sets. A value of the type is the proof that the machine has the instructions.
pub trait Simd: Copy + Send + Sync {
    /// Sixteen floats: the partial sums of `reference::dot`.
    type F: Copy;
    /// Eight running sums of eight rows of a quantised weight.
    type Sums8: Copy;
    /// Weights of one block of sixteen rows, rearranged so that rows lie in lanes.
    type Packed: Copy + Default + 'static;
    /// Whether there are registers for tiles of 4 rows x 4 tokens; else they are of 2 x 2.
    const LARGE_TILES: bool;
    /// From how many tokens on it pays to rearrange weights; `usize::MAX` where it never does.
    const PACK_FROM_TOKENS: usize;
    /// Whether there are [`Self::stream_dots`].
    #[cfg(target_arch = "x86_64")]
    const STREAMS: bool = false;
    /// What [`Self::pack`] adds to the quants.
    const Q8_OFFSET: i32;
    /// Whether products take the wider integers of [`BlockOperand`].
    const WIDE: bool = true;

    /// Runs a kernel, compiled with the set's instructions.
    fn run<K: Kernel>(self, kernel: K) -> K::Output;

    /// Takes a product, where the set has kernels for it that have rows of weights in lanes; else says so.
    #[inline(always)]
    fn rows_in_lanes(self, _product: &Product<'_>) -> bool {
        false
    }

    /// Sixteen times x.
    fn splat(self, x: f32) -> Self::F;
    /// Floats.
    fn load(self, x: &[f32; LANES]) -> Self::F;
    /// Binary32 from bytes.
    fn load_f32(self, x: &[Bytes4; LANES]) -> Self::F;
    /// Binary16 from bytes, widened exactly.
    fn load_f16(self, x: &[Bytes2; LANES]) -> Self::F;
    /// bfloat16 from bytes, widened exactly.
    fn load_bf16(self, x: &[Bytes2; LANES]) -> Self::F;
    /// The floats.
    fn store(self, x: Self::F, to: &mut [f32; LANES]);
    /// a * b + c with one rounding.
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// a * b.
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    /// The sum, by halves as `reference::reduce`.
    fn reduce(self, x: Self::F) -> f32;

    /// out\[t\]\[r\] = the sum of x\[r\]\[t\], by halves.
    #[inline(always)]
    #[allow(clippy::needless_range_loop)]
    fn reduce_tile(self, x: [[Self::F; 4]; 4]) -> [[f32; 4]; 4] {
        let mut sums = [[0.0; 4]; 4];
        for row in 0..4 {
            for token in 0..4 {
                sums[token][row] = self.reduce(x[row][token]);
            }
        }
        sums
    }
    /// A wish to have the cache line of this address soon. Any address will do.
    fn prefetch(self, address: *const u8);
    /// The same for a line that will be used later: near, but not in the innermost cache.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    fn prefetch_far(self, address: *const u8) {
        self.prefetch(address)
    }

    /// Eight sums of zero.
    fn sums8_zero(self) -> Self::Sums8;
    /// The sums.
    fn sums8_store(self, sums: Self::Sums8) -> [f32; 8];
    /// sums\[r\] += (blocks\[r\].scale * x.scale) * exact dot, fused.
    fn q8_step(
        self,
        blocks: [&Q8Block; SUMS],
        x: BlockOperand<'_>,
        sums: Self::Sums8,
    ) -> Self::Sums8;
    /// sums\[r\] += (scale of row r * x.scale) * exact dot, fused, with `offset` less in each quant; then, where there
    /// are minima, sums\[r\] += (minimum of row r * x.scale) * sum of x, fused.
    fn small_step<const MINIMUM: bool>(
        self,
        panel: &SmallPanel<SUMS>,
        offset: i32,
        x: BlockOperand<'_>,
        sums: Self::Sums8,
    ) -> Self::Sums8;
    /// The same with a superblock and T tokens: the exact dot includes the corrections, or these times the sums of x
    /// are what the minima are multiplied with.
    fn superblock_step<const MINIMUM: bool, const T: usize>(
        self,
        panel: &superblocks::Panel,
        x: [&ActivationSuperblock; T],
        sums: [Self::Sums8; T],
    ) -> [Self::Sums8; T];
    /// The same with signed quants, none of them -128, without corrections and minima.
    fn signed_superblock_step<const T: usize>(
        self,
        panel: &superblocks::Panel,
        x: [&ActivationSuperblock; T],
        sums: [Self::Sums8; T],
    ) -> [Self::Sums8; T];

    /// Number b * T + t: the exact products of block b, of `DOTS / T`, with x\[b\]\[t\], corrections included where there
    /// are no minima. Else writes the minima of each block.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    fn stream_dots<F: StreamFormat, const T: usize>(
        self,
        _blocks: &[F::Block],
        _x: &[[&ActivationSuperblock; T]],
        _minima: &mut [Minima],
    ) -> [f32; DOTS] {
        unreachable!("this set does not stream")
    }
    /// Number i: the exact product of these minima with the sums of the superblock beside them.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    fn stream_corrections<F: StreamFormat>(
        self,
        _operands: [(&Minima, &ActivationSuperblock); DOTS],
    ) -> [f32; DOTS] {
        unreachable!("this set does not stream")
    }

    /// Sums of eight quants each.
    #[inline(always)]
    fn sums_of_eight(self, quants: &[i8; BLOCK]) -> [i64; BLOCK / 8] {
        let mut sums = [0; BLOCK / 8];
        for (sum, quants) in sums.iter_mut().zip(quants.as_chunks::<8>().0) {
            *sum = quants.iter().map(|&quant| i64::from(quant)).sum();
        }
        sums
    }

    /// 16 in byte i where bit i is set, else 0.
    #[inline(always)]
    fn fifth_bits(self, bits: [u8; 4]) -> [u8; BLOCK] {
        let mut spread = [0; BLOCK];
        for (index, bits) in bits.into_iter().enumerate() {
            bytes::put(&mut spread, index, bytes::spread_bits(bits) << 4);
        }
        spread
    }
    /// The entry of each code, all below 16.
    #[inline(always)]
    fn look_up(self, table: &[u8; 16], codes: [u8; BLOCK]) -> [u8; BLOCK] {
        codes.map(|code| table[usize::from(code & 15)])
    }
    /// Each of eight bytes as two 16-bit integers.
    #[inline(always)]
    fn spread_bytes(self, bytes: u64, to: &mut [i16; SUB_BLOCKS]) {
        for (pair, byte) in to.chunks_exact_mut(2).zip(bytes.to_le_bytes()) {
            pair.fill(i16::from(byte));
        }
    }

    /// Rearranges one block of sixteen rows.
    fn pack(self, blocks: [&Q8Block; PACKED_ROWS], to: &mut Self::Packed);
    /// The same, with unsigned quants.
    fn pack_unsigned(
        self,
        quants: &[[u8; BLOCK]; PACKED_ROWS],
        scales: &[f32; PACKED_ROWS],
        to: &mut Self::Packed,
    );
    /// sums\[t\]\[r\] += (scale of row r * x\[t\].scale) * exact dot, fused, for sixteen rows and T tokens, with `offset`
    /// less in each quant.
    fn packed_step<const T: usize>(
        self,
        packed: &Self::Packed,
        offset: i32,
        x: [BlockOperand<'_>; T],
        sums: &mut [Self::F; T],
    );
}

/// Code to be compiled for every set.
///
/// Implementations of `call`, and every function under it that handles vectors or long loops, must be
/// `#[inline(always)]`: it is what lets the compiler use the set's instructions in them. A closure cannot be, so
/// vectors stay out of closures (`map`, `from_fn`): primitives would become calls there. Nor is `map` of an array used in
/// a loop that holds vectors: it may itself become a call, around which no register keeps what it holds.
pub trait Kernel {
    /// The result.
    type Output;
    /// Runs it.
    fn call<S: Simd>(self, simd: S) -> Self::Output;
}

/// The proof for one set, chosen at run time.
#[derive(Clone, Copy)]
pub enum Instructions {
    /// None needed.
    Portable(Portable),
    /// AVX2, FMA, F16C.
    #[cfg(target_arch = "x86_64")]
    Avx2(avx2::Avx2),
    /// AVX-512, with or without AMX.
    #[cfg(target_arch = "x86_64")]
    Avx512(avx512::Avx512),
    /// NEON with `dotprod`.
    #[cfg(target_arch = "aarch64")]
    Neon(neon::Neon<false>),
    /// NEON with `dotprod` and `i8mm`.
    #[cfg(target_arch = "aarch64")]
    NeonI8mm(neon::Neon<true>),
}

impl Instructions {
    /// What a kernel set needs; None where the machine lacks it.
    pub fn detect(set: KernelSet) -> Option<Self> {
        match set {
            KernelSet::Reference | KernelSet::Portable => Some(Self::Portable(Portable)),
            #[cfg(target_arch = "x86_64")]
            KernelSet::Avx2 => avx2::Avx2::detect().map(Self::Avx2),
            #[cfg(target_arch = "x86_64")]
            KernelSet::Avx512 => avx512::Avx512::detect().map(Self::Avx512),
            #[cfg(target_arch = "x86_64")]
            KernelSet::Amx => avx512::Avx512::detect_with_tiles().map(Self::Avx512),
            #[cfg(not(target_arch = "x86_64"))]
            KernelSet::Avx2 | KernelSet::Avx512 | KernelSet::Amx => None,
            #[cfg(target_arch = "aarch64")]
            KernelSet::Neon => neon::Neon::<true>::detect()
                .map(Self::NeonI8mm)
                .or_else(|| neon::Neon::<false>::detect().map(Self::Neon)),
            #[cfg(not(target_arch = "aarch64"))]
            KernelSet::Neon => None,
        }
    }

    /// In which order products of a few tokens with weights of that format want them, if not as they are.
    #[cfg_attr(not(target_arch = "x86_64"), expect(unused_variables))]
    pub fn order(self, format: BlockFormat) -> Option<Order> {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(_) => along_rows::order(format),
            _ => None,
        }
    }

    /// Runs a kernel.
    pub fn run<K: Kernel>(self, kernel: K) -> K::Output {
        match self {
            Self::Portable(simd) => simd.run(kernel),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(simd) => simd.run(kernel),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(simd) => simd.run(kernel),
            #[cfg(target_arch = "aarch64")]
            Self::Neon(simd) => simd.run(kernel),
            #[cfg(target_arch = "aarch64")]
            Self::NeonI8mm(simd) => simd.run(kernel),
        }
    }
}

/// An element type of weights, keys and values.
pub trait Element: bytemuck::Pod {
    /// Sixteen of them, widened exactly.
    fn load<S: Simd>(simd: S, x: &[Self; LANES]) -> S::F;
    /// This one, widened exactly.
    fn widen(self) -> f32;
}

/// Binary32.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(transparent)]
pub struct F32(Bytes4);

/// Binary16.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(transparent)]
pub struct F16(Bytes2);

/// bfloat16.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(transparent)]
pub struct Bf16(Bytes2);

impl Element for F32 {
    #[inline(always)]
    fn load<S: Simd>(simd: S, x: &[Self; LANES]) -> S::F {
        simd.load_f32(bytemuck::cast_ref(x))
    }
    #[inline(always)]
    fn widen(self) -> f32 {
        f32::from_le_bytes(self.0)
    }
}

impl Element for F16 {
    #[inline(always)]
    fn load<S: Simd>(simd: S, x: &[Self; LANES]) -> S::F {
        simd.load_f16(bytemuck::cast_ref(x))
    }
    #[inline(always)]
    fn widen(self) -> f32 {
        widen_f16(self.0)
    }
}

impl Element for Bf16 {
    #[inline(always)]
    fn load<S: Simd>(simd: S, x: &[Self; LANES]) -> S::F {
        simd.load_bf16(bytemuck::cast_ref(x))
    }
    #[inline(always)]
    fn widen(self) -> f32 {
        widen_bf16(self.0)
    }
}
