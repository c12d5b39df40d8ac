//! Both ways to apply scales, and passes of a dozen, on every machine with AVX-512.

use super::{
    SuperblockFormat, blocks, dozen, few, few_tokens, large, many_blocks, many_tokens, small,
};
use crate::blocks::BLOCK;
use crate::kernels::activations::{BlockRows, QuantiseBlocks, SuperblockRows};
use crate::kernels::avx512::Avx512;
use crate::kernels::trials::{assert_defined_bits, bytes, weight_bytes};
use crate::kernels::{Activations, OutRows, Product, Simd};
use crate::memory::SharedSlice;
use crate::view::WeightView;
use odmoe_formats::{BlockFormat, WeightLayout};

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
        check(tokens, few_or_many::<F, WHOLE>);
    }
    if WHOLE {
        let least = <dozen::Superblocks<F> as dozen::Kind>::LEAST;
        for tokens in (least..=13).chain([29]) {
            check(tokens, by_dozens_or_many::<F>);
        }
    }
}

fn few_or_many<F: SuperblockFormat, const WHOLE: bool>(
    proof: Avx512,
    product: &Product<'_>,
    x: &SuperblockRows,
) {
    let most = <few::Superblocks<F, WHOLE> as few::Kind>::MOST;
    if product.tokens.len() <= most.of(product.weight.layout) {
        few_tokens::<F, WHOLE>(proof, product, x);
    } else {
        many_tokens::<F, WHOLE>(proof, product, x);
    }
}

fn by_dozens_or_many<F: SuperblockFormat>(
    proof: Avx512,
    product: &Product<'_>,
    x: &SuperblockRows,
) {
    if product.weight.layout == WeightLayout::Lanes16 {
        dozen::<dozen::Superblocks<F>>(proof, product, |token| x.row(token as usize));
    } else {
        many_tokens::<F, true>(proof, product, x);
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

/// The bits of a product of blocks of 32 with rows of activations, last row first.
fn products_of_blocks(
    weight: WeightView<'_>,
    x: &BlockRows,
    tokens: usize,
    product: impl Fn(&Product<'_>),
) -> Vec<u32> {
    let mut out = vec![0.0; tokens * weight.rows];
    let rows: Vec<u32> = (0..tokens as u32).collect();
    let backwards: Vec<u32> = (0..tokens as u32).rev().collect();
    let shared = SharedSlice::new(&mut out);
    product(&Product {
        weight,
        rows: 0..weight.rows,
        x: Activations {
            floats: &[],
            blocks: Some(x),
            superblocks: None,
        },
        tokens: &backwards,
        // SAFETY: rows are distinct, and nothing else writes.
        out: unsafe { OutRows::new(&shared, weight.rows, &rows) },
    });
    out.into_iter().map(f32::to_bits).collect()
}

fn blocks_by_dozens<F: blocks::Format>(format: BlockFormat) {
    let Some(proof) = Avx512::detect() else {
        return;
    };
    let (rows, columns) = (48, 9 * BLOCK);
    let weight = weight_bytes(format, WeightLayout::Lanes16, rows, columns);
    let weight = WeightView::new(&weight, 0, format, rows, columns);
    let weight = weight.in_layout(WeightLayout::Lanes16);
    let least = <dozen::Blocks<F> as dozen::Kind>::LEAST;
    for tokens in (least..=13).chain([29]) {
        let mut x = BlockRows::default();
        let bytes = bytes(tokens as u64, tokens * columns);
        let floats: Vec<f32> = bytes.iter().map(|&byte| f32::from(byte as i8)).collect();
        let to = x.prepare(tokens, columns);
        proof.run(QuantiseBlocks { x: &floats, to });
        let by_dozens = products_of_blocks(weight, &x, tokens, |product| {
            dozen::<dozen::Blocks<F>>(proof, product, |token| x.row(token as usize));
        });
        let by_panels = products_of_blocks(weight, &x, tokens, |product| {
            many_blocks::<F>(proof, product, &x);
        });
        let same = |(a, b): (&u32, &u32)| {
            a == b || f32::from_bits(*a).is_nan() && f32::from_bits(*b).is_nan()
        };
        assert!(
            by_dozens.iter().zip(&by_panels).all(same),
            "{format}, {tokens} tokens"
        );
    }
}

#[test]
fn blocks_by_dozens_have_the_bits_of_panels() {
    blocks_by_dozens::<small::Q8_0>(BlockFormat::Q8_0);
    blocks_by_dozens::<small::Q4_0>(BlockFormat::Q4_0);
    blocks_by_dozens::<small::Q4_1>(BlockFormat::Q4_1);
    blocks_by_dozens::<small::Q5_0>(BlockFormat::Q5_0);
    blocks_by_dozens::<small::Q5_1>(BlockFormat::Q5_1);
    blocks_by_dozens::<small::Mxfp4>(BlockFormat::MXFP4);
    blocks_by_dozens::<small::Iq4Nl>(BlockFormat::IQ4_NL);
}
