//! On every machine with AVX-512, also where these kernels are not what is used.

use super::run as along_rows;
use crate::blocks::SUPERBLOCK;
use crate::kernels::Simd;
use crate::kernels::activations::{QuantiseSuperblocks, SuperblockRows};
use crate::kernels::avx512::Avx512;
use crate::kernels::trials::{bytes, run};
use crate::reference::{QuantisedRow, dot_quantised};
use crate::view::WeightView;
use odmoe_formats::BlockFormat;

#[test]
fn weights_of_any_bytes_give_the_bits_of_the_definition() {
    let Some(proof) = Avx512::detect() else {
        return;
    };
    use BlockFormat as F;
    for (format, tokens_max) in [(F::Q4_K, 1), (F::Q5_K, 2), (F::Q6_K, 4)] {
        for (rows, blocks) in [(16, 4), (3, 1), (17, 3), (33, 8), (5, 22)] {
            let columns = blocks * SUPERBLOCK;
            let row_bytes = format.row_bytes(columns as u64).unwrap() as usize;
            let mut weight = bytes(rows as u64 * 77, rows * row_bytes);
            // Extremes of every field, and a row of each kind of sign.
            weight[..row_bytes].fill(0xff);
            weight[row_bytes..2 * row_bytes].fill(0x7f);
            weight[2 * row_bytes..3 * row_bytes].fill(0x80);
            let weight = WeightView::new(&weight, 0, format, rows, columns);
            let mut x: Vec<f32> = bytes(5, tokens_max * columns)
                .iter()
                .map(|&byte| f32::from(byte as i8))
                .collect();
            x[..columns].fill(127.0);
            let mut quantised = SuperblockRows::default();
            let to = quantised.prepare(tokens_max, columns);
            proof.run(QuantiseSuperblocks { x: &x, to });
            for tokens in 1..=tokens_max {
                let numbers: Vec<u32> = (0..tokens as u32).rev().collect();
                let own = run(proof, weight, &quantised, &numbers, |product| {
                    assert!(along_rows(proof, product), "{format}, {tokens} tokens");
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
                        let exact = dot_quantised(format, weight.row(row), &x);
                        let sum = f32::from_bits(sum);
                        assert!(
                            sum.to_bits() == exact.to_bits() || (sum.is_nan() && exact.is_nan()),
                            "{format}, row {row} of {rows}, {tokens} tokens: {sum} and {exact}"
                        );
                    }
                }
            }
        }
    }
}
