//! Norms and element-wise ops. Plain loops in a form that vectorises; every kernel set compiles this same source.

use crate::reference::dot::{LANES, reduce};
use crate::reference::exp::{sigmoid, silu};

/// x = x / sqrt(mean(x^2) + epsilon) * weight, in place on one row.
#[inline(always)]
pub fn rms_norm_row(x: &mut [f32], weight: &[f32], epsilon: f32) {
    assert_eq!(x.len(), weight.len());
    let factor = 1.0 / (sum_of_squares(x) / x.len() as f32 + epsilon).sqrt();
    for (x, weight) in x.iter_mut().zip(weight) {
        *x = *x * factor * weight;
    }
}

#[inline(always)]
fn sum_of_squares(x: &[f32]) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let parts = x.chunks_exact(LANES);
    let rest = parts.remainder();
    for part in parts {
        for lane in 0..LANES {
            lanes[lane] = part[lane].mul_add(part[lane], lanes[lane]);
        }
    }
    for (lane, x) in rest.iter().enumerate() {
        lanes[lane] = x.mul_add(*x, lanes[lane]);
    }
    reduce(lanes)
}

/// into += x.
#[inline(always)]
pub fn add_in_place(x: &[f32], into: &mut [f32]) {
    assert_eq!(x.len(), into.len());
    for (into, x) in into.iter_mut().zip(x) {
        *into += x;
    }
}

/// into += sigmoid(gate) * x: one factor for the row, and one rounding an element.
#[inline(always)]
pub fn add_gated_row(gate: f32, x: &[f32], into: &mut [f32]) {
    assert_eq!(x.len(), into.len());
    let factor = sigmoid(gate);
    for (into, x) in into.iter_mut().zip(x) {
        *into = factor.mul_add(*x, *into);
    }
}

/// gate = silu(gate) * up.
#[inline(always)]
pub fn silu_mul(gate: &mut [f32], up: &[f32]) {
    assert_eq!(gate.len(), up.len());
    for (gate, up) in gate.iter_mut().zip(up) {
        *gate = silu(*gate) * up;
    }
}

/// Turns one head [D] by the angles whose cosines and sines [D / 2] are given: element i with element i + D / 2.
/// Products are rounded before they are added, as the usual implementations do.
#[inline(always)]
pub fn rotate_head(head: &mut [f32], cos: &[f32], sin: &[f32]) {
    let (first, second) = head.split_at_mut(head.len() / 2);
    assert!(first.len() == second.len() && first.len() == cos.len() && cos.len() == sin.len());
    for i in 0..first.len() {
        let (a, b) = (first[i], second[i]);
        first[i] = a * cos[i] - b * sin[i];
        second[i] = b * cos[i] + a * sin[i];
    }
}

/// into [H] += sum over j ascending of weights\[j\] * outputs [K, H]\[j\]; the sum starts from zero.
#[inline(always)]
pub fn combine_row(outputs: &[f32], weights: impl Fn(usize) -> f32, into: &mut [f32]) {
    let hidden = into.len();
    // Pieces keep the running sums in registers.
    for (piece, into) in into.chunks_mut(LANES).enumerate() {
        let mut sums = [0.0f32; LANES];
        for (j, output) in outputs.chunks_exact(hidden).enumerate() {
            let weight = weights(j);
            for (sum, output) in sums.iter_mut().zip(&output[piece * LANES..][..into.len()]) {
                *sum = weight.mul_add(*output, *sum);
            }
        }
        for (into, sum) in into.iter_mut().zip(sums) {
            *into += sum;
        }
    }
}
