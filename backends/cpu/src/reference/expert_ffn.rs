//! One row of one expert.

use crate::reference::{linear, silu_mul};
use crate::view::WeightView;

/// The three matrices of an expert.
#[derive(Clone, Copy)]
pub struct ExpertView<'a> {
    /// [F, H].
    pub gate: WeightView<'a>,
    /// [F, H].
    pub up: WeightView<'a>,
    /// [H, F].
    pub down: WeightView<'a>,
}

/// out [H] = down * (silu(gate * x) * (up * x)) for x [H].
pub fn expert_ffn_row(expert: &ExpertView<'_>, x: &[f32], out: &mut [f32]) {
    let mut gate = vec![0.0f32; expert.gate.rows];
    let mut up = vec![0.0f32; expert.up.rows];
    linear(&expert.gate, x, &mut gate);
    linear(&expert.up, x, &mut up);
    silu_mul(&mut gate, &up);
    linear(&expert.down, &gate, out);
}
