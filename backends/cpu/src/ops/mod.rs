//! Every op: operands checked once, then the kernels of the chosen set.

mod angles;
mod attention;
mod experts;
mod linear;
mod machine;
mod operands;
mod products;
mod rows;

pub use operands::own;

use crate::kernel_set::KernelSet;
use crate::kernels::Instructions;
use crate::pool::Pool;
use angles::AngleCache;
use attention::AttentionScratch;
use experts::ExpertScratch;
use machine::Machine;
use odmoe_backend::Op;
use products::ProductScratch;
use std::io;

/// Runs ops, one at a time, on the calling thread and its pool.
pub struct Executor {
    set: KernelSet,
    machine: Machine,
    angles: AngleCache,
    products: ProductScratch,
    experts: ExpertScratch,
    attention: AttentionScratch,
    logits: Vec<f32>,
}

impl Executor {
    /// With `threads` threads in all (the reference kernels use one).
    pub fn new(set: KernelSet, instructions: Instructions, threads: usize) -> io::Result<Self> {
        let threads = if set == KernelSet::Reference {
            1
        } else {
            threads
        };
        Ok(Self {
            set,
            machine: Machine {
                instructions,
                pool: Pool::new(threads)?,
            },
            angles: AngleCache::default(),
            products: ProductScratch::default(),
            experts: ExpertScratch::default(),
            attention: AttentionScratch::default(),
            logits: Vec::new(),
        })
    }

    /// Runs an op to its end.
    pub fn run(&mut self, op: &Op) {
        match op {
            Op::Embed { table, ids, out } => self.embed(table, ids, out),
            Op::RmsNorm {
                x,
                weight,
                epsilon,
                out,
                rows,
            } => self.rms_norm(x, weight, *epsilon, out, *rows),
            Op::MatMul {
                x,
                weight,
                out,
                tokens,
            } => self.mat_mul(x, weight, out, *tokens),
            Op::NormRope { .. } => self.norm_rope(op),
            Op::KvAppend { .. } => self.kv_append(op),
            Op::PagedAttention { .. } => self.paged_attention(op),
            Op::AddInPlace { x, into, elements } => self.add_in_place(x, into, *elements),
            Op::AddBias { bias, into, rows } => self.add_bias(bias, into, *rows),
            Op::AddGated {
                gate,
                x,
                into,
                rows,
                width,
            } => self.add_gated(gate, x, into, *rows, *width),
            Op::SiluMul {
                gate,
                up,
                out,
                elements,
            } => self.silu_mul(gate, up, out, *elements),
            Op::Route { .. } => self.route(op),
            Op::ExpertFfn { x, groups, out } => self.expert_ffn(x, groups, out),
            Op::CombineExperts { .. } => self.combine_experts(op),
            Op::GatherRows {
                x,
                rows,
                out,
                width,
            } => self.gather_rows(x, rows, out, *width),
            other => panic!("the CPU backend has no op {}", other.name()),
        }
    }
}
