//! Products of many tokens with sixteen rows of blocks of 32, rearranged so that rows lie in lanes.

use super::activations::{BlockRow, BlockRows};
use super::{PACKED_ROWS, Simd};

/// Tokens that go over a panel together.
const TOKENS: usize = 4;

/// Sixteen rows, rearranged.
pub struct Panel<S: Simd> {
    blocks: Vec<S::Packed>,
    /// As many, in a format with minima; else none.
    minima: Vec<[f32; PACKED_ROWS]>,
}

impl<S: Simd> Default for Panel<S> {
    fn default() -> Self {
        Self {
            blocks: Vec::new(),
            minima: Vec::new(),
        }
    }
}

impl<S: Simd> Panel<S> {
    /// Makes room for rows of so many blocks.
    #[inline(always)]
    pub fn start(&mut self, blocks: usize, with_minima: bool) {
        self.blocks.resize(blocks, S::Packed::default());
        let minima = if with_minima { blocks } else { 0 };
        self.minima.resize(minima, [0.0; PACKED_ROWS]);
    }

    /// The blocks, with their minima, to be written.
    #[inline(always)]
    pub fn blocks(
        &mut self,
    ) -> impl Iterator<Item = (&mut S::Packed, Option<&mut [f32; PACKED_ROWS]>)> {
        let mut minima = self.minima.iter_mut();
        self.blocks
            .iter_mut()
            .map(move |block| (block, minima.next()))
    }
}

/// The products of a panel with rows `tokens` of x, from whose quants `offset` is to be taken; `emit(token, sums)`.
#[inline(always)]
pub fn products<S: Simd>(
    simd: S,
    panel: &Panel<S>,
    offset: i32,
    x: &BlockRows,
    tokens: &[u32],
    mut emit: impl FnMut(usize, &[f32]),
) {
    let mut token = 0;
    while token + TOKENS <= tokens.len() {
        let mut rows = [x.row(tokens[token] as usize); TOKENS];
        for t in 1..TOKENS {
            rows[t] = x.row(tokens[token + t] as usize);
        }
        let sums = tile(simd, panel, offset, rows);
        for (t, sums) in sums.iter().enumerate() {
            emit(token + t, sums);
        }
        token += TOKENS;
    }
    while token < tokens.len() {
        let [sums] = tile(simd, panel, offset, [x.row(tokens[token] as usize)]);
        emit(token, &sums);
        token += 1;
    }
}

#[inline(always)]
fn tile<S: Simd, const T: usize>(
    simd: S,
    panel: &Panel<S>,
    offset: i32,
    mut x: [BlockRow<'_>; T],
) -> [[f32; PACKED_ROWS]; T] {
    let blocks = panel.blocks.len();
    for x in &mut x {
        *x = x.first(blocks);
    }
    let with_minima = !panel.minima.is_empty();
    let mut sums = [simd.splat(0.0); T];
    for block in 0..blocks {
        let mut operands = [x[0].block(block); T];
        for (to, x) in operands.iter_mut().zip(&x) {
            *to = x.block(block);
        }
        simd.packed_step(&panel.blocks[block], offset, operands, &mut sums);
        if with_minima {
            let minima = simd.load(&panel.minima[block]);
            for (sums, x) in sums.iter_mut().zip(operands) {
                let minima = simd.mul(minima, simd.splat(x.block.scale));
                *sums = simd.fma(minima, simd.splat(x.block.sum as f32), *sums);
            }
        }
    }
    let mut out = [[0.0; PACKED_ROWS]; T];
    for (sums, out) in sums.iter().zip(&mut out) {
        simd.store(*sums, out);
    }
    out
}
