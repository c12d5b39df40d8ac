//! `MXFP4`: 32 elements of four bits (E2M1) under one power of two (E8M0), in ggml's order of nibbles.
//!
//! Byte 0 is the exponent e, byte 1 + j holds element j below element j + 16. An element is `VALUES`\[q\] * 2^(e - 128):
//! twice the E2M1 value times half the scale, so that both factors are exact. Two things differ from the OCP
//! specification: e = 255 is a power of two like the others rather than NaN, and negative zero decodes to zero.

use super::fields::{field, put_field};

const ELEMENTS: usize = 32;

/// Twice the value of each E2M1 code.
const VALUES: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

pub(super) fn decode(block: &[u8; 17], elements: &mut [f32; ELEMENTS]) {
    let scale = half_scale(block[0]);
    for (index, out) in elements.iter_mut().enumerate() {
        let code = field::<4, 16>(&block[1..], index);
        *out = scale * f32::from(VALUES[usize::from(code)]);
    }
}

/// The exponent is that of the largest magnitude less two, so that its codes are 4 and 6; each element takes the code
/// of least error, the lower of equals.
pub(super) fn encode(elements: &[f32; ELEMENTS], block: &mut [u8; 17]) {
    let largest = elements
        .iter()
        .fold(0.0f32, |largest, x| largest.max(x.abs()));
    block.fill(0);
    block[0] = exponent(largest);
    let scale = half_scale(block[0]);
    for (index, x) in elements.iter().enumerate() {
        put_field::<4, 16>(&mut block[1..], index, nearest_code(*x, scale));
    }
}

/// floor(log2(`largest`)) + 125, or 0 where that is negative.
fn exponent(largest: f32) -> u8 {
    if largest == 0.0 {
        return 0;
    }
    // ggml floors a logarithm that is rounded to binary32: just below a power of two that is the power itself.
    let logarithm = f64::from(largest).log2() as f32;
    (logarithm.floor() - 2.0 + 127.0) as u8
}

fn nearest_code(x: f32, scale: f32) -> u8 {
    let error = |code: u8| (scale * f32::from(VALUES[usize::from(code)]) - x).abs();
    let nearer = |best: u8, code: u8| {
        if error(code) < error(best) {
            code
        } else {
            best
        }
    };
    (1..16).fold(0, nearer)
}

/// 2^(exponent - 128). The two smallest are subnormal.
fn half_scale(exponent: u8) -> f32 {
    const SMALLEST_NORMAL: u32 = 1 << 23;
    f32::from_bits(match exponent {
        0 | 1 => SMALLEST_NORMAL >> (2 - exponent),
        _ => u32::from(exponent - 1) << 23,
    })
}
