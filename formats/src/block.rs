//! Weight formats as blocks of elements, with the reference decoder and encoder of each.

mod codec;
mod layout;

pub use layout::{LANES, WeightLayout, row_of_lanes, rows_of_lanes, to_lanes};

use serde::{Deserialize, Serialize};
use std::fmt;

/// How the elements of a tensor row are stored. A row is a whole number of blocks.
///
/// Formats other than floats have ggml's bytes; `docs/store.md` gives their layouts and formulas. Any matrix may have
/// any of them where its rows are whole blocks; norms are F32, and routers floats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[non_exhaustive]
pub enum BlockFormat {
    /// IEEE 754 binary32, little endian.
    F32,
    /// IEEE 754 binary16, little endian.
    F16,
    /// bfloat16, little endian: the upper half of a binary32.
    BF16,
    /// 32 elements: one binary16 scale, then 32 signed bytes; 34 bytes.
    #[allow(non_camel_case_types)]
    Q8_0,
    /// 32 elements: a binary16 scale, then 4-bit quants with an offset of 8; 18 bytes.
    #[allow(non_camel_case_types)]
    Q4_0,
    /// 32 elements: a binary16 scale and minimum, then 4-bit quants; 20 bytes.
    #[allow(non_camel_case_types)]
    Q4_1,
    /// 32 elements: a binary16 scale, the fifth bits, then the lower four; offset 16; 22 bytes.
    #[allow(non_camel_case_types)]
    Q5_0,
    /// 32 elements: a binary16 scale and minimum, the fifth bits, then the lower four; 24 bytes.
    #[allow(non_camel_case_types)]
    Q5_1,
    /// 256 elements in 16 sub-blocks of 2-bit quants, with 4-bit scales and minima; 84 bytes.
    #[allow(non_camel_case_types)]
    Q2_K,
    /// 256 elements in 16 sub-blocks of 3-bit quants, with 6-bit scales; 110 bytes.
    #[allow(non_camel_case_types)]
    Q3_K,
    /// 256 elements in 8 sub-blocks of 4-bit quants, with 6-bit scales and minima; 144 bytes.
    #[allow(non_camel_case_types)]
    Q4_K,
    /// 256 elements in 8 sub-blocks of 5-bit quants, with 6-bit scales and minima; 176 bytes.
    #[allow(non_camel_case_types)]
    Q5_K,
    /// 256 elements in 16 sub-blocks of 6-bit quants, with 8-bit scales; 210 bytes.
    #[allow(non_camel_case_types)]
    Q6_K,
    /// 32 elements: an 8-bit exponent, then 4-bit floats (E2M1); 17 bytes.
    MXFP4,
    /// 32 elements: a binary16 scale, then 4-bit codes of a table of 16 values; 18 bytes.
    #[allow(non_camel_case_types)]
    IQ4_NL,
    /// 256 elements in 8 sub-blocks of codes of the same table, with 6-bit scales; 136 bytes.
    #[allow(non_camel_case_types)]
    IQ4_XS,
}

impl BlockFormat {
    /// Every format, in the order of declaration.
    pub const ALL: [Self; 16] = [
        Self::F32,
        Self::F16,
        Self::BF16,
        Self::Q8_0,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q2_K,
        Self::Q3_K,
        Self::Q4_K,
        Self::Q5_K,
        Self::Q6_K,
        Self::MXFP4,
        Self::IQ4_NL,
        Self::IQ4_XS,
    ];

    /// Its name in manifests, headers and messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::BF16 => "BF16",
            Self::Q8_0 => "Q8_0",
            Self::Q4_0 => "Q4_0",
            Self::Q4_1 => "Q4_1",
            Self::Q5_0 => "Q5_0",
            Self::Q5_1 => "Q5_1",
            Self::Q2_K => "Q2_K",
            Self::Q3_K => "Q3_K",
            Self::Q4_K => "Q4_K",
            Self::Q5_K => "Q5_K",
            Self::Q6_K => "Q6_K",
            Self::MXFP4 => "MXFP4",
            Self::IQ4_NL => "IQ4_NL",
            Self::IQ4_XS => "IQ4_XS",
        }
    }

    /// The format of that name, in upper case.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.name() == name)
    }

    /// Whether each element stands alone, as opposed to sharing a scale with its block.
    pub const fn is_float(self) -> bool {
        matches!(self, Self::F32 | Self::F16 | Self::BF16)
    }

    /// Elements in one block.
    pub const fn block_elements(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::BF16 => 1,
            Self::Q8_0 | Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 => 32,
            Self::MXFP4 | Self::IQ4_NL => 32,
            Self::Q2_K | Self::Q3_K | Self::Q4_K | Self::Q5_K | Self::Q6_K => 256,
            Self::IQ4_XS => 256,
        }
    }

    /// Bytes in one block.
    pub const fn block_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
            Self::Q8_0 => 34,
            Self::Q4_0 => 18,
            Self::Q4_1 => 20,
            Self::Q5_0 => 22,
            Self::Q5_1 => 24,
            Self::Q2_K => 84,
            Self::Q3_K => 110,
            Self::Q4_K => 144,
            Self::Q5_K => 176,
            Self::Q6_K => 210,
            Self::MXFP4 => 17,
            Self::IQ4_NL => 18,
            Self::IQ4_XS => 136,
        }
    }

    /// Bytes of a row of `elements`, or None when they are not whole blocks or the sum overflows.
    pub fn row_bytes(self, elements: u64) -> Option<u64> {
        let per_block = self.block_elements() as u64;
        if !elements.is_multiple_of(per_block) {
            return None;
        }
        (elements / per_block).checked_mul(self.block_bytes() as u64)
    }

    /// Bytes of a tensor, rows first and the elements of a row last. None when the shape is empty, when a row is not
    /// whole blocks, or when the product overflows. A dimension of 0 gives 0.
    pub fn tensor_bytes(self, shape: &[u64]) -> Option<u64> {
        let (columns, rows) = shape.split_last()?;
        let row_bytes = self.row_bytes(*columns)?;
        rows.iter()
            .try_fold(row_bytes, |bytes, rows| bytes.checked_mul(*rows))
    }
}

impl fmt::Display for BlockFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
