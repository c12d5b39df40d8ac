//! Rows of activations, quantised: in blocks of 32 and in superblocks of 256.

use super::arranged::{ArrangedQuad, ArrangedRows, Order, QUAD};
use super::{Kernel, Simd};
use crate::blocks::{BLOCK, SUB_BLOCKS, SUPERBLOCK};
use crate::reference::quantise_block;

/// 32 quantised activations.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct ActivationBlock {
    /// The integers.
    pub quants: [i8; BLOCK],
    /// Their unit.
    pub scale: f32,
    /// Their sum, for minima and for sets that multiply with unsigned weights.
    pub sum: i32,
}

/// A block of activations, as integers of both widths: each set takes the one that its instructions want.
#[derive(Clone, Copy)]
pub struct BlockOperand<'a> {
    /// The block.
    pub block: &'a ActivationBlock,
    /// Its integers, wider; anything in a set that does not take them.
    pub wide: &'a [i16; BLOCK],
}

/// 256 quantised activations.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub struct ActivationSuperblock {
    /// The integers.
    pub quants: [i8; SUPERBLOCK],
    /// -32 times the sums of 8 of them: what an offset of 32 in the weights adds to products.
    pub offsets: [i32; SUPERBLOCK / 8],
    /// Sums of 16 of them, at most 2032 in magnitude.
    pub sums: [i16; SUB_BLOCKS],
    /// Sums of 32 of them.
    pub sums_of_32: [i16; SUB_BLOCKS / 2],
    /// Their unit.
    pub scale: f32,
}

/// Rows of blocks of 32. Grown, never shrunk.
#[derive(Default)]
pub struct BlockRows {
    blocks_a_row: usize,
    blocks: Vec<ActivationBlock>,
    wide: Vec<[i16; BLOCK]>,
}

/// The part of [`BlockRows`] that one chunk of a parallel loop fills.
pub struct BlocksPart<'a> {
    /// See [`BlockOperand`].
    pub blocks: &'a mut [ActivationBlock],
    /// See [`BlockOperand`].
    pub wide: &'a mut [[i16; BLOCK]],
}

/// One row of [`BlockRows`].
#[derive(Clone, Copy)]
pub struct BlockRow<'a> {
    blocks: &'a [ActivationBlock],
    wide: &'a [[i16; BLOCK]],
}

/// Rows of superblocks. Grown, never shrunk.
#[derive(Default)]
pub struct SuperblockRows {
    superblocks_a_row: usize,
    superblocks: Vec<ActivationSuperblock>,
    arranged: ArrangedRows,
}

/// The part of [`SuperblockRows`] that one chunk of a parallel loop fills.
pub struct SuperblocksPart<'a> {
    /// As they are.
    pub superblocks: &'a mut [ActivationSuperblock],
    /// The same rearranged; none where nobody wants that.
    pub arranged: &'a mut [ArrangedQuad],
}

/// In both forms together an element takes at most 5 bytes, which `odmoe_backend::scratch_bytes_max` counts on.
const _: () = {
    let blocks = SUPERBLOCK / BLOCK * (size_of::<ActivationBlock>() + size_of::<[i16; BLOCK]>());
    assert!(blocks + size_of::<ActivationSuperblock>() <= 5 * SUPERBLOCK);
};

impl BlockRows {
    /// Bytes of a row's blocks, without the wider integers.
    pub fn row_bytes(columns: usize) -> usize {
        columns / BLOCK * size_of::<ActivationBlock>()
    }

    /// Makes room for `rows` of `columns` and hands it out.
    pub fn prepare(&mut self, rows: usize, columns: usize) -> BlocksPart<'_> {
        assert_whole(columns, BLOCK);
        self.blocks_a_row = columns / BLOCK;
        let blocks = rows * self.blocks_a_row;
        if self.blocks.len() < blocks {
            let empty = ActivationBlock {
                quants: [0; BLOCK],
                scale: 0.0,
                sum: 0,
            };
            self.blocks.resize(blocks, empty);
            self.wide.resize(blocks, [0; BLOCK]);
        }
        BlocksPart {
            blocks: &mut self.blocks[..blocks],
            wide: &mut self.wide[..blocks],
        }
    }

    /// One row.
    #[inline(always)]
    pub fn row(&self, row: usize) -> BlockRow<'_> {
        let range = row * self.blocks_a_row..(row + 1) * self.blocks_a_row;
        BlockRow {
            blocks: &self.blocks[range.clone()],
            wide: &self.wide[range],
        }
    }
}

impl<'a> BlockRow<'a> {
    /// So many blocks, as a slice whose length the compiler knows.
    #[inline(always)]
    pub fn first(self, blocks: usize) -> Self {
        Self {
            blocks: &self.blocks[..blocks],
            wide: &self.wide[..blocks],
        }
    }

    /// One block.
    #[inline(always)]
    pub fn block(self, block: usize) -> BlockOperand<'a> {
        BlockOperand {
            block: &self.blocks[block],
            wide: &self.wide[block],
        }
    }
}

impl SuperblockRows {
    /// Bytes of a row.
    pub fn row_bytes(columns: usize) -> usize {
        columns / SUPERBLOCK * size_of::<ActivationSuperblock>()
    }

    /// Makes room for `rows` of `columns` and hands it out; where there is an order, for rearranged ones as well.
    pub fn prepare(
        &mut self,
        rows: usize,
        columns: usize,
        order: Option<Order>,
    ) -> SuperblocksPart<'_> {
        assert_whole(columns, SUPERBLOCK);
        self.superblocks_a_row = columns / SUPERBLOCK;
        let superblocks = rows * self.superblocks_a_row;
        if self.superblocks.len() < superblocks {
            let empty = ActivationSuperblock {
                quants: [0; SUPERBLOCK],
                offsets: [0; SUPERBLOCK / 8],
                sums: [0; SUB_BLOCKS],
                sums_of_32: [0; SUB_BLOCKS / 2],
                scale: 0.0,
            };
            self.superblocks.resize(superblocks, empty);
        }
        SuperblocksPart {
            superblocks: &mut self.superblocks[..superblocks],
            arranged: self.arranged.prepare(rows, columns, order),
        }
    }

    /// One row, where rows were arranged in that order.
    #[cfg(target_arch = "x86_64")]
    pub fn arranged(&self, row: usize, order: Order) -> Option<&[ArrangedQuad]> {
        self.arranged.row(row, order)
    }

    /// One row.
    #[inline(always)]
    pub fn row(&self, row: usize) -> &[ActivationSuperblock] {
        &self.superblocks[row * self.superblocks_a_row..][..self.superblocks_a_row]
    }
}

fn assert_whole(columns: usize, block: usize) {
    assert!(
        columns.is_multiple_of(block),
        "{columns} columns are not whole blocks of {block}"
    );
}

/// Quantises activations into blocks of 32.
pub struct QuantiseBlocks<'a> {
    /// Whole blocks.
    pub x: &'a [f32],
    /// As many blocks.
    pub to: BlocksPart<'a>,
}

impl Kernel for QuantiseBlocks<'_> {
    type Output = ();
    #[inline(always)]
    fn call<S: Simd>(self, simd: S) {
        let (x, to) = (self.x.as_chunks::<BLOCK>().0, self.to);
        assert!(x.len() == to.blocks.len() && x.len() == to.wide.len());
        for ((x, block), wide) in x.iter().zip(to.blocks).zip(to.wide) {
            let mut quants = [0; BLOCK];
            block.scale = quantise_block(x, &mut quants);
            block.quants = quants;
            let [a, b, c, d] = simd.sums_of_eight(&quants);
            block.sum = (a + b + c + d) as i32;
            if S::WIDE {
                for (wide, quant) in wide.iter_mut().zip(quants) {
                    *wide = i16::from(quant);
                }
            }
        }
    }
}

/// Quantises activations into superblocks; those of one row where they are rearranged as well.
pub struct QuantiseSuperblocks<'a> {
    /// Whole superblocks.
    pub x: &'a [f32],
    /// As many superblocks.
    pub to: SuperblocksPart<'a>,
    /// How they are to be rearranged, if so.
    pub order: Option<Order>,
}

impl Kernel for QuantiseSuperblocks<'_> {
    type Output = ();
    #[inline(always)]
    fn call<S: Simd>(self, simd: S) {
        let x = self.x.as_chunks::<SUPERBLOCK>().0;
        let SuperblocksPart {
            superblocks,
            arranged,
        } = self.to;
        assert_eq!(x.len(), superblocks.len());
        for (x, superblock) in x.iter().zip(&mut *superblocks) {
            superblock.scale = quantise_block(x, &mut superblock.quants);
            sum_parts(simd, superblock);
        }
        if let Some(order) = self.order {
            assert_eq!(arranged.len(), superblocks.len().div_ceil(QUAD));
            for (quad, superblocks) in arranged.iter_mut().zip(superblocks.chunks(QUAD)) {
                quad.fill(superblocks, order);
            }
        }
    }
}

/// Fills in the sums of a superblock from its quants.
#[inline(always)]
fn sum_parts<S: Simd>(simd: S, superblock: &mut ActivationSuperblock) {
    let quants = superblock.quants.as_chunks::<BLOCK>().0;
    let offsets = superblock.offsets.as_chunks_mut::<4>().0;
    let sums = superblock.sums.as_chunks_mut::<2>().0;
    let sums = sums.iter_mut().zip(&mut superblock.sums_of_32);
    for ((quants, offsets), (pairs, all)) in quants.iter().zip(offsets).zip(sums) {
        let eighths = simd.sums_of_eight(quants);
        for (offset, sum) in offsets.iter_mut().zip(eighths) {
            *offset = -32 * sum as i32;
        }
        let [a, b, c, d] = eighths;
        *pairs = [(a + b) as i16, (c + d) as i16];
        *all = (a + b + c + d) as i16;
    }
}
