//! Attention of one query head over its sequence.

use crate::reference::dot::{dot, maximum};
use crate::reference::exp::exp;
use crate::reference::router::exponentials;

/// Positions in one split. Splits start at multiples of it, whatever the batch, chunk or block size.
pub const SPLIT: usize = 256;

/// Softmax state over the splits so far: `values` [D] and `total` are in units of e^largest.
pub struct Merged<'a> {
    /// The largest score.
    pub largest: f32,
    /// Sum of exponentials.
    pub total: f32,
    /// Weighted sum of values, [D].
    pub values: &'a mut [f32],
}

impl<'a> Merged<'a> {
    /// Before the first split.
    #[inline(always)]
    pub fn start(values: &'a mut [f32]) -> Self {
        values.fill(0.0);
        Self {
            largest: f32::NEG_INFINITY,
            total: 0.0,
            values,
        }
    }

    /// Adds the next split in ascending order of position.
    #[inline(always)]
    pub fn merge(&mut self, largest: f32, total: f32, values: &[f32]) {
        let new_largest = if largest > self.largest {
            largest
        } else {
            self.largest
        };
        let old_factor = exp(self.largest - new_largest);
        let factor = exp(largest - new_largest);
        self.largest = new_largest;
        self.total = self.total.mul_add(old_factor, total * factor);
        for (old, new) in self.values.iter_mut().zip(values) {
            *old = old.mul_add(old_factor, new * factor);
        }
    }

    /// Divides by the sum of exponentials: the values are the result.
    #[inline(always)]
    pub fn finish(self) {
        for value in self.values {
            *value /= self.total;
        }
    }
}

/// out \[D\] of one query head \[D\] that sees `visible` positions; `key` and `value` decode those of a position.
pub fn attend(
    q: &[f32],
    scale: f32,
    visible: usize,
    key: impl Fn(usize, &mut [f32]),
    value: impl Fn(usize, &mut [f32]),
    out: &mut [f32],
) {
    let mut row = vec![0.0f32; q.len()];
    let mut merged = Merged::start(out);
    for start in (0..visible).step_by(SPLIT) {
        let end = visible.min(start + SPLIT);
        let mut scores = Vec::with_capacity(SPLIT);
        for position in start..end {
            key(position, &mut row);
            scores.push(dot(&row, q) * scale);
        }
        let largest = maximum(&scores);
        let total = exponentials(&mut scores, largest);
        let mut values = vec![0.0f32; q.len()];
        for (position, weight) in (start..end).zip(&scores) {
            value(position, &mut row);
            for (sum, value) in values.iter_mut().zip(&row) {
                *sum = weight.mul_add(*value, *sum);
            }
        }
        merged.merge(largest, total, &values);
    }
    merged.finish();
}
