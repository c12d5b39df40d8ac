//! Ops around matrix products: projections, the router, the experts.

use super::Executor;
use super::operands::{floats, floats_mut, read, weight_view, write};
use crate::memory::ReadGuard;
use crate::reference::{self, ExpertView};
use odmoe_backend::{Buffer, Choice, ChoiceOrder, ExpertGroup, Scoring, Weight};

impl Executor {
    /// out [T, N] = x [T, columns] * weight^T.
    pub(super) fn mat_mul(&mut self, x: &Buffer, weight: &Weight, out: &Buffer, tokens: usize) {
        let (x, weight_bytes, mut out) = (read(x), read(&weight.buffer), write(out));
        let weight = weight_view(weight, &weight_bytes);
        let (x, out) = (
            floats(&x, tokens * weight.columns),
            floats_mut(&mut out, tokens * weight.rows),
        );
        for (x, out) in x
            .chunks_exact(weight.columns)
            .zip(out.chunks_exact_mut(weight.rows))
        {
            reference::linear(&weight, x, out);
        }
    }

    /// Logits, scores, choices.
    pub(super) fn route(&mut self, args: Route<'_>) {
        let Route {
            x,
            weight,
            tokens,
            top_k,
            scoring,
            order,
            out,
        } = args;
        let (x, weight_bytes, mut out) = (read(x), read(&weight.buffer), write(out));
        let weight = weight_view(weight, &weight_bytes);
        let mut logits = vec![0.0f32; weight.rows];
        let mut choices = vec![
            Choice {
                expert: 0,
                weight: 0.0
            };
            top_k
        ];
        let x = floats(&x, tokens * weight.columns).chunks_exact(weight.columns);
        let out = out[..tokens * top_k * Choice::BYTES].chunks_exact_mut(top_k * Choice::BYTES);
        for (x, out) in x.zip(out) {
            reference::linear(&weight, x, &mut logits);
            reference::choose(&mut logits, scoring, order, &mut choices);
            encode(&choices, out);
        }
    }

    /// Each row of each group through its expert.
    pub(super) fn expert_ffn(&mut self, x: &Buffer, groups: &[ExpertGroup], out: &Buffer) {
        let (x, mut out) = (read(x), write(out));
        let x: &[f32] = floats(&x, x.len() / 4);
        let elements = out.len() / 4;
        let out = floats_mut(&mut out, elements);
        for group in groups {
            let guards = [&group.gate, &group.up, &group.down].map(|weight| read(&weight.buffer));
            let expert = expert_view(group, &guards);
            let hidden = expert.gate.columns;
            for row in group.rows.iter() {
                let x = &x[row.token_row as usize * hidden..][..hidden];
                let out = &mut out[row.out_row as usize * hidden..][..hidden];
                reference::expert_ffn_row(&expert, x, out);
            }
        }
    }
}

/// Operands of [`odmoe_backend::Op::Route`].
pub(super) struct Route<'a> {
    pub x: &'a Buffer,
    pub weight: &'a Weight,
    pub tokens: usize,
    pub top_k: usize,
    pub scoring: Scoring,
    pub order: ChoiceOrder,
    pub out: &'a Buffer,
}

fn expert_view<'a>(group: &ExpertGroup, guards: &'a [ReadGuard<'_>; 3]) -> ExpertView<'a> {
    let gate = weight_view(&group.gate, &guards[0]);
    let up = weight_view(&group.up, &guards[1]);
    let down = weight_view(&group.down, &guards[2]);
    assert!(
        up.rows == gate.rows && up.columns == gate.columns,
        "gate and up of an expert have one shape"
    );
    assert!(
        down.rows == gate.columns && down.columns == gate.rows,
        "down of an expert has the shape of gate, turned"
    );
    ExpertView { gate, up, down }
}

fn encode(choices: &[Choice], out: &mut [u8]) {
    for (choice, out) in choices.iter().zip(out.chunks_exact_mut(Choice::BYTES)) {
        out[..4].copy_from_slice(&choice.expert.to_le_bytes());
        out[4..].copy_from_slice(&choice.weight.to_le_bytes());
    }
}
