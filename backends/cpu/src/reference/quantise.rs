//! Activations as 8-bit blocks, for products with quantised weights.
//!
//! A block has as many elements as the weight's: 32, or 256 for those with superblocks.

/// A token's activations, quantised.
#[derive(Clone, Copy)]
pub struct QuantisedRow<'a> {
    /// [columns].
    pub quants: &'a [i8],
    /// One scale a block. It stays F32: rounding it to binary16 as ggml does would only lose accuracy.
    pub scales: &'a [f32],
}

/// 1.5 * 2^23: adding it rounds a float below 2^22 to the nearest integer, ties to even.
const ROUNDER: f32 = 12_582_912.0;
/// 2^-120. A block of smaller floats counts as zeros: 127 divided by them would overflow.
const ALL_BUT_ZERO: f32 = f32::from_bits(0x0380_0000);

/// Quantises a row block by block; there are as many blocks as scales.
pub fn quantise_row(x: &[f32], quants: &mut [i8], scales: &mut [f32]) {
    assert!(x.len() == quants.len() && x.len().is_multiple_of(scales.len().max(1)));
    let elements = x.len() / scales.len().max(1);
    let blocks = x
        .chunks_exact(elements)
        .zip(quants.chunks_exact_mut(elements));
    for ((x, quants), scale) in blocks.zip(scales) {
        *scale = quantise_block(x, quants);
    }
}

/// Quantises a block of floats: scale = max |x| / 127, quant = x / scale to the nearest integer, ties to even.
/// Returns the scale.
///
/// The quotient is taken as a product with 127 / max |x|, which is at most 127 after rounding. A block of zeros, or
/// of floats too small for that, has scale 0. A block that holds an infinity or NaN has a NaN scale: the result is
/// NaN, as float formats give.
#[inline(always)]
pub fn quantise_block(x: &[f32], quants: &mut [i8]) -> f32 {
    assert_eq!(x.len(), quants.len());
    // The bits of |x| order as integers do, with infinity and NaN on top; an integer maximum also vectorises.
    let largest_bits = x
        .iter()
        .fold(0u32, |largest, x| largest.max(x.to_bits() & 0x7fff_ffff));
    let largest = f32::from_bits(largest_bits);
    if !largest.is_finite() {
        quants.fill(0);
        return f32::NAN;
    }
    let scale = largest / 127.0;
    let inverse = if largest >= ALL_BUT_ZERO {
        127.0 / largest
    } else {
        0.0
    };
    for (quant, x) in quants.iter_mut().zip(x) {
        let rounded = x.mul_add(inverse, ROUNDER);
        *quant = (rounded.to_bits() as i32).wrapping_sub(ROUNDER.to_bits() as i32) as i8;
    }
    if inverse == 0.0 { 0.0 } else { scale }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quantise(x: [f32; 32]) -> ([i8; 32], f32) {
        let (mut quants, mut scales) = ([0i8; 32], [0.0]);
        quantise_row(&x, &mut quants, &mut scales);
        (quants, scales[0])
    }

    #[test]
    fn the_largest_becomes_127_and_ties_go_to_even() {
        let mut x = [0.0; 32];
        x[..6].copy_from_slice(&[127.0, -127.0, 0.5, 1.5, -2.5, 3.4]);
        let (quants, scale) = quantise(x);
        assert_eq!(scale, 1.0);
        assert_eq!(quants[..6], [127, -127, 0, 2, -2, 3]);
        assert_eq!(quants[6..], [0; 26]);
    }

    #[test]
    fn zeros_and_the_tiniest_floats_give_zeros() {
        for tiny in [0.0, f32::from_bits(1), 1e-38] {
            let (quants, scale) = quantise([tiny; 32]);
            assert_eq!((quants, scale), ([0; 32], 0.0));
        }
    }

    #[test]
    fn quants_never_leave_127() {
        for largest in [1e-35, 0.1, 1.0 / 3.0, 1e30, 1e38] {
            let (quants, scale) = quantise([largest; 32]);
            assert_eq!(quants, [127; 32], "{largest}");
            assert!((scale * 127.0 - largest).abs() <= largest * 1e-6);
        }
    }

    #[test]
    fn each_block_has_its_own_scale_whatever_its_length() {
        let x: Vec<f32> = (0..512).map(|i| if i < 256 { 1.0 } else { 8.0 }).collect();
        for blocks in [2, 16] {
            let (mut quants, mut scales) = (vec![0; 512], vec![0.0; blocks]);
            quantise_row(&x, &mut quants, &mut scales);
            assert_eq!(quants, [127; 512]);
            assert_eq!(scales[0] * 8.0, scales[blocks - 1]);
        }
    }

    #[test]
    fn what_is_not_finite_gives_nan() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut x = [1.0; 32];
            x[7] = bad;
            assert!(quantise(x).1.is_nan());
        }
    }
}
