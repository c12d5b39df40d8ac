//! Root-mean-square layer norm (Zhang and Sennrich, 2019).

use crate::model::queue::Queue;
use odmoe_backend::{BackendError, Buffer, Op, Weight};

/// out = x / sqrt(mean(x^2) + epsilon) * weight.
pub struct RmsNorm {
    /// [1, H], F32.
    pub weight: Weight,
    /// Added to the mean square.
    pub epsilon: f32,
}

impl RmsNorm {
    /// Norms `rows` rows of `x` into `out`; both [rows, H], and `out` may be `x`.
    pub fn enqueue(
        &self,
        queue: &Queue,
        x: &Buffer,
        out: &Buffer,
        rows: usize,
    ) -> Result<(), BackendError> {
        queue.push(Op::RmsNorm {
            x: x.clone(),
            weight: self.weight.clone(),
            epsilon: self.epsilon,
            out: out.clone(),
            rows,
        })
    }
}
