//! A panel of rows, and its running sums.

use super::columns::ROWS;

/// Registers of weights that go over a token together.
pub const SLICES: usize = 2;
/// Rows of a panel.
pub const PANEL_ROWS: usize = SLICES * ROWS;

/// Running sums of a panel's rows with one token, aligned to registers.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub struct Sums {
    /// Sixteen rows each.
    pub slices: [[f32; ROWS]; SLICES],
}

impl Sums {
    /// Zeros.
    pub const EMPTY: Self = Self {
        slices: [[0.0; ROWS]; SLICES],
    };

    /// Row by row.
    pub fn rows(&self) -> &[f32] {
        self.slices.as_flattened()
    }
}
