//! Products of Q8_0 rows with quantised activations.

use super::{BlockOperand, PACKED_ROWS, Simd};
use crate::reference::quantise_row;
use crate::view::{Q8_ELEMENTS, Q8Block};

/// Rows of activations in 8-bit blocks, in the forms that the kernels want. Grown, never shrunk.
#[derive(Default)]
pub struct QuantisedRows {
    blocks_a_row: usize,
    quants: Vec<[i8; Q8_ELEMENTS]>,
    wide: Vec<[i16; Q8_ELEMENTS]>,
    scales: Vec<f32>,
    offsets: Vec<i32>,
}

/// The part of [`QuantisedRows`] that one chunk of a parallel loop fills.
pub struct QuantisedPart<'a> {
    /// See [`BlockOperand`].
    pub quants: &'a mut [[i8; Q8_ELEMENTS]],
    /// See [`BlockOperand`].
    pub wide: &'a mut [[i16; Q8_ELEMENTS]],
    /// See [`BlockOperand`].
    pub scales: &'a mut [f32],
    /// See [`BlockOperand`].
    pub offsets: &'a mut [i32],
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
        if self.quants.len() < blocks {
            self.quants.resize(blocks, [0; Q8_ELEMENTS]);
            self.wide.resize(blocks, [0; Q8_ELEMENTS]);
            self.scales.resize(blocks, 0.0);
            self.offsets.resize(blocks, 0);
        }
        QuantisedPart {
            quants: &mut self.quants[..blocks],
            wide: &mut self.wide[..blocks],
            scales: &mut self.scales[..blocks],
            offsets: &mut self.offsets[..blocks],
        }
    }

    /// One row.
    #[inline(always)]
    fn row(&self, row: usize) -> Operand<'_> {
        let range = row * self.blocks_a_row..(row + 1) * self.blocks_a_row;
        Operand {
            quants: &self.quants[range.clone()],
            wide: &self.wide[range.clone()],
            scales: &self.scales[range.clone()],
            offsets: &self.offsets[range],
        }
    }
}

/// Quantises x [rows, columns] into a part of the same shape.
#[inline(always)]
pub fn quantise(x: &[f32], to: QuantisedPart<'_>) {
    quantise_row(x, to.quants, to.scales);
    for ((quants, wide), offset) in to.quants.iter().zip(to.wide).zip(to.offsets) {
        let mut sum = 0;
        for (quant, wide) in quants.iter().zip(wide) {
            *wide = i16::from(*quant);
            sum += i32::from(*quant);
        }
        *offset = -128 * sum;
    }
}

#[derive(Clone, Copy)]
struct Operand<'a> {
    quants: &'a [[i8; Q8_ELEMENTS]],
    wide: &'a [[i16; Q8_ELEMENTS]],
    scales: &'a [f32],
    offsets: &'a [i32],
}

impl<'a> Operand<'a> {
    #[inline(always)]
    fn first(self, blocks: usize) -> Self {
        Self {
            quants: &self.quants[..blocks],
            wide: &self.wide[..blocks],
            scales: &self.scales[..blocks],
            offsets: &self.offsets[..blocks],
        }
    }

    #[inline(always)]
    fn block(self, block: usize) -> BlockOperand<'a> {
        BlockOperand {
            quants: &self.quants[block],
            wide: &self.wide[block],
            offset: self.offsets[block],
            scale: self.scales[block],
        }
    }
}

/// Every product of weight rows with rows `tokens` of x; `emit(token, row, sums)` gets consecutive rows of one token.
///
/// Where there are many tokens, weights are rearranged, sixteen rows at a time. Both ways add the same integers exactly and then do the same one fused multiply-add a block, in ascending order of blocks.
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
            pack_rows(simd, std::array::from_fn(|r| weight(row + r)), &mut packed);
            packed_products(simd, &packed, x, tokens, |token, sums| {
                emit(token, row, sums)
            });
            row += PACKED_ROWS;
        } else {
            // Missing rows of a last group are copies of its first; their sums are dropped.
            let height = left.min(8);
            let group = std::array::from_fn(|r| weight(if r < height { row + r } else { row }));
            for (token, &x_row) in tokens.iter().enumerate() {
                let sums = product8(simd, group, x.row(x_row as usize));
                emit(token, row, &sums[..height]);
            }
            row += height;
        }
    }
}

#[inline(always)]
fn product8<S: Simd>(simd: S, rows: [&[Q8Block]; 8], x: Operand<'_>) -> [f32; 8] {
    let blocks = rows[0].len();
    let rows = rows.map(|row| &row[..blocks]);
    let x = x.first(blocks);
    let mut sums = simd.sums8_zero();
    for block in 0..blocks {
        sums = simd.q8_step(rows.map(|row| &row[block]), x.block(block), sums);
    }
    simd.sums8_store(sums)
}

#[inline(always)]
fn pack_rows<S: Simd>(simd: S, rows: [&[Q8Block]; PACKED_ROWS], packed: &mut Vec<S::Packed>) {
    let blocks = rows[0].len();
    let rows = rows.map(|row| &row[..blocks]);
    packed.resize(blocks, S::Packed::default());
    for (block, to) in packed.iter_mut().enumerate() {
        simd.pack(rows.map(|row| &row[block]), to);
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
    let (fours, rest) = tokens.as_chunks::<4>();
    for (index, rows) in fours.iter().enumerate() {
        let sums = packed_tile(simd, packed, rows.map(|row| x.row(row as usize)));
        for (t, sums) in sums.iter().enumerate() {
            emit(index * 4 + t, sums);
        }
    }
    for (index, &row) in rest.iter().enumerate() {
        let [sums] = packed_tile(simd, packed, [x.row(row as usize)]);
        emit(fours.len() * 4 + index, &sums);
    }
}

#[inline(always)]
fn packed_tile<S: Simd, const T: usize>(
    simd: S,
    packed: &[S::Packed],
    x: [Operand<'_>; T],
) -> [[f32; PACKED_ROWS]; T] {
    let x = x.map(|x| x.first(packed.len()));
    let mut sums = [simd.splat(0.0); T];
    for (block, weights) in packed.iter().enumerate() {
        simd.packed_step(weights, x.map(|x| x.block(block)), &mut sums);
    }
    let mut out = [[0.0; PACKED_ROWS]; T];
    for (sums, out) in sums.iter().zip(&mut out) {
        simd.store(*sums, out);
    }
    out
}
