//! ggml's tensor types: every one that has a number, so that one without a decoder here can still be measured and named.

use crate::BlockFormat;
use std::fmt;

/// A tensor type of ggml. Compared and hashed by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GgmlType {
    id: u32,
    name: &'static str,
    block_elements: u32,
    block_bytes: u32,
}

const fn known(id: u32, name: &'static str, block_elements: u32, block_bytes: u32) -> GgmlType {
    GgmlType {
        id,
        name,
        block_elements,
        block_bytes,
    }
}

/// Ascending by number. The numbers that are missing were taken back by ggml.
const TYPES: [GgmlType; 35] = [
    known(0, "F32", 1, 4),
    known(1, "F16", 1, 2),
    known(2, "Q4_0", 32, 18),
    known(3, "Q4_1", 32, 20),
    known(6, "Q5_0", 32, 22),
    known(7, "Q5_1", 32, 24),
    known(8, "Q8_0", 32, 34),
    known(9, "Q8_1", 32, 36),
    known(10, "Q2_K", 256, 84),
    known(11, "Q3_K", 256, 110),
    known(12, "Q4_K", 256, 144),
    known(13, "Q5_K", 256, 176),
    known(14, "Q6_K", 256, 210),
    known(15, "Q8_K", 256, 292),
    known(16, "IQ2_XXS", 256, 66),
    known(17, "IQ2_XS", 256, 74),
    known(18, "IQ3_XXS", 256, 98),
    known(19, "IQ1_S", 256, 50),
    known(20, "IQ4_NL", 32, 18),
    known(21, "IQ3_S", 256, 110),
    known(22, "IQ2_S", 256, 82),
    known(23, "IQ4_XS", 256, 136),
    known(24, "I8", 1, 1),
    known(25, "I16", 1, 2),
    known(26, "I32", 1, 4),
    known(27, "I64", 1, 8),
    known(28, "F64", 1, 8),
    known(29, "IQ1_M", 256, 56),
    known(30, "BF16", 1, 2),
    known(34, "TQ1_0", 256, 54),
    known(35, "TQ2_0", 256, 66),
    known(39, "MXFP4", 32, 17),
    known(40, "NVFP4", 64, 36),
    known(41, "Q1_0", 128, 18),
    known(42, "Q2_0", 64, 18),
];

impl GgmlType {
    /// The type of a number; None where ggml has none, or has it no longer.
    pub fn from_id(id: u32) -> Option<Self> {
        TYPES.into_iter().find(|known| known.id == id)
    }

    /// The number in files.
    pub const fn id(self) -> u32 {
        self.id
    }

    /// ggml's name, in upper case.
    pub const fn name(self) -> &'static str {
        self.name
    }

    /// The format that this build can decode; None for the others.
    pub fn block_format(self) -> Option<BlockFormat> {
        BlockFormat::from_name(self.name)
    }

    /// Bytes of a tensor, rows first and the elements of a row last. None when the shape is empty, when a row is not
    /// whole blocks, or when the product overflows.
    pub fn tensor_bytes(self, shape: &[u64]) -> Option<u64> {
        let (columns, rows) = shape.split_last()?;
        let per_block = u64::from(self.block_elements);
        if !columns.is_multiple_of(per_block) {
            return None;
        }
        let row_bytes = (columns / per_block).checked_mul(self.block_bytes.into())?;
        rows.iter()
            .try_fold(row_bytes, |bytes, rows| bytes.checked_mul(*rows))
    }
}

impl From<BlockFormat> for GgmlType {
    fn from(format: BlockFormat) -> Self {
        let same = |known: &Self| known.name == format.name();
        let found = TYPES.into_iter().find(same);
        found.expect("every block format is a type of ggml")
    }
}

impl fmt::Display for GgmlType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_block_format_has_its_type_with_the_same_blocks() {
        for format in BlockFormat::ALL {
            let kind = GgmlType::from(format);
            assert_eq!(kind.block_format(), Some(format));
            assert_eq!(GgmlType::from_id(kind.id()), Some(kind));
            assert_eq!(kind.tensor_bytes(&[3, 512]), format.tensor_bytes(&[3, 512]));
        }
        assert!(TYPES.is_sorted_by(|a, b| a.id < b.id));
    }

    #[test]
    fn other_types_are_named_and_measured() {
        let kind = GgmlType::from_id(17).unwrap();
        assert_eq!(
            (kind.to_string().as_str(), kind.block_format()),
            ("IQ2_XS", None)
        );
        assert_eq!(kind.tensor_bytes(&[2, 512]), Some(4 * 74));
        assert_eq!(kind.tensor_bytes(&[2, 100]), None);
        assert_eq!(kind.tensor_bytes(&[u64::MAX, 512]), None);
        assert_eq!((GgmlType::from_id(4), GgmlType::from_id(43)), (None, None));
    }
}
