//! What tests of single kernels have in common.

use super::activations::SuperblockRows;
use super::avx512::Avx512;
use super::{Activations, OutRows, Product, Simd};
use crate::memory::SharedSlice;
use crate::view::WeightView;

/// A seeded stream of bytes (xorshift).
pub fn bytes(seed: u64, count: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    std::iter::repeat_with(next).take(count).collect()
}

/// The bits of a product's results, [tokens][rows], from `run`, or where it declines, from the set's own kernels.
pub fn run(
    proof: Avx512,
    weight: WeightView<'_>,
    x: &SuperblockRows,
    tokens: &[u32],
    run: impl Fn(&Product<'_>) -> bool,
) -> Vec<u32> {
    let mut out = vec![0.0; tokens.len() * weight.rows];
    let rows: Vec<u32> = (0..tokens.len() as u32).collect();
    let shared = SharedSlice::new(&mut out);
    let x = Activations {
        floats: &[],
        blocks: None,
        superblocks: Some(x),
    };
    let product = Product {
        weight,
        rows: 0..weight.rows,
        x,
        tokens,
        // SAFETY: rows are distinct, and nothing else writes.
        out: unsafe { OutRows::new(&shared, weight.rows, &rows) },
    };
    if !run(&product) {
        proof.run(product);
    }
    out.into_iter().map(f32::to_bits).collect()
}
