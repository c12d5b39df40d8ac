//! Products of Q8_0 rows with quantised activations.

use super::{PACKED_ROWS, Simd};
use crate::reference::quantise_block;
use crate::view::{Q8_ELEMENTS, Q8Block};

/// 32 quantised activations.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct ActivationBlock {
    /// The integers.
    pub quants: [i8; Q8_ELEMENTS],
    /// Their unit.
    pub scale: f32,
    /// -128 times their sum, for sets that multiply with unsigned weights.
    pub offset: i32,
}

/// A block of activations, as integers of both widths: each set takes the one that its instructions want.
#[derive(Clone, Copy)]
pub struct BlockOperand<'a> {
    /// The block.
    pub block: &'a ActivationBlock,
    /// Its integers, wider.
    pub wide: &'a [i16; Q8_ELEMENTS],
}

/// Rows of quantised activations. Grown, never shrunk.
#[derive(Default)]
pub struct QuantisedRows {
    blocks_a_row: usize,
    blocks: Vec<ActivationBlock>,
    wide: Vec<[i16; Q8_ELEMENTS]>,
}

/// The part of [`QuantisedRows`] that one chunk of a parallel loop fills.
pub struct QuantisedPart<'a> {
    /// See [`BlockOperand`].
    pub blocks: &'a mut [ActivationBlock],
    /// See [`BlockOperand`].
    pub wide: &'a mut [[i16; Q8_ELEMENTS]],
}

impl QuantisedRows {
    /// Makes room for `rows` of `columns` and hands it out.
    pub fn prepare(&mut self, rows: usize, columns: usize) -> QuantisedPart<'_> {
        assert!(
            columns.is_multiple_of(Q8_ELEMENTS),
            "{columns} columns are not whole blocks of Q8_0"
        );
        self.blocks_a_row = columns / Q8_ELEMENTS;
        let blocks = rows * self.blocks_a_row;
        if self.blocks.len() < blocks {
            let empty = ActivationBlock {
                quants: [0; Q8_ELEMENTS],
                scale: 0.0,
                offset: 0,
            };
            self.blocks.resize(blocks, empty);
            self.wide.resize(blocks, [0; Q8_ELEMENTS]);
        }
        QuantisedPart {
            blocks: &mut self.blocks[..blocks],
            wide: &mut self.wide[..blocks],
        }
    }

    /// One row.
    #[inline(always)]
    fn row(&self, row: usize) -> Operand<'_> {
        let range = row * self.blocks_a_row..(row + 1) * self.blocks_a_row;
        Operand {
            blocks: &self.blocks[range.clone()],
            wide: &self.wide[range],
        }
    }
}

/// Quantises x [rows, columns] into a part of the same shape.
#[inline(always)]
pub fn quantise(x: &[f32], to: QuantisedPart<'_>) {
    let (x, rest) = x.as_chunks::<Q8_ELEMENTS>();
    assert!(rest.is_empty() && x.len() == to.blocks.len() && x.len() == to.wide.len());
    for ((x, block), wide) in x.iter().zip(to.blocks).zip(to.wide) {
        block.scale = quantise_block(x, &mut block.quants);
        let mut sum = 0;
        for (quant, wide) in block.quants.iter().zip(wide) {
            *wide = i16::from(*quant);
            sum += i32::from(*quant);
        }
        block.offset = -128 * sum;
    }
}

#[derive(Clone, Copy)]
struct Operand<'a> {
    blocks: &'a [ActivationBlock],
    wide: &'a [[i16; Q8_ELEMENTS]],
}

impl<'a> Operand<'a> {
    #[inline(always)]
    fn first(self, blocks: usize) -> Self {
        Self {
            blocks: &self.blocks[..blocks],
            wide: &self.wide[..blocks],
        }
    }

    #[inline(always)]
    fn block(self, block: usize) -> BlockOperand<'a> {
        BlockOperand {
            block: &self.blocks[block],
            wide: &self.wide[block],
        }
    }
}

/// Every product of weight rows with rows `tokens` of x; `emit(token, row, sums)` gets consecutive rows of one token.
///
/// Where there are many tokens, weights are rearranged, sixteen rows at a time. Both ways add the same integers
/// exactly and then do the same one fused multiply-add a block, in ascending order of blocks.
#[inline(always)]
pub fn products<'a, S: Simd>(
    simd: S,
    rows: usize,
    weight: impl Fn(usize) -> &'a [Q8Block],
    x: &QuantisedRows,
    tokens: &[u32],
    mut emit: impl FnMut(usize, usize, &[f32]),
) {
    let pack = tokens.len() >= S::PACK_FROM_TOKENS;
    let mut packed = Vec::new();
    let mut row = 0;
    while row < rows {
        let left = rows - row;
        if pack && left >= PACKED_ROWS {
            pack_rows(simd, gather(&weight, row, PACKED_ROWS), &mut packed);
            packed_products(simd, &packed, x, tokens, |token, sums| {
                emit(token, row, sums)
            });
            row += PACKED_ROWS;
        } else {
            let height = left.min(8);
            let group = gather(&weight, row, height);
            for (token, &x_row) in tokens.iter().enumerate() {
                let sums = product8(simd, group, x.row(x_row as usize));
                emit(token, row, &sums[..height]);
            }
            row += height;
        }
    }
}

/// `height` rows, then copies of the first in place of those that are missing.
#[inline(always)]
fn gather<'a, const N: usize>(
    row: &impl Fn(usize) -> &'a [Q8Block],
    first: usize,
    height: usize,
) -> [&'a [Q8Block]; N] {
    let mut rows = [row(first); N];
    for (offset, to) in rows.iter_mut().enumerate().take(height).skip(1) {
        *to = row(first + offset);
    }
    rows
}

/// Block `index` of each row.
#[inline(always)]
fn blocks_at<'a, const N: usize>(rows: &[&'a [Q8Block]; N], index: usize) -> [&'a Q8Block; N] {
    let mut blocks = [&rows[0][index]; N];
    for (to, row) in blocks.iter_mut().zip(rows) {
        *to = &row[index];
    }
    blocks
}

#[inline(always)]
fn product8<S: Simd>(simd: S, mut rows: [&[Q8Block]; 8], x: Operand<'_>) -> [f32; 8] {
    let blocks = rows[0].len();
    for row in &mut rows {
        *row = &row[..blocks];
    }
    let x = x.first(blocks);
    let mut sums = simd.sums8_zero();
    for block in 0..blocks {
        // The next eight rows follow these. They are eight short streams to the machine's own prefetcher, which has
        // hardly started on one when it ends.
        if block % 2 == 0 {
            for row in &rows {
                simd.prefetch(row.as_ptr().wrapping_add(8 * blocks + block).cast());
            }
        }
        sums = simd.q8_step(blocks_at(&rows, block), x.block(block), sums);
    }
    simd.sums8_store(sums)
}

#[inline(always)]
fn pack_rows<S: Simd>(simd: S, mut rows: [&[Q8Block]; PACKED_ROWS], packed: &mut Vec<S::Packed>) {
    let blocks = rows[0].len();
    for row in &mut rows {
        *row = &row[..blocks];
    }
    packed.resize(blocks, S::Packed::default());
    for (block, to) in packed.iter_mut().enumerate() {
        simd.pack(blocks_at(&rows, block), to);
    }
}

#[inline(always)]
fn packed_products<S: Simd>(
    simd: S,
    packed: &[S::Packed],
    x: &QuantisedRows,
    tokens: &[u32],
    mut emit: impl FnMut(usize, &[f32]),
) {
    let mut token = 0;
    while token + 4 <= tokens.len() {
        let mut operands = [x.row(tokens[token] as usize); 4];
        for t in 1..4 {
            operands[t] = x.row(tokens[token + t] as usize);
        }
        let sums = packed_tile(simd, packed, operands);
        for (t, sums) in sums.iter().enumerate() {
            emit(token + t, sums);
        }
        token += 4;
    }
    while token < tokens.len() {
        let [sums] = packed_tile(simd, packed, [x.row(tokens[token] as usize)]);
        emit(token, &sums);
        token += 1;
    }
}

#[inline(always)]
fn packed_tile<S: Simd, const T: usize>(
    simd: S,
    packed: &[S::Packed],
    mut x: [Operand<'_>; T],
) -> [[f32; PACKED_ROWS]; T] {
    for x in &mut x {
        *x = x.first(packed.len());
    }
    let mut sums = [simd.splat(0.0); T];
    for (block, weights) in packed.iter().enumerate() {
        let mut operands = [x[0].block(block); T];
        for (to, x) in operands.iter_mut().zip(&x) {
            *to = x.block(block);
        }
        simd.packed_step(weights, operands, &mut sums);
    }
    let mut out = [[0.0; PACKED_ROWS]; T];
    for (sums, out) in sums.iter().zip(&mut out) {
        simd.store(*sums, out);
    }
    out
}
