//! What tests of single kernels have in common.

use super::activations::{QuantiseSuperblocks, SuperblockRows, SuperblocksPart};
use super::avx512::Avx512;
use super::{Activations, Order, OutRows, Product, Simd};
use crate::blocks::SUPERBLOCK;
use crate::memory::SharedSlice;
use crate::reference::{QuantisedRow, dot_quantised};
use crate::view::WeightView;
use odmoe_formats::block::to_lanes;
use odmoe_formats::{BlockFormat, WeightLayout};

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

/// Rows of x [_, columns], quantised, and rearranged where there is an order.
pub fn quantised(proof: Avx512, x: &[f32], columns: usize, order: Option<Order>) -> SuperblockRows {
    let rows = x.len() / columns;
    let mut all = SuperblockRows::default();
    let to = all.prepare(rows, columns, order);
    let quads = to.arranged.len() / rows;
    let mut arranged = to.arranged;
    let superblocks = to.superblocks.chunks_mut(columns / SUPERBLOCK);
    for (x, superblocks) in x.chunks(columns).zip(superblocks) {
        let row;
        (row, arranged) = arranged.split_at_mut(quads);
        let to = SuperblocksPart {
            superblocks,
            arranged: row,
        };
        proof.run(QuantiseSuperblocks { x, to, order });
    }
    all
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

/// A matrix of any bytes in a layout.
pub fn weight_bytes(
    format: BlockFormat,
    layout: WeightLayout,
    rows: usize,
    columns: usize,
) -> Vec<u8> {
    let row_bytes = format.row_bytes(columns as u64).unwrap() as usize;
    let mut weight = bytes(rows as u64 * 77, rows * row_bytes);
    // Extremes of every field, and a row of each kind of sign.
    weight[..row_bytes].fill(0xff);
    weight[row_bytes..2 * row_bytes].fill(0x7f);
    weight[2 * row_bytes..3 * row_bytes].fill(0x80);
    if layout == WeightLayout::RowMajor {
        return weight;
    }
    let mut lanes = vec![0; weight.len()];
    to_lanes(format, columns as u64, &weight, &mut lanes);
    lanes
}

/// Products of superblocks of any bytes, in matrices of several shapes, have the bits of their definition. `product` must
/// do all of them; activations are rearranged where there is an order.
pub fn assert_defined_bits(
    proof: Avx512,
    format: BlockFormat,
    tokens: usize,
    order: Option<Order>,
    product: impl Fn(&Product<'_>) -> bool,
) {
    use WeightLayout::{Lanes16, RowMajor};
    let shapes = [(16, 4), (3, 1), (17, 3), (33, 8), (5, 22), (300, 1)];
    // What wants activations in an order of its own has its weights row-major.
    let in_lanes = if order.is_none() {
        &[(16, 4), (80, 3)][..]
    } else {
        &[]
    };
    let shapes = shapes.iter().map(|shape| (RowMajor, shape));
    for (layout, &(rows, blocks)) in shapes.chain(in_lanes.iter().map(|shape| (Lanes16, shape))) {
        let columns = blocks * SUPERBLOCK;
        let weight = weight_bytes(format, layout, rows, columns);
        let weight = WeightView::new(&weight, 0, format, rows, columns).in_layout(layout);
        let bytes = bytes(5, tokens * columns);
        let mut x: Vec<f32> = bytes.iter().map(|&byte| f32::from(byte as i8)).collect();
        x[..columns].fill(127.0);
        let quantised = quantised(proof, &x, columns, order);
        let numbers: Vec<u32> = (0..tokens as u32).rev().collect();
        let own = run(proof, weight, &quantised, &numbers, |p| {
            assert!(product(p), "{format}, {tokens} tokens");
            true
        });
        for (sums, &number) in own.chunks(rows).zip(&numbers) {
            let x = quantised.row(number as usize);
            let quants: Vec<i8> = x.iter().flat_map(|x| x.quants).collect();
            let scales: Vec<f32> = x.iter().map(|x| x.scale).collect();
            let x = QuantisedRow {
                quants: &quants,
                scales: &scales,
            };
            for (row, &sum) in sums.iter().enumerate() {
                let defined = dot_quantised(format, &weight.any_row(row), &x);
                let sum = f32::from_bits(sum);
                assert!(
                    sum.to_bits() == defined.to_bits() || (sum.is_nan() && defined.is_nan()),
                    "{format} {layout}, row {row} of {rows}, {tokens} tokens: {sum} and {defined}"
                );
            }
        }
    }
}
