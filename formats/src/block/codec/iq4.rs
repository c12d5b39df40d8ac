//! `IQ4_NL` and `IQ4_XS`: four-bit codes into a table whose values lie closer together around zero, where most weights
//! do.
//!
//! With the scale d, codes q, and in `IQ4_XS` the scale s of a sub-block of 32 less 32, element i is
//!
//! | format | bytes | element |
//! |---|---|---|
//! | `IQ4_NL` | d, 16 of 4-bit q | d * `VALUES`\[q\] |
//! | `IQ4_XS` | d, 2 of upper bits of s, 4 of lower bits of s, 128 of 4-bit q | (d * s) * `VALUES`\[q\] |
//!
//! Each operation is rounded to binary32. Encoders do theirs in ggml's order, so that the same values give the same
//! bytes.

use super::fields::{field, put_field};
use super::k_quants::search::{NOTHING, nearest, peak};
use super::{put_f16, read_f16};
use std::cmp::Ordering;

/// Elements of a block of `IQ4_NL` and of a sub-block of `IQ4_XS`.
const SUB_BLOCK: usize = 32;
const SUPER_BLOCK: usize = 256;
const SUB_BLOCKS: usize = SUPER_BLOCK / SUB_BLOCK;

/// What the codes stand for.
const VALUES: [i8; 16] = [
    -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113,
];

pub(super) fn decode_iq4_nl(block: &[u8; 18], elements: &mut [f32; SUB_BLOCK]) {
    let scale = read_f16(block, 0);
    for (index, out) in elements.iter_mut().enumerate() {
        *out = scale * value(field::<4, 16>(&block[2..], index));
    }
}

pub(super) fn decode_iq4_xs(block: &[u8; 136], elements: &mut [f32; SUPER_BLOCK]) {
    let scale = read_f16(block, 0);
    for (index, out) in elements.iter_mut().enumerate() {
        let sub_block = index / SUB_BLOCK;
        let high = field::<2, 1>(&block[2..4], sub_block);
        let low = field::<4, 1>(&block[4..8], sub_block);
        let sub_scale = f32::from(high << 4 | low) - 32.0;
        *out = scale * sub_scale * value(field::<4, 16>(&block[8..], index));
    }
}

/// The scale of least error, and every code anew for it before it is rounded to binary16.
pub(super) fn encode_iq4_nl(elements: &[f32; SUB_BLOCK], block: &mut [u8; 18]) {
    let scale = fit(elements);
    block.fill(0);
    put_f16(block, 0, scale);
    put_codes(&mut block[2..], elements, scale);
}

/// The scale of least error for each sub-block; of them the one of largest magnitude becomes s = -32, and every code is
/// chosen anew for the product d * s.
pub(super) fn encode_iq4_xs(elements: &[f32; SUPER_BLOCK], block: &mut [u8; 136]) {
    let (sub_blocks, _) = elements.as_chunks::<SUB_BLOCK>();
    let mut scales = [0.0; SUB_BLOCKS];
    for (scale, elements) in scales.iter_mut().zip(sub_blocks) {
        *scale = fit(elements);
    }
    let scale = -peak(&scales) / 32.0;
    let inverse = inverse(scale);
    block.fill(0);
    put_f16(block, 0, scale);
    for (index, elements) in sub_blocks.iter().enumerate() {
        let sub_scale = nearest(inverse * scales[index]).clamp(-32, 31);
        let stored = (sub_scale + 32) as u8;
        put_field::<2, 1>(&mut block[2..4], index, stored >> 4);
        put_field::<4, 1>(&mut block[4..8], index, stored);
        let codes = &mut block[8 + 16 * index..][..16];
        put_codes(codes, elements, scale * sub_scale as f32);
    }
}

/// The scale of least squared error, weighted by the squares of the values, of sixteen: those that bring the value of
/// largest magnitude near the table's lowest. 0 for a block of zeros.
fn fit(x: &[f32; SUB_BLOCK]) -> f32 {
    const LOWEST: f32 = VALUES[0] as f32;
    let peak = peak(x);
    if peak.abs() < NOTHING {
        return 0.0;
    }
    // The first has the other sign: the largest becomes 127 less what the table lacks there.
    let (vx, vv) = weighted_sums(x, 1.0 / (-peak / LOWEST));
    let mut scale = if vv > 0.0 { vx / vv } else { 0.0 };
    let mut explained = scale * vx;
    for step in -7i8..=7 {
        let (vx, vv) = weighted_sums(x, (f32::from(step) + LOWEST) / peak);
        if vv > 0.0 && vx * vx > explained * vv {
            scale = vx / vv;
            explained = scale * vx;
        }
    }
    scale
}

/// The table's values for x / scale, times x and times themselves, summed with the squares of x as weights.
fn weighted_sums(x: &[f32; SUB_BLOCK], inverse: f32) -> (f32, f32) {
    let (mut vx, mut vv) = (0.0, 0.0);
    for x in x {
        let (weight, value) = (x * x, value(nearest_code(inverse * x)));
        vx += weight * value * x;
        vv += weight * value * value;
    }
    (vx, vv)
}

fn put_codes(bytes: &mut [u8], elements: &[f32; SUB_BLOCK], scale: f32) {
    let inverse = inverse(scale);
    for (index, x) in elements.iter().enumerate() {
        put_field::<4, 16>(bytes, index, nearest_code(inverse * x));
    }
}

fn value(code: u8) -> f32 {
    f32::from(VALUES[usize::from(code)])
}

/// The code of the value nearest to `x`, the upper of two as near; the last for NaN.
fn nearest_code(x: f32) -> u8 {
    // NaN is less than none of them.
    let is_less = |v: &i8| x.partial_cmp(&f32::from(*v)) == Some(Ordering::Less);
    let not_above = VALUES[1..].iter().filter(|v| !is_less(v));
    let below = not_above.count().min(VALUES.len() - 2) as u8;
    let (low, high) = (value(below), value(below + 1));
    if x - low < high - x { below } else { below + 1 }
}

fn inverse(scale: f32) -> f32 {
    if scale == 0.0 { 0.0 } else { 1.0 / scale }
}
