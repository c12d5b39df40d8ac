//! The sums that every kernel set must reproduce bit for bit.

use crate::reference::quantise::{QuantisedRow, quantise_row};
use crate::reference::quantised::dot_quantised;
use crate::view::WeightView;

/// Partial sums of a float sum. Element k goes to partial sum k mod 16 in ascending k, whatever the machine's
/// vectors are: one AVX-512 register, two of AVX2, four of NEON.
pub const LANES: usize = 16;

/// Adds up partial sums by halves: 8 to 8, 4 to 4, 2 to 2, 1 to 1.
#[inline(always)]
pub fn reduce(mut lanes: [f32; LANES]) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            lanes[lane] += lanes[lane + width];
        }
        width /= 2;
    }
    lanes[0]
}

/// Sum of a\[k\] * b\[k\], fused, in lanes. A last part of fewer than 16 elements is filled up with zeros.
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let mut lanes = [0.0f32; LANES];
    for (a, b) in a.chunks(LANES).zip(b.chunks(LANES)) {
        let (mut a_part, mut b_part) = ([0.0f32; LANES], [0.0f32; LANES]);
        a_part[..a.len()].copy_from_slice(a);
        b_part[..b.len()].copy_from_slice(b);
        for lane in 0..LANES {
            lanes[lane] = a_part[lane].mul_add(b_part[lane], lanes[lane]);
        }
    }
    reduce(lanes)
}

/// Sum of x\[k\], in lanes.
#[inline(always)]
pub fn sum(x: &[f32]) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let (parts, rest) = x.as_chunks::<LANES>();
    for part in parts {
        for lane in 0..LANES {
            lanes[lane] += part[lane];
        }
    }
    for (lane, x) in rest.iter().enumerate() {
        lanes[lane] += x;
    }
    reduce(lanes)
}

/// The largest element, in lanes; negative infinity of none. NaN is passed over.
#[inline(always)]
pub fn maximum(x: &[f32]) -> f32 {
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (parts, rest) = x.as_chunks::<LANES>();
    for part in parts {
        for lane in 0..LANES {
            lanes[lane] = larger(lanes[lane], part[lane]);
        }
    }
    for (lane, x) in rest.iter().enumerate() {
        lanes[lane] = larger(lanes[lane], *x);
    }
    lanes.into_iter().fold(f32::NEG_INFINITY, larger)
}

/// Decodes a row to F32, as the format's own decoder does.
pub fn decode_row(weight: &WeightView<'_>, row: usize, out: &mut [f32]) {
    weight.format.decode_row(&weight.any_row(row), out);
}

/// out \[N\] = weight \[N, columns\] * x \[columns\].
pub fn linear(weight: &WeightView<'_>, x: &[f32], out: &mut [f32]) {
    assert_eq!(x.len(), weight.columns);
    assert_eq!(out.len(), weight.rows);
    if !weight.format.is_float() {
        let blocks = x.len() / weight.format.block_elements();
        let (mut quants, mut scales) = (vec![0i8; x.len()], vec![0.0f32; blocks]);
        quantise_row(x, &mut quants, &mut scales);
        let x = QuantisedRow {
            quants: &quants,
            scales: &scales,
        };
        for (row, out) in out.iter_mut().enumerate() {
            *out = dot_quantised(weight.format, &weight.any_row(row), &x);
        }
        return;
    }
    let mut decoded = vec![0.0f32; weight.columns];
    for (row, out) in out.iter_mut().enumerate() {
        decode_row(weight, row, &mut decoded);
        *out = dot(&decoded, x);
    }
}
