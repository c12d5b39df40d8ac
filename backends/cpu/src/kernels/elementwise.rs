//! The reference's row loops, compiled for every set. They hold nothing but IEEE operations in a fixed order, which
//! the compiler may put into lanes but not change.

use super::{Kernel, Simd};
use crate::reference;
use odmoe_backend::{Choice, ChoiceOrder, Scoring};

/// into += x.
pub struct AddInPlace<'a> {
    /// Read.
    pub x: &'a [f32],
    /// Of the same length.
    pub into: &'a mut [f32],
}

impl Kernel for AddInPlace<'_> {
    type Output = ();
    #[inline(always)]
    fn call<S: Simd>(self, _simd: S) {
        reference::add_in_place(self.x, self.into);
    }
}

/// Adds one row, weighted by its gate.
pub struct AddGatedRow<'a> {
    /// Before the sigmoid.
    pub gate: f32,
    /// Read.
    pub x: &'a [f32],
    /// Of the same length.
    pub into: &'a mut [f32],
}

impl Kernel for AddGatedRow<'_> {
    type Output = ();
    #[inline(always)]
    fn call<S: Simd>(self, _simd: S) {
        reference::add_gated_row(self.gate, self.x, self.into);
    }
}

/// gate = silu(gate) * up.
pub struct SiluMul<'a> {
    /// Becomes the result.
    pub gate: &'a mut [f32],
    /// Of the same length.
    pub up: &'a [f32],
}

impl Kernel for SiluMul<'_> {
    type Output = ();
    #[inline(always)]
    fn call<S: Simd>(self, _simd: S) {
        reference::silu_mul(self.gate, self.up);
    }
}

/// RMS norm of each row, in place.
pub struct RmsNormRows<'a> {
    /// [_, width].
    pub rows: &'a mut [f32],
    /// [width].
    pub weight: &'a [f32],
    /// Added to the mean square.
    pub epsilon: f32,
}

impl Kernel for RmsNormRows<'_> {
    type Output = ();
    #[inline(always)]
    fn call<S: Simd>(self, _simd: S) {
        for row in self.rows.chunks_exact_mut(self.weight.len()) {
            reference::rms_norm_row(row, self.weight, self.epsilon);
        }
    }
}

/// Turns the heads of one token, in place.
pub struct RotateHeads<'a> {
    /// [heads, D].
    pub heads: &'a mut [f32],
    /// [D / 2].
    pub cos: &'a [f32],
    /// [D / 2].
    pub sin: &'a [f32],
}

impl Kernel for RotateHeads<'_> {
    type Output = ();
    #[inline(always)]
    fn call<S: Simd>(self, _simd: S) {
        for head in self.heads.chunks_exact_mut(2 * self.cos.len()) {
            reference::rotate_head(head, self.cos, self.sin);
        }
    }
}

/// Adds one token's weighted sum of expert outputs.
pub struct CombineRow<'a> {
    /// [K, H].
    pub outputs: &'a [f32],
    /// [K].
    pub weights: &'a [f32],
    /// [H].
    pub into: &'a mut [f32],
}

impl Kernel for CombineRow<'_> {
    type Output = ();
    #[inline(always)]
    fn call<S: Simd>(self, _simd: S) {
        reference::combine_row(self.outputs, |j| self.weights[j], self.into);
    }
}

/// Chooses one token's experts.
pub struct Choose<'a> {
    /// [E]; become scores.
    pub logits: &'a mut [f32],
    /// How.
    pub scoring: Scoring,
    /// In which order choices are written.
    pub order: ChoiceOrder,
    /// [K].
    pub out: &'a mut [Choice],
}

impl Kernel for Choose<'_> {
    type Output = ();
    #[inline(always)]
    fn call<S: Simd>(self, _simd: S) {
        reference::choose(self.logits, self.scoring, self.order, self.out);
    }
}
