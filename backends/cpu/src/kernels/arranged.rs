//! Activations in the order in which quants come out of their bytes.

use super::activations::ActivationSuperblock;
use crate::blocks::{SUB_BLOCKS, SUPERBLOCK};

/// Superblocks that are multiplied and folded together.
pub const QUAD: usize = 4;
/// Registers of a superblock's quants.
pub const PARTS: usize = 4;
/// Elements of half a register.
pub const HALF: usize = 32;

/// An order of a superblock's elements, in parts of 64 of which each half is 32 in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
// Only kernels of x86-64 want one.
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
pub enum Order {
    /// As they are.
    Plain,
    /// Where quants are in halves of bytes, 64 elements in 32 bytes: two such groups in a register, their lower halves
    /// one part and their upper halves the next.
    HalfBytes,
    /// Where quants are in quarters of bytes, 128 elements in 32 bytes: both groups in a register, a quarter of each a
    /// part.
    QuarterBytes,
}

impl Order {
    /// Where the halves of each part begin in the superblock.
    pub const fn halves(self) -> [[usize; 2]; PARTS] {
        match self {
            Self::Plain => [[0, 32], [64, 96], [128, 160], [192, 224]],
            Self::HalfBytes => [[0, 64], [32, 96], [128, 192], [160, 224]],
            Self::QuarterBytes => [[0, 128], [32, 160], [64, 192], [96, 224]],
        }
    }
}

/// Four superblocks of activations; zeros where a row has no more.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub struct ArrangedQuad {
    /// Part by part.
    pub quants: [[[[i8; HALF]; 2]; PARTS]; QUAD],
    /// Sums of 16 elements, not rearranged.
    pub sums: [[i16; SUB_BLOCKS]; QUAD],
    /// Sums of 32.
    pub sums_of_32: [[i16; SUB_BLOCKS / 2]; QUAD],
    /// Their units.
    pub scales: [f32; QUAD],
}

impl ArrangedQuad {
    const EMPTY: Self = Self {
        quants: [[[[0; HALF]; 2]; PARTS]; QUAD],
        sums: [[0; SUB_BLOCKS]; QUAD],
        sums_of_32: [[0; SUB_BLOCKS / 2]; QUAD],
        scales: [0.0; QUAD],
    };

    /// Up to four superblocks in that order.
    #[inline(always)]
    pub fn fill(&mut self, superblocks: &[ActivationSuperblock], order: Order) {
        if superblocks.len() < QUAD {
            *self = Self::EMPTY;
        }
        for (place, x) in superblocks.iter().enumerate() {
            let halves = x.quants.as_chunks::<HALF>().0;
            for (part, starts) in self.quants[place].iter_mut().zip(order.halves()) {
                *part = starts.map(|start| halves[start / HALF]);
            }
            self.sums[place] = x.sums;
            self.sums_of_32[place] = x.sums_of_32;
            self.scales[place] = x.scale;
        }
    }
}

/// Rows of them. Grown, never shrunk.
#[derive(Default)]
pub struct ArrangedRows {
    order: Option<Order>,
    quads_a_row: usize,
    quads: Vec<ArrangedQuad>,
}

impl ArrangedRows {
    /// Makes room for `rows` of `columns` where there is an order, and hands it out; else there are none.
    pub fn prepare(
        &mut self,
        rows: usize,
        columns: usize,
        order: Option<Order>,
    ) -> &mut [ArrangedQuad] {
        self.order = order;
        self.quads_a_row = columns.div_ceil(QUAD * SUPERBLOCK);
        let quads = order.map_or(0, |_| rows * self.quads_a_row);
        if self.quads.len() < quads {
            self.quads.resize(quads, ArrangedQuad::EMPTY);
        }
        &mut self.quads[..quads]
    }

    /// One row, where rows were arranged in that order.
    #[cfg(target_arch = "x86_64")]
    pub fn row(&self, row: usize, order: Order) -> Option<&[ArrangedQuad]> {
        (self.order == Some(order))
            .then(|| &self.quads[row * self.quads_a_row..][..self.quads_a_row])
    }
}
