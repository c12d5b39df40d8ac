//! The sums that every kernel set must reproduce bit for bit.

use crate::reference::quantise::{QuantisedRow, quantise_row};
use crate::view::{Q8Block, WeightView, read_f32};
use odmoe_formats::BlockFormat;

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

/// Sum over blocks, ascending, of (weight scale * activation scale) * integer dot: one fused multiply-add a block.
pub fn dot_q8(weight: &[Q8Block], x: &QuantisedRow<'_>) -> f32 {
    assert_eq!(weight.len(), x.scales.len());
    let mut sum = 0.0f32;
    for (block, (quants, &scale)) in weight.iter().zip(x.quants.iter().zip(x.scales)) {
        let dot: i32 = block
            .quants
            .iter()
            .zip(quants)
            .map(|(&w, &q)| i32::from(w) * i32::from(q))
            .sum();
        sum = (block.scale() * scale).mul_add(dot as f32, sum);
    }
    sum
}

/// Decodes a row to F32, exactly: also a binary16 scale times a signed byte fits the mantissa.
pub fn decode_row(weight: &WeightView<'_>, row: usize, out: &mut [f32]) {
    assert_eq!(out.len(), weight.columns);
    let bytes = weight.row(row);
    match weight.format {
        BlockFormat::F32 => {
            for (out, bytes) in out.iter_mut().zip(bytes.chunks_exact(4)) {
                *out = read_f32(bytes);
            }
        }
        BlockFormat::F16 => {
            for (out, bytes) in out.iter_mut().zip(bytes.chunks_exact(2)) {
                *out = half::f16::from_le_bytes([bytes[0], bytes[1]]).to_f32();
            }
        }
        BlockFormat::BF16 => {
            for (out, bytes) in out.iter_mut().zip(bytes.chunks_exact(2)) {
                *out = half::bf16::from_le_bytes([bytes[0], bytes[1]]).to_f32();
            }
        }
        BlockFormat::Q8_0 => {
            for (out, block) in out.chunks_exact_mut(32).zip(weight.q8_row(row)) {
                for (out, &quant) in out.iter_mut().zip(&block.quants) {
                    *out = block.scale() * f32::from(quant);
                }
            }
        }
        other => panic!("the CPU backend has no kernels for {other:?}"),
    }
}

/// out \[N\] = weight \[N, columns\] * x \[columns\].
pub fn linear(weight: &WeightView<'_>, x: &[f32], out: &mut [f32]) {
    assert_eq!(x.len(), weight.columns);
    assert_eq!(out.len(), weight.rows);
    if weight.format == BlockFormat::Q8_0 {
        let (mut quants, mut scales) = (vec![[0i8; 32]; x.len() / 32], vec![0.0f32; x.len() / 32]);
        quantise_row(x, &mut quants, &mut scales);
        let x = QuantisedRow {
            quants: &quants,
            scales: &scales,
        };
        for (row, out) in out.iter_mut().enumerate() {
            *out = dot_q8(weight.q8_row(row), &x);
        }
        return;
    }
    let mut decoded = vec![0.0f32; weight.columns];
    for (row, out) in out.iter_mut().enumerate() {
        decode_row(weight, row, &mut decoded);
        *out = dot(&decoded, x);
    }
}
