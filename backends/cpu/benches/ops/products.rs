//! Products with weights.

use crate::fixture::{EXPERT_WIDTH, EXPERTS, Fixture, HIDDEN, TOP_K, Work, weight_bytes};
use criterion::Criterion;
use odmoe_backend::{Backend, Choice, ChoiceOrder, ExpertGroup, ExpertRow, Op, Scoring};
use odmoe_backend_cpu::KernelSet;
use odmoe_formats::BlockFormat;

/// Rows of a matrix: few enough that an op ends within a time slice of a busy machine.
const ROWS: usize = 1024;

/// One token, a few streams, a short and a whole prompt chunk; portable kernels would take minutes over the last.
fn token_counts(fixture: &Fixture) -> &'static [usize] {
    match fixture.set {
        KernelSet::Portable => &[1, 8],
        _ => &[1, 8, 64, 512],
    }
}

pub fn mat_mul(criterion: &mut Criterion, fixture: &mut Fixture) {
    for format in BlockFormat::ALL {
        for &tokens in token_counts(fixture) {
            let (x, out) = (
                fixture.floats(tokens * HIDDEN),
                fixture.floats(tokens * ROWS),
            );
            let work = Work {
                bytes: weight_bytes(format, ROWS, HIDDEN),
                operations: 2 * tokens * HIDDEN * ROWS,
            };
            fixture.time(
                criterion,
                &format!("mat_mul/{format}/{tokens}"),
                work,
                |f| Op::MatMul {
                    x: x.clone(),
                    weight: f.weight(format, ROWS, HIDDEN),
                    out: out.clone(),
                    tokens,
                },
            );
        }
    }
}

/// All tokens' experts, as evenly spread as chance would have it: each token to 8 of as many experts as there are, at
/// most all.
pub fn expert_ffn(criterion: &mut Criterion, fixture: &mut Fixture) {
    for format in [BlockFormat::Q4_0, BlockFormat::Q8_0, BlockFormat::Q4_K] {
        for &tokens in token_counts(fixture) {
            let experts = (tokens * TOP_K).min(EXPERTS);
            let rows_each = tokens * TOP_K / experts;
            let x = fixture.floats(tokens * HIDDEN);
            let out = fixture.floats(tokens * TOP_K * HIDDEN);
            let expert_bytes = 2 * weight_bytes(format, EXPERT_WIDTH, HIDDEN)
                + weight_bytes(format, HIDDEN, EXPERT_WIDTH);
            let work = Work {
                bytes: experts * expert_bytes,
                operations: 2 * tokens * TOP_K * 3 * HIDDEN * EXPERT_WIDTH,
            };
            let name = format!("expert_ffn/{format}/{tokens}");
            fixture.time(criterion, &name, work, |f| Op::ExpertFfn {
                x: x.clone(),
                groups: (0..experts)
                    .map(|expert| group(f, format, expert, experts, rows_each))
                    .collect(),
                out: out.clone(),
            });
        }
    }
}

fn group(
    fixture: &mut Fixture,
    format: BlockFormat,
    expert: usize,
    experts: usize,
    rows: usize,
) -> ExpertGroup {
    let row = |row: usize| {
        let out_row = (row * experts + expert) as u32;
        ExpertRow {
            token_row: out_row / TOP_K as u32,
            out_row,
        }
    };
    ExpertGroup {
        gate: fixture.weight(format, EXPERT_WIDTH, HIDDEN),
        up: fixture.weight(format, EXPERT_WIDTH, HIDDEN),
        down: fixture.weight(format, HIDDEN, EXPERT_WIDTH),
        rows: (0..rows).map(row).collect(),
    }
}

/// The router's product, softmax and top-k.
pub fn route(criterion: &mut Criterion, fixture: &mut Fixture) {
    for tokens in [1, 8, 512] {
        let x = fixture.floats(tokens * HIDDEN);
        let out = fixture
            .backend
            .allocate(tokens * TOP_K * Choice::BYTES)
            .expect("a buffer");
        let work = Work {
            bytes: weight_bytes(BlockFormat::F32, EXPERTS, HIDDEN),
            operations: 2 * tokens * EXPERTS * HIDDEN,
        };
        fixture.time(criterion, &format!("route/F32/{tokens}"), work, |f| {
            Op::Route {
                x: x.clone(),
                weight: f.weight(BlockFormat::F32, EXPERTS, HIDDEN),
                tokens,
                top_k: TOP_K,
                scoring: Scoring::SoftmaxTopK { renormalise: true },
                order: ChoiceOrder::ByExpert,
                out: out.clone(),
            }
        });
    }
}

/// Activations as 8-bit integers, by a product with a single row of weights, which is next to nothing beside it.
pub fn quantise(criterion: &mut Criterion, fixture: &mut Fixture) {
    for (format, block) in [(BlockFormat::Q8_0, 32), (BlockFormat::Q4_K, 256)] {
        for tokens in [1, 512] {
            let (x, out) = (fixture.floats(tokens * HIDDEN), fixture.floats(tokens));
            let work = Work {
                bytes: tokens * HIDDEN * 4,
                operations: 2 * tokens * HIDDEN,
            };
            let name = format!("quantise/blocks of {block}/{tokens}");
            fixture.time(criterion, &name, work, |f| Op::MatMul {
                x: x.clone(),
                weight: f.weight(format, 1, HIDDEN),
                out: out.clone(),
                tokens,
            });
        }
    }
}
