//! Projections and the router.

use super::Executor;
use super::operands::{floats, floats_mut, read, weight_view, write};
use super::products;
use crate::kernel_set::KernelSet;
use crate::kernels::Choose;
use crate::memory::SharedSlice;
use crate::reference;
use crate::view::WeightView;
use odmoe_backend::{Buffer, Choice, Op, Weight};

impl Executor {
    /// out [T, N] = x [T, columns] * weight^T.
    pub(super) fn mat_mul(&mut self, x: &Buffer, weight: &Weight, out: &Buffer, tokens: usize) {
        let (x, weight_bytes, mut out) = (read(x), read(&weight.buffer), write(out));
        let weight = weight_view(weight, &weight_bytes);
        let x = floats(&x, tokens * weight.columns);
        self.linear(weight, x, floats_mut(&mut out, tokens * weight.rows));
    }

    fn linear(&mut self, weight: WeightView<'_>, x: &[f32], out: &mut [f32]) {
        if self.set == KernelSet::Reference {
            for (x, out) in x
                .chunks_exact(weight.columns)
                .zip(out.chunks_exact_mut(weight.rows))
            {
                reference::linear(&weight, x, out);
            }
        } else {
            products::linear(&self.machine, weight, x, out, &mut self.products);
        }
    }

    /// Logits [T, E], scores, choices [T, K].
    pub(super) fn route(&mut self, op: &Op) {
        let Op::Route {
            x,
            weight,
            tokens,
            top_k,
            scoring,
            order,
            out,
        } = op
        else {
            unreachable!("called for this op only")
        };
        let (tokens, top_k, scoring, order) = (*tokens, *top_k, *scoring, *order);
        let (x, weight_bytes, mut out) = (read(x), read(&weight.buffer), write(out));
        let weight = weight_view(weight, &weight_bytes);
        let experts = weight.rows;
        let mut logits = std::mem::take(&mut self.logits);
        logits.resize(tokens * experts, 0.0);
        self.linear(weight, floats(&x, tokens * weight.columns), &mut logits);
        let bytes = top_k * Choice::BYTES;
        let out = SharedSlice::new(&mut out[..tokens * bytes]);
        self.machine
            .parallel_rows(&mut logits, experts, |token, logits| {
                let mut choices = vec![
                    Choice {
                        expert: 0,
                        weight: 0.0
                    };
                    top_k
                ];
                self.machine.run(Choose {
                    logits,
                    scoring,
                    order,
                    out: &mut choices,
                });
                // SAFETY: every token is claimed once, and tokens do not overlap.
                encode(&choices, unsafe {
                    out.range_mut(token * bytes..(token + 1) * bytes)
                });
            });
        self.logits = logits;
    }
}

fn encode(choices: &[Choice], out: &mut [u8]) {
    for (choice, out) in choices.iter().zip(out.chunks_exact_mut(Choice::BYTES)) {
        out[..4].copy_from_slice(&choice.expert.to_le_bytes());
        out[4..].copy_from_slice(&choice.weight.to_le_bytes());
    }
}
