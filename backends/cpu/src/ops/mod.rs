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
use experts::ExpertScratch;
use machine::Machine;
use odmoe_backend::Op;
use products::ProductScratch;
use rows::{CombineExperts, NormRope};
use std::io;

/// Runs ops, one at a time, on the calling thread and its pool.
pub struct Executor {
    set: KernelSet,
    machine: Machine,
    angles: AngleCache,
    products: ProductScratch,
    experts: ExpertScratch,
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
            Op::NormRope {
                into,
                norm,
                rope,
                heads,
                head_dim,
                positions,
            } => {
                let (rope, heads, head_dim) = (*rope, *heads, *head_dim);
                self.norm_rope(NormRope {
                    into,
                    norm,
                    rope,
                    heads,
                    head_dim,
                    positions,
                });
            }
            Op::KvAppend {
                cache,
                layer,
                k,
                v,
                positions,
            } => self.kv_append(cache, *layer, k, v, positions),
            Op::PagedAttention {
                q,
                cache,
                layer,
                spans,
                query_heads,
                scale,
                out,
            } => {
                self.paged_attention(q, cache, *layer, spans, *query_heads, *scale, out);
            }
            Op::AddInPlace { x, into, elements } => self.add_in_place(x, into, *elements),
            Op::SiluMul {
                gate,
                up,
                out,
                elements,
            } => self.silu_mul(gate, up, out, *elements),
            Op::Route {
                x,
                weight,
                tokens,
                top_k,
                scoring,
                order,
                out,
            } => {
                self.route(linear::Route {
                    x,
                    weight,
                    tokens: *tokens,
                    top_k: *top_k,
                    scoring: *scoring,
                    order: *order,
                    out,
                });
            }
            Op::ExpertFfn { x, groups, out } => self.expert_ffn(x, groups, out),
            Op::CombineExperts {
                expert_out,
                choices,
                into,
                tokens,
                top_k,
                hidden,
            } => {
                let (tokens, top_k, hidden) = (*tokens, *top_k, *hidden);
                self.combine_experts(CombineExperts {
                    expert_out,
                    choices,
                    into,
                    tokens,
                    top_k,
                    hidden,
                });
            }
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
