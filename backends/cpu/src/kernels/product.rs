//! Matrix products: some rows of a weight with some rows of activations.

use super::activations::{BlockRows, SuperblockRows};
use super::small_blocks::{self, SmallBlockFormat};
#[cfg(target_arch = "x86_64")]
use super::stream::{self, StreamFormat};
use super::superblocks::{self, SuperblockFormat};
use super::{Bf16, Element, F16, F32, Kernel, Simd, float, iq4, q8};
use super::{small_block_formats as small, superblock_formats as large};
use crate::blocks::{BLOCK, SUPERBLOCK};
use crate::memory::SharedSlice;
use crate::reference::LANES;
use crate::view::WeightView;
use odmoe_formats::BlockFormat;
use std::ops::Range;

/// Weight rows of one chunk of work. Half a megabyte of F32 at a width of 2048: it stays in a core's own cache while
/// all tokens pass over it, and weights are read from memory once.
pub const PANEL_ROWS: usize = 64;

/// In which form a product takes its activations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ActivationForm {
    /// As they are.
    Floats,
    /// Blocks of 32.
    Blocks,
    /// Superblocks of 256.
    Superblocks,
}

impl ActivationForm {
    /// The form that weights of this format are multiplied with.
    pub fn of(format: BlockFormat) -> Self {
        match format.block_elements() {
            1 => Self::Floats,
            BLOCK => Self::Blocks,
            SUPERBLOCK => Self::Superblocks,
            other => panic!("the CPU backend has no product of {format} with blocks of {other}"),
        }
    }
}

/// Rows of activations, in each form that somebody wants.
#[derive(Clone, Copy)]
pub struct Activations<'a> {
    /// [_, columns].
    pub floats: &'a [f32],
    /// The same rows.
    pub blocks: Option<&'a BlockRows>,
    /// The same rows.
    pub superblocks: Option<&'a SuperblockRows>,
}

/// Where results go: token t's row is row `rows[t]` of a matrix with `stride` columns.
#[derive(Clone, Copy)]
pub struct OutRows<'a> {
    out: &'a SharedSlice<'a, f32>,
    stride: usize,
    /// The column of a product's column 0.
    first: usize,
    rows: &'a [u32],
}

impl<'a> OutRows<'a> {
    /// # Safety
    /// `rows` are distinct, and of all products that run at the same time no two write one column of one row.
    pub unsafe fn new(out: &'a SharedSlice<'a, f32>, stride: usize, rows: &'a [u32]) -> Self {
        Self {
            out,
            stride,
            first: 0,
            rows,
        }
    }

    /// The same for a product whose columns begin so much later.
    pub(super) fn starting_at(self, column: usize) -> Self {
        let first = self.first + column;
        Self { first, ..self }
    }

    /// Asks for what [`Self::put`] will write: `height` columns of so many tokens. Results lie far apart, and each would be
    /// waited for.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    pub(super) fn wish(&self, tokens: Range<usize>, column: usize, height: usize) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        for &row in &self.rows[tokens] {
            let start = row as usize * self.stride + self.first + column;
            for line in (start..start + height).step_by(LANES) {
                let line = self.out.as_ptr().wrapping_add(line);
                // SAFETY: a wish may be for any address.
                unsafe { _mm_prefetch::<_MM_HINT_T0>(line.cast()) };
            }
        }
    }

    #[inline(always)]
    pub(super) fn put(&self, token: usize, column: usize, values: &[f32]) {
        let column = self.first + column;
        let start = self.rows[token] as usize * self.stride + column;
        assert!(column + values.len() <= self.stride);
        // SAFETY: nobody else writes these columns, by the contract of `new`.
        let to = unsafe { self.out.range_mut(start..start + values.len()) };
        // Whole registers need no call.
        let (to, to_rest) = to.as_chunks_mut::<LANES>();
        let (values, rest) = values.as_chunks::<LANES>();
        for (to, values) in to.iter_mut().zip(values) {
            *to = *values;
        }
        for (to, value) in to_rest.iter_mut().zip(rest) {
            *to = *value;
        }
    }
}

/// out\[t\]\[r\] = weight row r * x row `tokens[t]`, for r in `rows`.
pub struct Product<'a> {
    /// [N, columns].
    pub weight: WeightView<'a>,
    /// Which of its rows.
    pub rows: Range<usize>,
    /// [_, columns].
    pub x: Activations<'a>,
    /// Which of its rows.
    pub tokens: &'a [u32],
    /// [_, N].
    pub out: OutRows<'a>,
}

impl Kernel for Product<'_> {
    type Output = ();
    #[inline(always)]
    fn call<S: Simd>(self, simd: S) {
        if simd.rows_in_lanes(&self) {
            return;
        }
        assert!(
            self.weight.layout.is_row_major(),
            "the kernel set takes no weights in {}",
            self.weight.layout
        );
        match self.weight.format {
            BlockFormat::F32 => self.float::<S, F32>(simd),
            BlockFormat::F16 => self.float::<S, F16>(simd),
            BlockFormat::BF16 => self.float::<S, Bf16>(simd),
            BlockFormat::Q8_0 => self.q8(simd),
            BlockFormat::Q4_0 => self.small_blocks::<S, small::Q4_0>(simd),
            BlockFormat::Q4_1 => self.small_blocks::<S, small::Q4_1>(simd),
            BlockFormat::Q5_0 => self.small_blocks::<S, small::Q5_0>(simd),
            BlockFormat::Q5_1 => self.small_blocks::<S, small::Q5_1>(simd),
            BlockFormat::MXFP4 => self.small_blocks::<S, small::Mxfp4>(simd),
            BlockFormat::IQ4_NL => self.iq4_nl(simd),
            BlockFormat::IQ4_XS => self.superblocks::<S, iq4::Iq4Xs>(simd),
            BlockFormat::Q2_K => self.stream::<S, large::Q2K>(simd),
            BlockFormat::Q3_K => self.stream::<S, large::Q3K>(simd),
            BlockFormat::Q4_K => self.stream::<S, large::Q4K>(simd),
            BlockFormat::Q5_K => self.stream::<S, large::Q5K>(simd),
            BlockFormat::Q6_K => self.stream::<S, large::Q6K>(simd),
            other => panic!("the CPU backend has no product of {other}"),
        }
    }
}

impl Product<'_> {
    #[inline(always)]
    fn float<S: Simd, E: Element>(&self, simd: S) {
        let (columns, x) = (self.weight.columns, self.x.floats);
        float::products(
            simd,
            self.rows.len(),
            |row| bytemuck::cast_slice::<u8, E>(self.weight.row(self.rows.start + row)),
            self.tokens.len(),
            |token| &x[self.tokens[token] as usize * columns..][..columns],
            |token, row, dots| self.out.put(token, self.rows.start + row, dots),
        );
    }

    #[inline(always)]
    fn q8<S: Simd>(&self, simd: S) {
        q8::products(
            simd,
            self.rows.len(),
            |row| self.weight.blocks(self.rows.start + row),
            self.x.blocks.expect("activations in blocks"),
            self.tokens,
            |token, row, sums| self.out.put(token, self.rows.start + row, sums),
        );
    }

    #[inline(always)]
    fn iq4_nl<S: Simd>(&self, simd: S) {
        iq4::iq4_nl_products(
            simd,
            self.rows.len(),
            |row| self.weight.blocks(self.rows.start + row),
            self.x.blocks.expect("activations in blocks"),
            self.tokens,
            |token, row, sums| self.out.put(token, self.rows.start + row, sums),
        );
    }

    #[inline(always)]
    fn small_blocks<S: Simd, F: SmallBlockFormat>(&self, simd: S) {
        small_blocks::products::<S, F>(
            simd,
            self.rows.len(),
            |row| self.weight.blocks(self.rows.start + row),
            self.x.blocks.expect("activations in blocks"),
            self.tokens,
            |token, row, sums| self.out.put(token, self.rows.start + row, sums),
        );
    }

    #[inline(always)]
    fn superblocks<S: Simd, F: SuperblockFormat>(&self, simd: S) {
        superblocks::products::<S, F>(
            simd,
            self.rows.len(),
            |row| self.weight.blocks(self.rows.start + row),
            self.x.superblocks.expect("activations in superblocks"),
            self.tokens,
            |token, row, sums| self.out.put(token, self.rows.start + row, sums),
        );
    }

    /// Streams are for vector sets of x86-64 alone.
    #[cfg(not(target_arch = "x86_64"))]
    #[inline(always)]
    fn stream<S: Simd, F: SuperblockFormat>(&self, simd: S) {
        self.superblocks::<S, F>(simd);
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    fn stream<S: Simd, F: StreamFormat>(&self, simd: S) {
        if !S::STREAMS {
            return self.superblocks::<S, F>(simd);
        }
        stream::products::<S, F>(
            simd,
            self.weight.rows_of_blocks(self.rows.clone()),
            self.weight.columns / SUPERBLOCK,
            self.x.superblocks.expect("activations in superblocks"),
            self.tokens,
            |token, row, sums| self.out.put(token, self.rows.start + row, sums),
        );
    }
}
