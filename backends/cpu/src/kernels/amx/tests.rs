//! Tiles in plain code, so that everything but the instructions themselves is tested on every machine with AVX-512.

use super::{Emulated, product};
use crate::blocks::SUPERBLOCK;
use crate::kernels::avx512::Avx512;
use crate::kernels::trials::{bytes, quantised, run};
use crate::view::WeightView;
use odmoe_formats::BlockFormat;

#[test]
fn planes_give_the_bits_of_avx512_for_weights_of_any_bytes() {
    let Some(proof) = Avx512::detect() else {
        return;
    };
    use BlockFormat as F;
    for format in [F::Q2_K, F::Q3_K, F::Q4_K, F::Q5_K, F::Q6_K, F::IQ4_XS] {
        for (rows, blocks, tokens) in [(32, 1, 12), (33, 2, 16), (5, 1, 17), (70, 3, 37)] {
            let columns = blocks * SUPERBLOCK;
            let row_bytes = format.row_bytes(columns as u64).unwrap() as usize;
            let mut weight = bytes(rows as u64 * 77, rows * row_bytes);
            // Extremes of every field, and a row of each kind of sign.
            weight[..row_bytes].fill(0xff);
            weight[row_bytes..2 * row_bytes].fill(0x7f);
            weight[2 * row_bytes..3 * row_bytes].fill(0x80);
            let weight = WeightView::new(&weight, 0, format, rows, columns);
            let mut x: Vec<f32> = bytes(5, tokens * columns)
                .iter()
                .map(|&byte| f32::from(byte as i8))
                .collect();
            x[..columns].fill(127.0);
            let quantised = quantised(proof, &x, columns, None);
            let numbers: Vec<u32> = (0..tokens as u32).rev().collect();
            let own = run(proof, weight, &quantised, &numbers, |p| {
                product(proof, Emulated, p)
            });
            for (token, &number) in numbers.iter().enumerate() {
                let alone = run(proof, weight, &quantised, &[number], |_| false);
                let together = &own[token * rows..][..rows];
                assert_eq!(together, alone, "{format}, token {token} of {tokens}");
            }
        }
    }
}
