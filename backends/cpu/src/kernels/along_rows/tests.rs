//! On every machine with the instructions, also where these kernels are not what is used.

use super::formats::{AlongRows, Q2K, Q3K, Q4K, Q5K, Q6K};
use super::{can_permute_bytes, few_tokens};
use crate::kernels::avx512::Avx512;
use crate::kernels::trials::assert_defined_bits;
use odmoe_formats::BlockFormat;

fn any_bytes<F: AlongRows>(format: BlockFormat) {
    let Some(proof) = Avx512::detect().filter(|_| can_permute_bytes()) else {
        return;
    };
    for tokens in 1..=F::TOKENS_MAX {
        assert_defined_bits(proof, format, tokens, Some(F::ORDER), |p| {
            few_tokens::<F>(proof, p).is_some()
        });
    }
}

#[test]
fn weights_of_any_bytes_give_the_bits_of_the_definition() {
    any_bytes::<Q2K>(BlockFormat::Q2_K);
    any_bytes::<Q3K>(BlockFormat::Q3_K);
    any_bytes::<Q4K>(BlockFormat::Q4_K);
    any_bytes::<Q5K>(BlockFormat::Q5_K);
    any_bytes::<Q6K>(BlockFormat::Q6_K);
}
