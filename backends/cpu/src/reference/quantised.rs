//! Quantised weights as integers, and their products with quantised activations: the definition that every kernel
//! reproduces.
//!
//! Layouts are ggml's. Each element is read by its number alone, one after another.

use crate::reference::quantise::QuantisedRow;
use half::f16;
use odmoe_formats::BlockFormat;

/// Elements of the largest block.
pub const ELEMENTS_MAX: usize = 256;

/// A block of weights: element i is `scale * quants[i] + minimum * minima[i]`, where the scales and minima of
/// sub-blocks are integers and part of `quants` and `minima`.
///
/// What a block can hold keeps every sum in the range of i32, whatever its bytes are. Activations are at most 127 in
/// magnitude, so |sum of quants[i] * x[i]| is at most 127 * 256 * 128 * 32 (Q6_K: sub-block scales to 128, quants to
/// 32), about 133 million; IQ4_XS follows with 127 * 256 * 32 * 127 and Q5_K with 127 * 256 * 63 * 31. Sums of minima stay below 127 * 256 * 63.
pub struct Integers {
    /// The block's unit.
    pub scale: f32,
    /// The unit of its minima, with its sign; None in a format without minima.
    pub minimum: Option<f32>,
    /// [elements of a block], then unused.
    pub quants: [i32; ELEMENTS_MAX],
    /// [elements of a block], then unused.
    pub minima: [i32; ELEMENTS_MAX],
}

impl Integers {
    /// Reads one block.
    pub fn read(format: BlockFormat, block: &[u8]) -> Self {
        assert_eq!(block.len(), format.block_bytes());
        let (scale, minimum) = units(format, block);
        let (mut quants, mut minima) = ([0; ELEMENTS_MAX], [0; ELEMENTS_MAX]);
        for element in 0..format.block_elements() {
            let (sub_scale, sub_minimum) = sub_block(format, block, element);
            quants[element] = sub_scale * quant(format, block, element);
            minima[element] = sub_minimum;
        }
        Self {
            scale,
            minimum,
            quants,
            minima,
        }
    }
}

/// Sum over blocks, in ascending order. Each does one fused multiply-add of (weight scale * activation scale) with
/// the integer dot, and in formats with minima a second, of (minimum * activation scale) with the integer sum of
/// sub-block minima times activations. The integers are exact; each becomes F32 with one rounding.
pub fn dot_quantised(format: BlockFormat, weight: &[u8], x: &QuantisedRow<'_>) -> f32 {
    let blocks = weight.chunks_exact(format.block_bytes());
    assert_eq!(blocks.len(), x.scales.len());
    let mut sum = 0.0f32;
    let activations = x.quants.chunks_exact(format.block_elements()).zip(x.scales);
    for (block, (quants, &scale)) in blocks.zip(activations) {
        let weight = Integers::read(format, block);
        let dot = |integers: &[i32]| -> i32 {
            let products = integers.iter().zip(quants).map(|(w, &x)| w * i32::from(x));
            products.sum()
        };
        sum = (weight.scale * scale).mul_add(dot(&weight.quants) as f32, sum);
        if let Some(minimum) = weight.minimum {
            sum = (minimum * scale).mul_add(dot(&weight.minima) as f32, sum);
        }
    }
    sum
}

fn half_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// The block's scale, and its minimum where it has one.
fn units(format: BlockFormat, block: &[u8]) -> (f32, Option<f32>) {
    use BlockFormat as F;
    match format {
        F::Q8_0 | F::Q4_0 | F::Q5_0 | F::IQ4_NL | F::IQ4_XS => (half_at(block, 0), None),
        F::Q4_1 | F::Q5_1 => (half_at(block, 0), Some(half_at(block, 2))),
        F::MXFP4 => (mxfp4_scale(block[0]), None),
        F::Q2_K => (half_at(block, 80), Some(-half_at(block, 82))),
        F::Q3_K => (half_at(block, 108), None),
        F::Q4_K | F::Q5_K => (half_at(block, 0), Some(-half_at(block, 2))),
        F::Q6_K => (half_at(block, 208), None),
        other => panic!("{other} has no integers"),
    }
}

/// 2^(exponent - 128): half of what the exponent says, because the 4-bit floats are read as twice their value.
fn mxfp4_scale(exponent: u8) -> f32 {
    2f64.powi(i32::from(exponent) - 128) as f32
}

/// Twice the value of a 4-bit float: sign, two bits of exponent, one of mantissa.
fn mxfp4_twice(code: i32) -> i32 {
    const MAGNITUDES: [i32; 8] = [0, 1, 2, 3, 4, 6, 8, 12];
    let magnitude = MAGNITUDES[(code & 7) as usize];
    if code & 8 == 0 { magnitude } else { -magnitude }
}

/// The value of a 4-bit code of IQ4_NL and IQ4_XS.
fn iq4_value(code: i32) -> i32 {
    const VALUES: [i32; 16] = [
        -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113,
    ];
    VALUES[code as usize]
}

/// `count` bits of a byte from bit `first` on.
fn bits(byte: u8, first: usize, count: usize) -> i32 {
    i32::from(byte >> first) & ((1 << count) - 1)
}

/// An element before its scales.
fn quant(format: BlockFormat, block: &[u8], i: usize) -> i32 {
    use BlockFormat as F;
    // Blocks of 32: byte i % 16 holds element i % 16 in its lower half and element i % 16 + 16 in its upper.
    let nibble = |first: usize| bits(block[first + i % 16], i / 16 * 4, 4);
    let fifth = |first: usize| bits(block[first + i / 8], i % 8, 1) << 4;
    // Blocks of 256: parts of 128, and in each quarters of 32, whose elements lie in the bits of the same 32 bytes.
    let (part, quarter, byte) = (i / 128, i % 128 / 32, i % 32);
    let two = |first: usize| bits(block[first + 32 * part + byte], 2 * quarter, 2);
    let four = |first: usize| bits(block[first + 32 * (i / 64) + byte], i % 64 / 32 * 4, 4);
    match format {
        F::Q8_0 => i32::from(block[2 + i] as i8),
        F::Q4_0 => nibble(2) - 8,
        F::Q4_1 => nibble(4),
        F::Q5_0 => (nibble(6) | fifth(2)) - 16,
        F::Q5_1 => nibble(8) | fifth(4),
        F::MXFP4 => mxfp4_twice(nibble(1)),
        F::IQ4_NL => iq4_value(nibble(2)),
        F::IQ4_XS => iq4_value(bits(block[8 + 16 * (i / 32) + i % 16], i % 32 / 16 * 4, 4)),
        F::Q2_K => two(16),
        F::Q3_K => two(32) + 4 * bits(block[byte], i / 32, 1) - 4,
        F::Q4_K => four(16),
        F::Q5_K => four(48) | bits(block[16 + byte], i / 32, 1) << 4,
        F::Q6_K => {
            let low = block[64 * part + quarter % 2 * 32 + byte];
            (bits(low, quarter / 2 * 4, 4) | two(128) << 4) - 32
        }
        other => panic!("{other} has no integers"),
    }
}

/// The scale and the minimum of an element's sub-block.
fn sub_block(format: BlockFormat, block: &[u8], i: usize) -> (i32, i32) {
    use BlockFormat as F;
    match format {
        F::Q8_0 | F::Q4_0 | F::Q5_0 | F::MXFP4 | F::IQ4_NL => (1, 0),
        F::Q4_1 | F::Q5_1 => (1, 1),
        F::Q2_K => (bits(block[i / 16], 0, 4), bits(block[i / 16], 4, 4)),
        F::Q3_K => (q3_k_scale(&block[96..108], i / 16), 0),
        F::Q4_K | F::Q5_K => q4_k_scales(&block[4..16], i / 32),
        F::Q6_K => (i32::from(block[192 + i / 16] as i8), 0),
        F::IQ4_XS => (iq4_xs_scale(block, i / 32), 0),
        other => panic!("{other} has no integers"),
    }
}

/// Six bits in two places: the lower four of sub-blocks in the halves of four bytes, the upper two before them in two.
fn iq4_xs_scale(block: &[u8], s: usize) -> i32 {
    let high = bits(block[2 + s / 4], s % 4 * 2, 2);
    let low = bits(block[4 + s / 2], s % 2 * 4, 4);
    (low | high << 4) - 32
}

/// Six bits in two places: the lower four of sub-blocks 0 to 7 and 8 to 15 in the halves of eight bytes, the upper
/// two of s in byte 8 + s % 4.
fn q3_k_scale(packed: &[u8], s: usize) -> i32 {
    let low = bits(packed[s % 8], s / 8 * 4, 4);
    let high = bits(packed[8 + s % 4], s / 4 * 2, 2);
    (low | high << 4) - 32
}

/// Six bits each. Of sub-blocks 0 to 3 they are the lower six of a byte; those of 4 to 7 are split into a half of
/// a byte of their own and the upper two bits of the bytes before.
fn q4_k_scales(packed: &[u8], s: usize) -> (i32, i32) {
    if s < 4 {
        return (bits(packed[s], 0, 6), bits(packed[s + 4], 0, 6));
    }
    let own = packed[s + 4];
    let scale = bits(own, 0, 4) | bits(packed[s - 4], 6, 2) << 4;
    let minimum = bits(own, 4, 4) | bits(packed[s], 6, 2) << 4;
    (scale, minimum)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::quantise::quantise_row;

    /// A seeded stream of bits (xorshift).
    struct Bits(u64);

    impl Bits {
        fn next(&mut self) -> u64 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
        }

        /// About normal, of variance one: the sum of twelve uniforms.
        fn normal(&mut self) -> f32 {
            let uniform = |bits: u64| (bits >> 40) as f32 / (1u64 << 24) as f32;
            (0..12).map(|_| uniform(self.next())).sum::<f32>() - 6.0
        }
    }

    fn quantised() -> impl Iterator<Item = BlockFormat> {
        BlockFormat::ALL.into_iter().filter(|f| !f.is_float())
    }

    fn integers_at(format: BlockFormat, block: &[u8], i: usize) -> f32 {
        let all = Integers::read(format, block);
        let product = all.scale * all.quants[i] as f32;
        match all.minimum {
            Some(minimum) => product + minimum * all.minima[i] as f32,
            None => product,
        }
    }

    /// Both products of an element are exact, so that the decoder's own order of products gives the same bits.
    #[test]
    fn integers_are_what_the_decoder_of_each_format_decodes() {
        let seed = 0x0dd5_eed5;
        let mut bits = Bits(seed);
        for format in quantised() {
            for round in 0..200 {
                let mut block = vec![0u8; format.block_bytes()];
                match round {
                    0 => block.fill(0xff),
                    1 => block.fill(0x7f),
                    2 => block.fill(0x80),
                    _ => block.iter_mut().for_each(|byte| *byte = bits.next() as u8),
                }
                let mut decoded = vec![0.0f32; format.block_elements()];
                format.decode_row(&block, &mut decoded);
                for (i, &decoded) in decoded.iter().enumerate() {
                    let own = integers_at(format, &block, i);
                    assert!(
                        own == decoded || (own.is_nan() && decoded.is_nan()),
                        "{format}, seed {seed:#x}, round {round}, element {i}: {own} and {decoded}"
                    );
                }
            }
        }
    }

    /// Against the product of the decoded weights in double precision. Rounding an activation to 127 steps moves it by
    /// at most half a step; the conversions, products and fused additions of a block round by 2^-24 each, of terms that
    /// the sum of magnitudes bounds.
    #[test]
    fn products_are_those_of_the_decoded_weights_up_to_the_rounding_of_activations() {
        let seed = 0x5eed;
        let mut bits = Bits(seed);
        for format in quantised() {
            let (columns, mut used) = (1024, 0.0f64);
            for _ in 0..20 {
                let original: Vec<f32> = (0..columns).map(|_| 0.02 * bits.normal()).collect();
                let x: Vec<f32> = (0..columns).map(|_| bits.normal()).collect();
                let mut row = vec![0; format.row_bytes(columns as u64).unwrap() as usize];
                format.encode_row(&original, &mut row);
                let mut weight = vec![0.0f32; columns];
                format.decode_row(&row, &mut weight);

                let blocks = columns / format.block_elements();
                let (mut quants, mut scales) = (vec![0; columns], vec![0.0; blocks]);
                quantise_row(&x, &mut quants, &mut scales);
                let quantised = QuantisedRow {
                    quants: &quants,
                    scales: &scales,
                };
                let actual = f64::from(dot_quantised(format, &row, &quantised));
                let (mut exact, mut bound) = (0.0, 0.0);
                for (i, (&w, &x)) in weight.iter().zip(&x).enumerate() {
                    let (w, x) = (f64::from(w), f64::from(x));
                    let half_step = f64::from(scales[i / format.block_elements()]) / 2.0;
                    exact += w * x;
                    bound += w.abs() * half_step;
                }
                let terms = magnitude(format, &row, &quantised);
                bound = bound * 1.001 + terms * (2 * blocks + 4) as f64 * 2f64.powi(-24);
                let error = (actual - exact).abs();
                used = used.max(error / bound);
                assert!(
                    error <= bound,
                    "{format}, seed {seed:#x}: off by {error}, at most {bound}"
                );
            }
            // The bound means something: errors are random, and still some part of it.
            assert!(used > 0.005, "{format}: at most {used} of the bound");
        }
    }

    /// Sum of the magnitudes of what is added, minima apart from products.
    fn magnitude(format: BlockFormat, row: &[u8], x: &QuantisedRow<'_>) -> f64 {
        let elements = format.block_elements();
        let blocks = row.chunks_exact(format.block_bytes());
        let mut sum = 0.0;
        for (block, (quants, &scale)) in blocks.zip(x.quants.chunks_exact(elements).zip(x.scales)) {
            let weight = Integers::read(format, block);
            let dot = |integers: &[i32]| -> f64 {
                let products = integers.iter().zip(quants);
                products
                    .map(|(&w, &x)| f64::from(w) * f64::from(x))
                    .sum::<f64>()
                    .abs()
            };
            let minimum = f64::from(weight.minimum.unwrap_or(0.0)).abs() * dot(&weight.minima);
            sum +=
                f64::from(scale) * (f64::from(weight.scale).abs() * dot(&weight.quants) + minimum);
        }
        sum
    }

    #[test]
    fn a_block_worked_by_hand() {
        // Scale 2, minimum -1 (both binary16), quants 0 to 15 twice, against activations 1 (127 steps) everywhere.
        let mut block = vec![0x00, 0x40, 0x00, 0xbc];
        block.extend((0..16).map(|i: u8| i | i << 4));
        let x = QuantisedRow {
            quants: &[127; 32],
            scales: &[1.0 / 127.0],
        };
        // 2 * 240 - 32, up to the rounding of 1 / 127.
        let dot = dot_quantised(BlockFormat::Q4_1, &block, &x);
        assert!((dot - 448.0).abs() < 1e-4, "{dot}");
    }
}
