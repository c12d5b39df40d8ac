//! On every machine with AVX-512, also where these kernels are not what is used.

use super::run;
use crate::kernels::avx512::Avx512;
use crate::kernels::trials::assert_defined_bits;
use odmoe_formats::BlockFormat as F;

#[test]
fn weights_of_any_bytes_give_the_bits_of_the_definition() {
    let Some(proof) = Avx512::detect() else {
        return;
    };
    for (format, tokens_max) in [
        (F::Q2_K, 1),
        (F::Q3_K, 1),
        (F::Q4_K, 1),
        (F::Q5_K, 2),
        (F::Q6_K, 4),
    ] {
        for tokens in 1..=tokens_max {
            assert_defined_bits(proof, format, tokens, |product| run(proof, product));
        }
    }
}
