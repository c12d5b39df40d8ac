//! Where each format keeps the bits of a super-block: byte offsets here, the order of bits in [`fields`].
//!
//! | format | bytes |
//! |---|---|
//! | `Q2_K` | 16 of scale (low nibble) and minimum, 64 of quants, d, m |
//! | `Q3_K` | 32 of third bits, 64 of lower bits, 12 of scales, d |
//! | `Q4_K` | d, m, 12 of scales and minima, 128 of quants |
//! | `Q5_K` | d, m, 12 of scales and minima, 32 of fifth bits, 128 of lower bits |
//! | `Q6_K` | 128 of lower nibbles, 64 of upper bit pairs, 16 of signed scales, d |
//!
//! [`fields`]: super::super::fields

use super::super::fields::{field, put_field};
use super::{Affine, ELEMENTS, Symmetric};
use half::f16;
use std::array::from_fn;

/// What is added to a stored 6-bit scale of `Q3_K`, and to its quants and those of `Q6_K`, to make them unsigned.
const Q3_K_SCALE_OFFSET: i8 = 32;
const Q3_K_OFFSET: i8 = 4;
const Q6_K_OFFSET: i8 = 32;

pub(super) fn unpack_q2_k(block: &[u8; 84]) -> Affine<16> {
    let (scales, quants) = (&block[..16], &block[16..80]);
    Affine {
        scale: half_at(block, 80),
        minimum: half_at(block, 82),
        scales: from_fn(|index| scales[index] & 15),
        minima: from_fn(|index| scales[index] >> 4),
        quants: from_fn(|index| field::<2, 32>(quants, index)),
    }
}

pub(super) fn pack_q2_k(from: &Affine<16>, block: &mut [u8; 84]) {
    block.fill(0);
    for (index, (scale, minimum)) in from.scales.iter().zip(from.minima).enumerate() {
        block[index] = minimum << 4 | scale;
    }
    for (index, quant) in from.quants.iter().enumerate() {
        put_field::<2, 32>(&mut block[16..80], index, *quant);
    }
    put_half(block, 80, from.scale);
    put_half(block, 82, from.minimum);
}

pub(super) fn unpack_q3_k(block: &[u8; 110]) -> Symmetric {
    let (third, lower) = (&block[..32], &block[32..96]);
    let (scale_lower, scale_upper) = (&block[96..104], &block[104..108]);
    Symmetric {
        scale: half_at(block, 108),
        scales: from_fn(|index| {
            let lower = field::<4, 8>(scale_lower, index);
            let upper = field::<2, 4>(scale_upper, index);
            (upper << 4 | lower) as i8 - Q3_K_SCALE_OFFSET
        }),
        quants: from_fn(|index| {
            let lower = field::<2, 32>(lower, index);
            let third = field::<1, 32>(third, index);
            (third << 2 | lower) as i8 - Q3_K_OFFSET
        }),
    }
}

pub(super) fn pack_q3_k(from: &Symmetric, block: &mut [u8; 110]) {
    block.fill(0);
    for (index, scale) in from.scales.iter().enumerate() {
        let scale = (scale + Q3_K_SCALE_OFFSET) as u8;
        put_field::<4, 8>(&mut block[96..104], index, scale);
        put_field::<2, 4>(&mut block[104..108], index, scale >> 4);
    }
    for (index, quant) in from.quants.iter().enumerate() {
        let quant = (quant + Q3_K_OFFSET) as u8;
        put_field::<2, 32>(&mut block[32..96], index, quant);
        put_field::<1, 32>(&mut block[..32], index, quant >> 2);
    }
    put_half(block, 108, from.scale);
}

pub(super) fn unpack_q4_k(block: &[u8; 144]) -> Affine<8> {
    let quants = &block[16..];
    let quants = from_fn(|index| field::<4, 32>(quants, index));
    unpack_six_bit_affine(&block[..16], quants)
}

pub(super) fn pack_q4_k(from: &Affine<8>, block: &mut [u8; 144]) {
    block.fill(0);
    pack_six_bit_affine(from, &mut block[..16]);
    for (index, quant) in from.quants.iter().enumerate() {
        put_field::<4, 32>(&mut block[16..], index, *quant);
    }
}

pub(super) fn unpack_q5_k(block: &[u8; 176]) -> Affine<8> {
    let (fifth, lower) = (&block[16..48], &block[48..]);
    let quants = from_fn(|index| field::<1, 32>(fifth, index) << 4 | field::<4, 32>(lower, index));
    unpack_six_bit_affine(&block[..16], quants)
}

pub(super) fn pack_q5_k(from: &Affine<8>, block: &mut [u8; 176]) {
    block.fill(0);
    pack_six_bit_affine(from, &mut block[..16]);
    for (index, quant) in from.quants.iter().enumerate() {
        put_field::<1, 32>(&mut block[16..48], index, quant >> 4);
        put_field::<4, 32>(&mut block[48..], index, *quant);
    }
}

pub(super) fn unpack_q6_k(block: &[u8; 210]) -> Symmetric {
    let (lower, upper) = (&block[..128], &block[128..192]);
    Symmetric {
        scale: half_at(block, 208),
        scales: from_fn(|index| block[192 + index] as i8),
        quants: from_fn(|index| {
            let lower = field::<4, 64>(lower, index);
            let upper = field::<2, 32>(upper, index);
            (upper << 4 | lower) as i8 - Q6_K_OFFSET
        }),
    }
}

pub(super) fn pack_q6_k(from: &Symmetric, block: &mut [u8; 210]) {
    block.fill(0);
    for (index, quant) in from.quants.iter().enumerate() {
        let quant = (quant + Q6_K_OFFSET) as u8;
        put_field::<4, 64>(&mut block[..128], index, quant);
        put_field::<2, 32>(&mut block[128..192], index, quant >> 4);
    }
    for (index, scale) in from.scales.iter().enumerate() {
        block[192 + index] = *scale as u8;
    }
    put_half(block, 208, from.scale);
}

/// The 16 bytes before the quants of `Q4_K` and `Q5_K`. Of the 12 after d and m, the first four hold the scales of
/// sub-blocks 0 to 3 below the upper two bits of the scales of 4 to 7, the second four the minima in the same way,
/// and the last four the lower nibbles of 4 to 7: the scale's below the minimum's.
fn unpack_six_bit_affine(head: &[u8], quants: [u8; ELEMENTS]) -> Affine<8> {
    let (scales, minima, rest) = (&head[4..8], &head[8..12], &head[12..16]);
    let six_bits = |first: &[u8], index: usize, shift: u32| match index {
        0..4 => first[index] & 63,
        _ => (first[index - 4] >> 6) << 4 | (rest[index - 4] >> shift) & 15,
    };
    Affine {
        scale: half_at(head, 0),
        minimum: half_at(head, 2),
        scales: from_fn(|index| six_bits(scales, index, 0)),
        minima: from_fn(|index| six_bits(minima, index, 4)),
        quants,
    }
}

/// The inverse of [`unpack_six_bit_affine`], into zeros.
fn pack_six_bit_affine(from: &Affine<8>, head: &mut [u8]) {
    put_half(head, 0, from.scale);
    put_half(head, 2, from.minimum);
    for index in 0..4 {
        let (scale, minimum) = (from.scales[index + 4], from.minima[index + 4]);
        head[4 + index] = (scale >> 4) << 6 | from.scales[index];
        head[8 + index] = (minimum >> 4) << 6 | from.minima[index];
        head[12 + index] = minimum << 4 | scale & 15;
    }
}

fn half_at(bytes: &[u8], at: usize) -> f16 {
    f16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn put_half(bytes: &mut [u8], at: usize, value: f16) {
    bytes[at..at + 2].copy_from_slice(&value.to_le_bytes());
}
