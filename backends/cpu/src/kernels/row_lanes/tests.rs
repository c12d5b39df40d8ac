//! Both ways to apply scales, on every machine with AVX-512.

use super::{SuperblockFormat, few, few_tokens, large, many_tokens};
use crate::kernels::Product;
use crate::kernels::activations::SuperblockRows;
use crate::kernels::avx512::Avx512;
use crate::kernels::trials::assert_defined_bits;
use odmoe_formats::BlockFormat;

fn both_ways<F: SuperblockFormat>(format: BlockFormat) {
    one_way::<F, true>(format);
    one_way::<F, false>(format);
}

fn one_way<F: SuperblockFormat, const WHOLE: bool>(format: BlockFormat) {
    let Some(proof) = Avx512::detect() else {
        return;
    };
    let check = |tokens, product: fn(Avx512, &Product<'_>, &SuperblockRows)| {
        assert_defined_bits(proof, format, tokens, None, |p| {
            product(proof, p, p.x.superblocks.expect("superblocks"));
            true
        });
    };
    for tokens in [1, 6, 11, 20] {
        check(tokens, many_tokens::<F, WHOLE>);
    }
    for tokens in 1..=few::TOKENS_MAX {
        check(tokens, few_tokens::<F, WHOLE>);
    }
}

#[test]
fn weights_of_any_bytes_give_the_bits_of_the_definition() {
    both_ways::<large::Q2K>(BlockFormat::Q2_K);
    both_ways::<large::Q3K>(BlockFormat::Q3_K);
    both_ways::<large::Q4K>(BlockFormat::Q4_K);
    both_ways::<large::Q5K>(BlockFormat::Q5_K);
    both_ways::<large::Q6K>(BlockFormat::Q6_K);
    one_way::<large::Iq4Xs, true>(BlockFormat::IQ4_XS);
}
