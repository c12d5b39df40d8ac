//! Matrix products: some rows of a weight with some rows of activations.

use super::q8::{self, QuantisedRows};
use super::{Bf16, Element, F16, F32, Kernel, Simd, float};
use crate::memory::SharedSlice;
use crate::view::WeightView;
use odmoe_formats::BlockFormat;
use std::ops::Range;

/// Weight rows of one chunk of work. Half a megabyte of F32 at a width of 2048: it stays in a core's own cache while
/// all tokens pass over it, and weights are read from memory once.
pub const PANEL_ROWS: usize = 64;

/// Rows of activations, in the form that the weight's format is multiplied with.
#[derive(Clone, Copy)]
pub enum Activations<'a> {
    /// [_, columns].
    Float(&'a [f32]),
    /// For Q8_0.
    Quantised(&'a QuantisedRows),
}

/// Where results go: token t's row is row `rows[t]` of a matrix with `stride` columns.
#[derive(Clone, Copy)]
pub struct OutRows<'a> {
    out: &'a SharedSlice<'a, f32>,
    stride: usize,
    rows: &'a [u32],
}

impl<'a> OutRows<'a> {
    /// # Safety
    /// `rows` are distinct, and of all products that run at the same time no two write one column of one row.
    pub unsafe fn new(out: &'a SharedSlice<'a, f32>, stride: usize, rows: &'a [u32]) -> Self {
        Self { out, stride, rows }
    }

    #[inline(always)]
    fn put(&self, token: usize, column: usize, values: &[f32]) {
        let start = self.rows[token] as usize * self.stride + column;
        assert!(column + values.len() <= self.stride);
        // SAFETY: nobody else writes these columns, by the contract of `new`.
        unsafe { self.out.range_mut(start..start + values.len()) }.copy_from_slice(values);
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
        match (self.weight.format, self.x) {
            (BlockFormat::F32, Activations::Float(x)) => self.float::<S, F32>(simd, x),
            (BlockFormat::F16, Activations::Float(x)) => self.float::<S, F16>(simd, x),
            (BlockFormat::BF16, Activations::Float(x)) => self.float::<S, Bf16>(simd, x),
            (BlockFormat::Q8_0, Activations::Quantised(x)) => self.quantised(simd, x),
            (other, _) => {
                panic!("the CPU backend has no product of {other:?} with such activations")
            }
        }
    }
}

impl Product<'_> {
    #[inline(always)]
    fn float<S: Simd, E: Element>(&self, simd: S, x: &[f32]) {
        let columns = self.weight.columns;
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
    fn quantised<S: Simd>(&self, simd: S, x: &QuantisedRows) {
        q8::products(
            simd,
            self.rows.len(),
            |row| self.weight.q8_row(self.rows.start + row),
            x,
            self.tokens,
            |token, row, sums| self.out.put(token, self.rows.start + row, sums),
        );
    }
}
