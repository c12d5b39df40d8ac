//! Ops that move or change rows: embedding, norms, rotation, sums.

use super::Executor;
use super::operands::{floats, floats_mut, read, weight_view, write};
use crate::kernels::{AddGatedRow, AddInPlace, CombineRow, RmsNormRows, RotateHeads, SiluMul};
use crate::reference;
use odmoe_backend::{Buffer, Choice, Op, Weight};

impl Executor {
    /// out [T, H] = rows of table [V, H].
    pub(super) fn embed(&mut self, table: &Weight, ids: &[u32], out: &Buffer) {
        let table_bytes = read(&table.buffer);
        let table = weight_view(table, &table_bytes);
        let mut out = write(out);
        let out = floats_mut(&mut out, ids.len() * table.columns);
        for (&id, out) in ids.iter().zip(out.chunks_exact_mut(table.columns)) {
            assert!(
                (id as usize) < table.rows,
                "token id {id} of a vocabulary of {}",
                table.rows
            );
            reference::decode_row(&table, id as usize, out);
        }
    }

    /// out [rows, width] = norm of x [rows, width]; in place where both are one buffer.
    pub(super) fn rms_norm(
        &mut self,
        x: &Buffer,
        weight: &Weight,
        epsilon: f32,
        out: &Buffer,
        rows: usize,
    ) {
        let weight_bytes = read(&weight.buffer);
        let weight = weight_view(weight, &weight_bytes).as_f32();
        let elements = rows * weight.len();
        copy_unless_same(x, out, elements);
        let mut out = write(out);
        self.machine
            .parallel_rows(floats_mut(&mut out, elements), weight.len(), |_, rows| {
                self.machine.run(RmsNormRows {
                    rows,
                    weight: &weight,
                    epsilon,
                });
            });
    }

    /// In place on into [T, heads, D].
    pub(super) fn norm_rope(&mut self, op: &Op) {
        let Op::NormRope {
            into,
            norm,
            rope,
            heads,
            head_dim,
            positions,
        } = op
        else {
            unreachable!("called for this op only")
        };
        let (heads, head_dim) = (*heads, *head_dim);
        assert!(
            head_dim % 2 == 0,
            "rotary embedding turns pairs, but heads are {head_dim} wide"
        );
        let norm_bytes = norm.as_ref().map(|(weight, _)| read(&weight.buffer));
        let norm = norm
            .as_ref()
            .zip(norm_bytes.as_ref())
            .map(|((weight, epsilon), bytes)| {
                let weight = weight_view(weight, bytes).as_f32();
                assert_eq!(
                    weight.len(),
                    head_dim,
                    "a head's norm has one weight an element"
                );
                (weight, *epsilon)
            });
        let angles = self.angles.gather(rope, head_dim, positions);
        let mut into = write(into);
        let into = floats_mut(&mut into, positions.len() * heads * head_dim);
        self.machine
            .parallel_rows(into, heads * head_dim, |token, heads| {
                if let Some((weight, epsilon)) = &norm {
                    self.machine.run(RmsNormRows {
                        rows: heads,
                        weight,
                        epsilon: *epsilon,
                    });
                }
                let (cos, sin) = angles[token * head_dim..][..head_dim].split_at(head_dim / 2);
                self.machine.run(RotateHeads { heads, cos, sin });
            });
    }

    /// into += x.
    pub(super) fn add_in_place(&mut self, x: &Buffer, into: &Buffer, elements: usize) {
        let (x, mut into) = (read(x), write(into));
        self.machine.run(AddInPlace {
            x: floats(&x, elements),
            into: floats_mut(&mut into, elements),
        });
    }

    /// into [rows, width] += bias [width], each row.
    pub(super) fn add_bias(&mut self, bias: &Weight, into: &Buffer, rows: usize) {
        let bias_bytes = read(&bias.buffer);
        let bias = weight_view(bias, &bias_bytes).as_f32();
        let mut into = write(into);
        let into = floats_mut(&mut into, rows * bias.len());
        self.machine.parallel_rows(into, bias.len(), |_, into| {
            self.machine.run(AddInPlace { x: &bias, into });
        });
    }

    /// into [rows, width] += sigmoid(gate [rows]) * x [rows, width].
    pub(super) fn add_gated(
        &mut self,
        gate: &Buffer,
        x: &Buffer,
        into: &Buffer,
        rows: usize,
        width: usize,
    ) {
        let (gate, x, mut into) = (read(gate), read(x), write(into));
        let (gate, x) = (floats(&gate, rows), floats(&x, rows * width));
        let into = floats_mut(&mut into, rows * width);
        self.machine.parallel_rows(into, width, |row, into| {
            self.machine.run(AddGatedRow {
                gate: gate[row],
                x: &x[row * width..][..width],
                into,
            });
        });
    }

    /// out = silu(gate) * up; in place where gate and out are one buffer.
    pub(super) fn silu_mul(&mut self, gate: &Buffer, up: &Buffer, out: &Buffer, elements: usize) {
        copy_unless_same(gate, out, elements);
        let (up, mut out) = (read(up), write(out));
        self.machine.run(SiluMul {
            gate: floats_mut(&mut out, elements),
            up: floats(&up, elements),
        });
    }

    /// into [T, H] += weighted sums of expert_out [T * K, H].
    pub(super) fn combine_experts(&mut self, op: &Op) {
        let Op::CombineExperts {
            expert_out,
            choices,
            into,
            tokens,
            top_k,
            hidden,
        } = op
        else {
            unreachable!("called for this op only")
        };
        let (tokens, top_k, hidden) = (*tokens, *top_k, *hidden);
        let (outputs, choices, mut into) = (read(expert_out), read(choices), write(into));
        let outputs = floats(&outputs, tokens * top_k * hidden);
        let choices = Choice::decode(&choices[..tokens * top_k * Choice::BYTES]);
        let weights: Vec<f32> = choices.map(|choice| choice.weight).collect();
        self.machine.parallel_rows(
            floats_mut(&mut into, tokens * hidden),
            hidden,
            |token, into| {
                let outputs = &outputs[token * top_k * hidden..][..top_k * hidden];
                self.machine.run(CombineRow {
                    outputs,
                    weights: &weights[token * top_k..][..top_k],
                    into,
                });
            },
        );
    }

    /// out[i] = x[rows[i]].
    pub(super) fn gather_rows(&mut self, x: &Buffer, rows: &[u32], out: &Buffer, width: usize) {
        let (x, mut out) = (read(x), write(out));
        let x: &[f32] = floats(&x, x.len() / 4);
        for (&row, out) in rows
            .iter()
            .zip(floats_mut(&mut out, rows.len() * width).chunks_exact_mut(width))
        {
            out.copy_from_slice(&x[row as usize * width..][..width]);
        }
    }
}

fn copy_unless_same(from: &Buffer, to: &Buffer, elements: usize) {
    if !from.is_same(to) {
        floats_mut(&mut write(to), elements).copy_from_slice(floats(&read(from), elements));
    }
}
