//! Tiles in plain code, so that everything but the instructions themselves is tested on every machine with AVX-512.

use super::{Emulated, product};
use crate::blocks::SUPERBLOCK;
use crate::kernels::avx512::Avx512;
use crate::kernels::trials::{bytes, quantised, run, weight_bytes};
use crate::view::WeightView;
use odmoe_formats::BlockFormat;
use odmoe_formats::WeightLayout::{Lanes16, RowMajor};

#[test]
fn planes_give_the_bits_of_avx512_for_weights_of_any_bytes() {
    let Some(proof) = Avx512::detect() else {
        return;
    };
    use BlockFormat as F;
    for format in [F::Q2_K, F::Q3_K, F::Q4_K, F::Q5_K, F::Q6_K, F::IQ4_XS] {
        for (layout, rows, blocks, tokens) in [
            (RowMajor, 32, 1, 12),
            (RowMajor, 33, 2, 16),
            (RowMajor, 5, 1, 17),
            (RowMajor, 70, 3, 37),
            (Lanes16, 32, 2, 12),
            (Lanes16, 80, 3, 37),
        ] {
            let columns = blocks * SUPERBLOCK;
            let weight = weight_bytes(format, layout, rows, columns);
            let weight = WeightView::new(&weight, 0, format, rows, columns).in_layout(layout);
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
                assert_eq!(
                    together, alone,
                    "{format} {layout}, token {token} of {tokens}"
                );
            }
        }
    }
}
