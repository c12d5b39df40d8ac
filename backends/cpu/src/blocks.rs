//! Blocks of quantised weights as they lie in memory, without alignment. The layouts are ggml's.
//!
//! Scales and minima are binary16, little endian. "Element" is the place in the row, counted from the block's first.

use bytemuck::{Pod, Zeroable};
#[cfg(target_arch = "x86_64")]
use odmoe_formats::BlockFormat;

/// Elements of a small block.
pub const BLOCK: usize = 32;
/// Elements of a superblock.
pub const SUPERBLOCK: usize = 256;
/// Sub-blocks of a superblock, 16 elements each. Formats with 8 use each scale for two.
pub const SUB_BLOCKS: usize = 16;

/// Bytes of a binary16.
pub type HalfBytes = [u8; 2];

/// Q8_0: 34 bytes.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct Q8Block {
    /// The unit of the quants.
    pub scale: HalfBytes,
    /// One an element.
    pub quants: [i8; BLOCK],
}

/// Q4_0 and IQ4_NL: 18 bytes.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct Q4Block {
    /// The unit of the quants.
    pub scale: HalfBytes,
    /// Elements i and i + 16 in the halves of byte i; of IQ4_NL a code of its table.
    pub quants: [u8; 16],
}

/// Q4_1: 20 bytes.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct Q4MinBlock {
    /// The unit of the quants.
    pub scale: HalfBytes,
    /// Added to every element.
    pub minimum: HalfBytes,
    /// As in [`Q4Block`].
    pub quants: [u8; 16],
}

/// Q5_0: 22 bytes.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct Q5Block {
    /// The unit of the quants.
    pub scale: HalfBytes,
    /// The fifth bit of element i is bit i.
    pub fifth: [u8; 4],
    /// As in [`Q4Block`].
    pub quants: [u8; 16],
}

/// Q5_1: 24 bytes.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct Q5MinBlock {
    /// The unit of the quants.
    pub scale: HalfBytes,
    /// Added to every element.
    pub minimum: HalfBytes,
    /// As in [`Q5Block`].
    pub fifth: [u8; 4],
    /// As in [`Q4Block`].
    pub quants: [u8; 16],
}

/// MXFP4: 17 bytes.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct Mxfp4Block {
    /// The unit of the floats is 2^(exponent - 127).
    pub exponent: u8,
    /// As in [`Q4Block`]; each a float of one sign, two exponent and one mantissa bits.
    pub quants: [u8; 16],
}

/// IQ4_XS: 136 bytes.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct Iq4XsBlock {
    /// The unit of the scales.
    pub scale: HalfBytes,
    /// The upper two bits of the scales of eight sub-blocks of 32.
    pub scales_high: [u8; 2],
    /// Their lower four bits.
    pub scales_low: [u8; 4],
    /// Sub-blocks one after another, each as in [`Q4Block`].
    pub quants: [u8; 128],
}

/// Q2_K: 84 bytes.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct Q2KBlock {
    /// Of each sub-block of 16: the scale in the lower half, the minimum in the upper.
    pub scales: [u8; 16],
    /// Element 128 p + 32 j + l in bits 2 j and 2 j + 1 of byte 32 p + l.
    pub quants: [u8; 64],
    /// The unit of the scales.
    pub scale: HalfBytes,
    /// The unit of the minima, which are subtracted.
    pub minimum: HalfBytes,
}

/// Q3_K: 110 bytes.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct Q3KBlock {
    /// The third bit of element 32 j + l is bit j of byte l.
    pub third: [u8; 32],
    /// As in [`Q2KBlock`].
    pub quants: [u8; 64],
    /// Sixteen 6-bit scales: the lower four bits in the halves of eight bytes, the upper two in the last four bytes.
    pub scales: [u8; 12],
    /// The unit of the scales.
    pub scale: HalfBytes,
}

/// Q4_K: 144 bytes.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct Q4KBlock {
    /// The unit of the scales.
    pub scale: HalfBytes,
    /// The unit of the minima, which are subtracted.
    pub minimum: HalfBytes,
    /// 6-bit scales and minima of eight sub-blocks of 32.
    pub scales: [u8; 12],
    /// Elements 64 p + l and 64 p + 32 + l in the halves of byte 32 p + l.
    pub quants: [u8; 128],
}

/// Q5_K: 176 bytes.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct Q5KBlock {
    /// The unit of the scales.
    pub scale: HalfBytes,
    /// The unit of the minima, which are subtracted.
    pub minimum: HalfBytes,
    /// As in [`Q4KBlock`].
    pub scales: [u8; 12],
    /// The fifth bit of element 32 j + l is bit j of byte l.
    pub fifth: [u8; 32],
    /// As in [`Q4KBlock`].
    pub quants: [u8; 128],
}

/// Q6_K: 210 bytes.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct Q6KBlock {
    /// The lower four bits. Elements 128 p + l and 128 p + 64 + l in the halves of byte 64 p + l, l below 64.
    pub low: [u8; 128],
    /// The upper two bits of element 128 p + 32 j + l in bits 2 j and 2 j + 1 of byte 32 p + l.
    pub high: [u8; 64],
    /// Of each sub-block of 16.
    pub scales: [i8; 16],
    /// The unit of the scales.
    pub scale: HalfBytes,
}

/// Blocks that may lie in lanes (`WeightLayout::Lanes16`).
#[cfg(target_arch = "x86_64")]
pub trait InLanes: Pod {
    /// A format that has such blocks; all that do lie alike.
    const FORMAT: BlockFormat;
}

#[cfg(target_arch = "x86_64")]
macro_rules! in_lanes {
    ($($block:ty: $format:ident),*) => {
        $(impl InLanes for $block {
            const FORMAT: BlockFormat = BlockFormat::$format;
        })*
        const _: () = { $(assert!(size_of::<$block>() == BlockFormat::$format.block_bytes());)* };
    };
}

#[cfg(target_arch = "x86_64")]
in_lanes!(
    Q8Block: Q8_0, Q4Block: Q4_0, Q4MinBlock: Q4_1, Q5Block: Q5_0, Q5MinBlock: Q5_1, Mxfp4Block: MXFP4,
    Iq4XsBlock: IQ4_XS, Q2KBlock: Q2_K, Q3KBlock: Q3_K, Q4KBlock: Q4_K, Q5KBlock: Q5_K, Q6KBlock: Q6_K
);
