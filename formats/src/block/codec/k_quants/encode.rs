//! Values to super-blocks, as ggml's reference quantisers make them: a search in each sub-block, then scales rounded to
//! their share of the super-block's, then every quant anew for the rounded scale.

use super::search::{AffineSearch, SymmetricFit, fit_by_element, fit_by_scale, nearest};
use super::{Affine, ELEMENTS, SuperBlock, Symmetric};
use half::f16;

const Q2_K: AffineSearch = AffineSearch {
    largest: 3,
    first: -0.5,
    steps: 15,
    absolute: true,
};

const Q4_K: AffineSearch = AffineSearch {
    largest: 15,
    first: -1.0,
    steps: 20,
    absolute: false,
};

const Q5_K: AffineSearch = AffineSearch {
    largest: 31,
    first: -0.5,
    steps: 15,
    absolute: false,
};

/// Largest scales and minima of sub-blocks.
const FOUR_BITS: f32 = 15.0;
const SIX_BITS: f32 = 63.0;

pub(super) fn q2_k(x: &SuperBlock) -> Affine<16> {
    affine::<16, 16>(x, &Q2_K, FOUR_BITS, |x| x.map(f32::abs))
}

pub(super) fn q4_k(x: &SuperBlock) -> Affine<8> {
    affine::<8, 32>(x, &Q4_K, SIX_BITS, root_mean_square_plus_magnitude)
}

pub(super) fn q5_k(x: &SuperBlock) -> Affine<8> {
    affine::<8, 32>(x, &Q5_K, SIX_BITS, root_mean_square_plus_magnitude)
}

fn root_mean_square_plus_magnitude(x: &[f32; 32]) -> [f32; 32] {
    let squares = x.iter().fold(0.0, |sum, x| sum + x * x);
    let root_mean_square = (squares / 32.0).sqrt();
    x.map(|x| root_mean_square + x.abs())
}

/// `SUB_BLOCKS` sub-blocks of `N` elements.
fn affine<const SUB_BLOCKS: usize, const N: usize>(
    x: &SuperBlock,
    search: &AffineSearch,
    scale_max: f32,
    weights: impl Fn(&[f32; N]) -> [f32; N],
) -> Affine<SUB_BLOCKS> {
    let (sub_blocks, _) = x.as_chunks::<N>();
    let mut quants = [0; ELEMENTS];
    let (mut scales, mut minima) = ([0.0; SUB_BLOCKS], [0.0; SUB_BLOCKS]);
    for (index, x) in sub_blocks.iter().enumerate() {
        let fit = search.fit(x, &weights(x));
        (scales[index], minima[index]) = (fit.scale, fit.minimum);
        quants[index * N..][..N].copy_from_slice(&fit.quants);
    }
    let (scale, scales) = share(scales, scale_max);
    let (minimum, minima) = share(minima, scale_max);
    let mut block = Affine {
        scale,
        minimum,
        scales,
        minima,
        quants,
    };
    let (quants, _) = block.quants.as_chunks_mut::<N>();
    for (index, (x, quants)) in sub_blocks.iter().zip(quants).enumerate() {
        let scale = scale.to_f32() * f32::from(scales[index]);
        let minimum = minimum.to_f32() * f32::from(minima[index]);
        // A sub-block without a scale keeps the quants of its search, which then say nothing.
        if scale != 0.0 {
            *quants =
                x.map(|x| nearest((x + minimum) / scale).clamp(0, i32::from(search.largest)) as u8);
        }
    }
    block
}

/// Scales of sub-blocks as the super-block's scale times integers up to `limit`.
fn share<const SUB_BLOCKS: usize>(
    scales: [f32; SUB_BLOCKS],
    limit: f32,
) -> (f16, [u8; SUB_BLOCKS]) {
    let larger = |largest: f32, x: &f32| if *x > largest { *x } else { largest };
    let largest = scales.iter().fold(0.0, larger);
    let inverse = if largest > 0.0 { limit / largest } else { 0.0 };
    let shares = scales.map(|scale| nearest(inverse * scale).clamp(0, limit as i32) as u8);
    (f16::from_f32(largest / limit), shares)
}

pub(super) fn q3_k(x: &SuperBlock) -> Symmetric {
    const LIMIT: i8 = 4;
    const SCALE_LIMIT: i8 = 32;
    let (mut block, scales) = symmetric(x, |x| fit_by_element(x, LIMIT));
    let peak = peak(&scales);
    if peak == 0.0 {
        block.scales = [-SCALE_LIMIT; 16];
        return block;
    }
    let inverse = -f32::from(SCALE_LIMIT) / peak;
    block.scale = f16::from_f32(1.0 / inverse);
    block.scales = scales.map(|scale| {
        let (lowest, highest) = (-i32::from(SCALE_LIMIT), i32::from(SCALE_LIMIT) - 1);
        nearest(inverse * scale).clamp(lowest, highest) as i8
    });
    requantise(&mut block, x, LIMIT);
    block
}

pub(super) fn q6_k(x: &SuperBlock) -> Symmetric {
    const LIMIT: i8 = 32;
    /// A super-block whose largest scale is below this is stored as zero bytes.
    const NOTHING: f32 = 1e-15;
    let (mut block, scales) = symmetric(x, |x| fit_by_scale(x, LIMIT));
    let peak = peak(&scales);
    if peak.abs() < NOTHING {
        block.quants = [-LIMIT; ELEMENTS];
        return block;
    }
    let inverse = -128.0 / peak;
    block.scale = f16::from_f32(1.0 / inverse);
    block.scales = scales.map(|scale| nearest(inverse * scale).clamp(-128, 127) as i8);
    requantise(&mut block, x, LIMIT);
    block
}

/// The quants of each sub-block's search, and the scales that it found.
fn symmetric(
    x: &SuperBlock,
    fit: impl Fn(&[f32; 16]) -> SymmetricFit<16>,
) -> (Symmetric, [f32; 16]) {
    let mut block = Symmetric {
        scale: f16::ZERO,
        scales: [0; 16],
        quants: [0; ELEMENTS],
    };
    let mut scales = [0.0; 16];
    let (sub_blocks, _) = x.as_chunks::<16>();
    for (index, x) in sub_blocks.iter().enumerate() {
        let fit = fit(x);
        scales[index] = fit.scale;
        block.quants[index * 16..][..16].copy_from_slice(&fit.quants);
    }
    (block, scales)
}

/// The scale of largest magnitude, with its sign; the first of equals.
fn peak(scales: &[f32; 16]) -> f32 {
    let larger = |peak: f32, x: &f32| if x.abs() > peak.abs() { *x } else { peak };
    scales.iter().fold(0.0, larger)
}

/// Every quant anew for the rounded scales. A sub-block without a scale keeps the quants of its search.
fn requantise(block: &mut Symmetric, x: &SuperBlock, limit: i8) {
    let (sub_blocks, _) = x.as_chunks::<16>();
    let (quants, _) = block.quants.as_chunks_mut::<16>();
    let (lowest, highest) = (-i32::from(limit), i32::from(limit) - 1);
    for (index, (x, quants)) in sub_blocks.iter().zip(quants).enumerate() {
        let scale = block.scale.to_f32() * f32::from(block.scales[index]);
        if scale != 0.0 {
            *quants = x.map(|x| nearest(x / scale).clamp(lowest, highest) as i8);
        }
    }
}
