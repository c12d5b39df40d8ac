//! Formats of 32 elements that share one scale, and in some a minimum: `Q4_0`, `Q4_1`, `Q5_0`, `Q5_1`, `Q8_0`.
//!
//! With a scale d, a minimum m and quants q, all stored, element i is
//!
//! | format | bytes | element |
//! |---|---|---|
//! | `Q4_0` | d, 16 of 4-bit q | d * (q - 8) |
//! | `Q4_1` | d, m, 16 of 4-bit q | d * q + m |
//! | `Q5_0` | d, 4 of fifth bits, 16 of 4-bit q | d * (q - 16) |
//! | `Q5_1` | d, m, 4 of fifth bits, 16 of 4-bit q | d * q + m |
//! | `Q8_0` | d, 32 of signed q | d * q |
//!
//! Each operation is rounded to binary32. The fifth bits are a little-endian u32, bit i that of element i; byte j of
//! the 4-bit quants holds element j below element j + 16.

use super::fields::field;
use super::read_f16;

const ELEMENTS: usize = 32;

type Block = [f32; ELEMENTS];

pub(super) fn decode_q4_0(block: &[u8; 18], elements: &mut Block) {
    let scale = read_f16(block, 0);
    for (index, out) in elements.iter_mut().enumerate() {
        *out = scale * (f32::from(nibble(&block[2..], index)) - 8.0);
    }
}

pub(super) fn decode_q4_1(block: &[u8; 20], elements: &mut Block) {
    let (scale, minimum) = (read_f16(block, 0), read_f16(block, 2));
    for (index, out) in elements.iter_mut().enumerate() {
        *out = scale * f32::from(nibble(&block[4..], index)) + minimum;
    }
}

pub(super) fn decode_q5_0(block: &[u8; 22], elements: &mut Block) {
    let scale = read_f16(block, 0);
    for (index, out) in elements.iter_mut().enumerate() {
        *out = scale * (f32::from(five_bits(&block[2..], index)) - 16.0);
    }
}

pub(super) fn decode_q5_1(block: &[u8; 24], elements: &mut Block) {
    let (scale, minimum) = (read_f16(block, 0), read_f16(block, 2));
    for (index, out) in elements.iter_mut().enumerate() {
        *out = scale * f32::from(five_bits(&block[4..], index)) + minimum;
    }
}

pub(super) fn decode_q8_0(block: &[u8; 34], elements: &mut Block) {
    let scale = read_f16(block, 0);
    for (out, quant) in elements.iter_mut().zip(&block[2..]) {
        *out = scale * f32::from(*quant as i8);
    }
}

fn nibble(quants: &[u8], index: usize) -> u8 {
    field::<4, 16>(quants, index)
}

/// Four bytes of fifth bits, then 16 of nibbles.
fn five_bits(quants: &[u8], index: usize) -> u8 {
    field::<1, 1>(quants, index) << 4 | nibble(&quants[4..], index)
}
