//! Weight formats as blocks of elements, with the reference decoder and encoder of each.

mod codec;

use serde::{Deserialize, Serialize};
use std::fmt;

/// How the elements of a tensor row are stored. A row is a whole number of blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[non_exhaustive]
pub enum BlockFormat {
    /// IEEE 754 binary32, little endian.
    F32,
    /// IEEE 754 binary16, little endian.
    F16,
    /// bfloat16, little endian: the upper half of a binary32.
    BF16,
    /// 32 elements: one binary16 scale, then 32 signed bytes; 34 bytes (ggml's `block_q8_0`).
    #[allow(non_camel_case_types)]
    Q8_0,
}

impl BlockFormat {
    /// Every format, in the order of declaration.
    pub const ALL: [Self; 4] = [Self::F32, Self::F16, Self::BF16, Self::Q8_0];

    /// Its name in manifests, headers and messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::BF16 => "BF16",
            Self::Q8_0 => "Q8_0",
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
            Self::Q8_0 => 32,
        }
    }

    /// Bytes in one block.
    pub const fn block_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
            Self::Q8_0 => 34,
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
