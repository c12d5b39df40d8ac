//! Operands as kernels see them: slices with shapes.

use bytemuck::Pod;
#[cfg(target_arch = "x86_64")]
use odmoe_formats::block::LANES;
use odmoe_formats::block::row_of_lanes;
use odmoe_formats::{BlockFormat, WeightLayout};
use std::borrow::Cow;
use std::ops::Range;

/// A weight matrix [rows, columns] as bytes.
#[derive(Clone, Copy)]
pub struct WeightView<'a> {
    /// Exactly `rows` rows.
    bytes: &'a [u8],
    /// How elements are stored.
    pub format: BlockFormat,
    /// In which order its blocks lie.
    pub layout: WeightLayout,
    /// Output width, N.
    pub rows: usize,
    /// Input width, a whole number of blocks.
    pub columns: usize,
    row_bytes: usize,
}

impl<'a> WeightView<'a> {
    /// The row-major matrix that starts at `bytes[offset]`. Panics where it does not fit or is not whole blocks.
    pub fn new(
        bytes: &'a [u8],
        offset: usize,
        format: BlockFormat,
        rows: usize,
        columns: usize,
    ) -> Self {
        let row_bytes = format
            .row_bytes(columns as u64)
            .and_then(|bytes| usize::try_from(bytes).ok());
        let row_bytes = row_bytes
            .unwrap_or_else(|| panic!("{columns} columns are not whole blocks of {format:?}"));
        let end = row_bytes
            .checked_mul(rows)
            .and_then(|bytes| bytes.checked_add(offset));
        assert!(
            end.is_some_and(|end| end <= bytes.len()),
            "a {rows} x {columns} {format:?} weight at {offset} leaves its buffer of {} bytes",
            bytes.len()
        );
        Self {
            bytes: &bytes[offset..offset + row_bytes * rows],
            format,
            layout: WeightLayout::RowMajor,
            rows,
            columns,
            row_bytes,
        }
    }

    /// The same matrix in that layout. Panics where it cannot have it.
    pub fn in_layout(self, layout: WeightLayout) -> Self {
        assert_eq!(
            layout.of_matrix(self.format, self.rows as u64),
            layout,
            "{} rows of {}",
            self.rows,
            self.format
        );
        Self { layout, ..self }
    }

    /// Bytes of a row.
    #[inline(always)]
    pub fn row_bytes(&self) -> usize {
        self.row_bytes
    }

    /// The bytes of one row as its format defines it, whatever the layout. Copies where rows do not lie by themselves.
    pub fn any_row(&self, row: usize) -> Cow<'a, [u8]> {
        match self.layout {
            WeightLayout::RowMajor => Cow::Borrowed(self.row(row)),
            WeightLayout::Lanes16 => {
                let mut bytes = vec![0; self.row_bytes];
                row_of_lanes(
                    self.format,
                    self.columns as u64,
                    self.bytes,
                    row,
                    &mut bytes,
                );
                Cow::Owned(bytes)
            }
            other => panic!("the CPU backend has no layout {other}"),
        }
    }

    /// The bytes of rows in lanes as so many blocks of the format, group after group. `rows` are whole groups.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    pub fn groups<B: Pod>(&self, rows: Range<usize>) -> &'a [[B; LANES]] {
        debug_assert_eq!(size_of::<B>(), self.format.block_bytes());
        assert_eq!(self.layout, WeightLayout::Lanes16);
        assert!(rows.start.is_multiple_of(LANES) && rows.end.is_multiple_of(LANES));
        bytemuck::cast_slice(&self.bytes[rows.start * self.row_bytes..rows.end * self.row_bytes])
    }

    /// The bytes of one row of a row-major matrix.
    #[inline(always)]
    pub fn row(&self, row: usize) -> &'a [u8] {
        debug_assert_eq!(self.layout, WeightLayout::RowMajor);
        &self.bytes[row * self.row_bytes..][..self.row_bytes]
    }

    /// One row as blocks of its format.
    #[inline(always)]
    pub fn blocks<B: Pod>(&self, row: usize) -> &'a [B] {
        debug_assert_eq!(size_of::<B>(), self.format.block_bytes());
        bytemuck::cast_slice(self.row(row))
    }

    /// Some rows, one after another, as blocks of its format.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    pub fn rows_of_blocks<B: Pod>(&self, rows: Range<usize>) -> &'a [B] {
        debug_assert_eq!(size_of::<B>(), self.format.block_bytes());
        bytemuck::cast_slice(&self.bytes[rows.start * self.row_bytes..rows.end * self.row_bytes])
    }

    /// All elements of an F32 weight. Copies only where the bytes are not aligned.
    pub fn as_f32(&self) -> Cow<'a, [f32]> {
        assert_eq!(
            self.format,
            BlockFormat::F32,
            "weights of norms and biases are F32"
        );
        match bytemuck::try_cast_slice(self.bytes) {
            Ok(elements) => Cow::Borrowed(elements),
            Err(_) => Cow::Owned(self.bytes.chunks_exact(4).map(read_f32).collect()),
        }
    }
}

/// The float that four little-endian bytes hold.
#[inline(always)]
pub fn read_f32(bytes: &[u8]) -> f32 {
    f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

/// One layer of a KV cache: `[blocks][key, value][G][block_tokens][D]`.
#[derive(Clone, Copy, Debug)]
pub struct KvLayout {
    /// Blocks in all.
    pub blocks: usize,
    /// G.
    pub kv_heads: usize,
    /// Tokens in one block.
    pub block_tokens: usize,
    /// D.
    pub head_dim: usize,
}

/// Which half of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvHalf {
    /// The keys.
    Key = 0,
    /// The values.
    Value = 1,
}

impl KvLayout {
    /// Rows [D] of the layer.
    pub fn rows(&self) -> usize {
        self.blocks * 2 * self.kv_heads * self.block_tokens
    }

    /// The row of one token's key or value. Panics out of bounds.
    #[inline(always)]
    pub fn row(&self, half: KvHalf, block: usize, head: usize, offset: usize) -> usize {
        assert!(block < self.blocks, "KV block {block} of {}", self.blocks);
        assert!(
            offset < self.block_tokens,
            "offset {offset} in a KV block of {}",
            self.block_tokens
        );
        ((block * 2 + half as usize) * self.kv_heads + head) * self.block_tokens + offset
    }
}
