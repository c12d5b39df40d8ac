//! Weight formats as blocks of elements, with the reference decoder and encoder of each.

use serde::{Deserialize, Serialize};

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
        if elements % per_block != 0 {
            return None;
        }
        (elements / per_block).checked_mul(self.block_bytes() as u64)
    }
}
