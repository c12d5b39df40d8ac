//! The output head.

use super::RmsNorm;
use crate::model::Step;
use odmoe_backend::{BackendError, Op, Weight};

/// logits = norm(hidden) * weight^T for the rows that are sampled.
pub struct Head {
    /// The final norm.
    pub norm: RmsNorm,
    /// [V, H].
    pub weight: Weight,
}

impl Head {
    /// Enqueues the head for the pass's sampled rows only: the other rows need no logits.
    pub fn enqueue(&self, step: Step<'_>) -> Result<(), BackendError> {
        let Step {
            queue,
            pass,
            scratch,
            ..
        } = step;
        let rows = pass.sampled_rows.len();
        queue.push(Op::GatherRows {
            x: scratch.hidden.clone(),
            rows: pass.sampled_rows.clone(),
            out: scratch.gathered.clone(),
            width: self.weight.columns,
        })?;
        self.norm
            .enqueue(queue, &scratch.gathered, &scratch.gathered, rows)?;
        queue.push(Op::MatMul {
            x: scratch.gathered.clone(),
            weight: self.weight.clone(),
            out: scratch.logits.clone(),
            tokens: rows,
        })
    }
}
