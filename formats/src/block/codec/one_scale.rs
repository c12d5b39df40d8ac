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
//! Each operation is rounded to binary32. Quants are chosen for the scale before it is rounded to binary16. The fifth bits are a little-endian u32, bit i that of element i; byte j of
//! the 4-bit quants holds element j below element j + 16.

use super::fields::{field, put_field};
use super::{put_f16, read_f16};

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

/// d = v / -8 for the value v of largest magnitude, so that v itself is the lowest quant.
pub(super) fn encode_q4_0(elements: &Block, block: &mut [u8; 18]) {
    let scale = peak(elements) / -8.0;
    block.fill(0);
    put_f16(block, 0, scale);
    put_nibbles(&mut block[2..], signed_quants(elements, scale, 8));
}

/// d spans the range of values in 15 steps, m is the least.
pub(super) fn encode_q4_1(elements: &Block, block: &mut [u8; 20]) {
    let (scale, minimum) = span(elements, 15);
    block.fill(0);
    put_f16(block, 0, scale);
    put_f16(block, 2, minimum);
    put_nibbles(
        &mut block[4..],
        unsigned_quants(elements, scale, minimum, 15),
    );
}

/// As `Q4_0`, with d = v / -16.
pub(super) fn encode_q5_0(elements: &Block, block: &mut [u8; 22]) {
    let scale = peak(elements) / -16.0;
    block.fill(0);
    put_f16(block, 0, scale);
    put_five_bits(&mut block[2..], signed_quants(elements, scale, 16));
}

/// As `Q4_1`, in 31 steps.
pub(super) fn encode_q5_1(elements: &Block, block: &mut [u8; 24]) {
    let (scale, minimum) = span(elements, 31);
    block.fill(0);
    put_f16(block, 0, scale);
    put_f16(block, 2, minimum);
    put_five_bits(
        &mut block[4..],
        unsigned_quants(elements, scale, minimum, 31),
    );
}

/// d = max |x| / 127; q = x / d, halves away from zero.
pub(super) fn encode_q8_0(elements: &Block, block: &mut [u8; 34]) {
    let scale = peak(elements).abs() / 127.0;
    let inverse = inverse(scale);
    put_f16(block, 0, scale);
    for (quant, x) in block[2..].iter_mut().zip(elements) {
        *quant = round_to_i8(x * inverse) as u8;
    }
}

/// The nearest integer, halves away from zero, as `f32::round` followed by a saturating cast gives it. That is a call
/// for each element on processors without a rounding instruction; this is plain arithmetic, and five times as fast.
pub(super) fn round_to_i8(x: f32) -> i8 {
    let x = x.clamp(-128.0, 127.0);
    let whole = x as i32;
    // Exact: both are multiples of the last place of `x`.
    let rest = x - whole as f32;
    (whole + i32::from(rest >= 0.5) - i32::from(rest <= -0.5)) as i8
}

/// The value of largest magnitude, with its sign; the first of equals.
fn peak(elements: &Block) -> f32 {
    let larger = |peak: f32, x: &f32| if x.abs() > peak.abs() { *x } else { peak };
    elements.iter().fold(0.0, larger)
}

/// The step that takes the range of the values in `steps`, and the least value.
fn span(elements: &Block, steps: u8) -> (f32, f32) {
    let (mut low, mut high) = (f32::MAX, f32::MIN);
    for x in elements {
        low = if *x < low { *x } else { low };
        high = if *x > high { *x } else { high };
    }
    ((high - low) / f32::from(steps), low)
}

/// x / `scale` + `offset` to the nearest, halves upwards, below twice the offset.
fn signed_quants(elements: &Block, scale: f32, offset: u8) -> [u8; ELEMENTS] {
    let inverse = inverse(scale);
    let middle = f32::from(offset) + 0.5;
    elements.map(|x| ((x * inverse + middle) as u8).min(2 * offset - 1))
}

/// (x - `minimum`) / `scale` to the nearest, halves upwards.
fn unsigned_quants(elements: &Block, scale: f32, minimum: f32, largest: u8) -> [u8; ELEMENTS] {
    let inverse = inverse(scale);
    elements.map(|x| (((x - minimum) * inverse + 0.5) as u8).min(largest))
}

fn inverse(scale: f32) -> f32 {
    if scale == 0.0 { 0.0 } else { 1.0 / scale }
}

fn put_nibbles(bytes: &mut [u8], quants: [u8; ELEMENTS]) {
    for (index, quant) in quants.into_iter().enumerate() {
        put_field::<4, 16>(bytes, index, quant);
    }
}

fn put_five_bits(bytes: &mut [u8], quants: [u8; ELEMENTS]) {
    for (index, quant) in quants.into_iter().enumerate() {
        put_field::<1, 1>(bytes, index, quant >> 4);
    }
    put_nibbles(&mut bytes[4..], quants);
}
