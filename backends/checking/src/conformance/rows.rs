//! Embedding, norms, rotation, sums, copies.

use super::Case;
use super::scene::Scene;
use odmoe_backend::{Choice, Op, Rope};
use odmoe_formats::{BlockFormat, WeightLayout};

pub fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for format in BlockFormat::ALL {
        let hidden = 3 * format.block_elements().max(32);
        all.push(embed(format, WeightLayout::RowMajor, 23, hidden, 17));
        all.push(embed(format, WeightLayout::Lanes16, 48, hidden, 17));
    }
    for (width, tokens) in [
        (1, 3),
        (15, 2),
        (16, 5),
        (17, 17),
        (33, 4),
        (100, 7),
        (2048, 3),
    ] {
        for in_place in [false, true] {
            all.push(rms_norm(width, tokens, in_place));
        }
    }
    for (heads, head_dim, tokens) in [
        (1, 2, 3),
        (3, 8, 17),
        (2, 20, 5),
        (4, 64, 6),
        (5, 80, 2),
        (8, 128, 9),
    ] {
        for (with_norm, divided) in [(false, false), (true, false), (false, true), (true, true)] {
            all.push(norm_rope(heads, head_dim, tokens, with_norm, divided));
        }
    }
    for (width, tokens) in [(1, 1), (13, 3), (16, 2), (47, 17), (300, 5)] {
        all.extend([
            add_in_place(width, tokens),
            add_bias(width, tokens),
            add_gated(width, tokens),
            silu_mul(width, tokens, false),
            silu_mul(width, tokens, true),
        ]);
        all.push(gather_rows(width, tokens));
    }
    for (hidden, top_k, tokens) in [(1, 1, 1), (15, 2, 3), (16, 8, 17), (70, 3, 4), (256, 8, 2)] {
        all.push(combine(hidden, top_k, tokens));
    }
    all
}

fn embed(
    format: BlockFormat,
    layout: WeightLayout,
    vocabulary: usize,
    hidden: usize,
    tokens: usize,
) -> Case {
    Case::floats(
        format!("embed {format} {layout} [{vocabulary}, {hidden}]"),
        tokens,
        move |scene, tokens| {
            let ids = tokens
                .iter()
                .map(|&token| (scene.numbers(1, token).bits() % vocabulary as u64) as u32)
                .collect();
            let out = scene.empty(tokens.len() * hidden * 4);
            scene.run(Op::Embed {
                table: scene.weight_in(layout, 2, format, vocabulary, hidden),
                ids,
                out: out.clone(),
            });
            scene.rows(&out, tokens.len(), hidden * 4)
        },
    )
    .in_layout(layout)
}

fn rms_norm(width: usize, tokens: usize, in_place: bool) -> Case {
    Case::floats(
        format!("rms_norm width {width} in place {in_place}"),
        tokens,
        move |scene, tokens| {
            let x = scene.put(&scene.token_rows(1, tokens, width));
            let out = if in_place {
                x.clone()
            } else {
                scene.empty(x.bytes())
            };
            let weight = scene.weight(2, BlockFormat::F32, 1, width);
            scene.run(Op::RmsNorm {
                x,
                weight,
                epsilon: 1e-6,
                out: out.clone(),
                rows: tokens.len(),
            });
            scene.rows(&out, tokens.len(), width * 4)
        },
    )
}

fn norm_rope(heads: usize, head_dim: usize, tokens: usize, with_norm: bool, divided: bool) -> Case {
    let name =
        format!("norm_rope {heads} heads of {head_dim}, norm {with_norm}, divided {divided}");
    Case::floats(name, tokens, move |scene, tokens| {
        let width = heads * head_dim;
        let into = scene.put(&scene.token_rows(1, tokens, width));
        let norm = with_norm.then(|| (scene.weight(2, BlockFormat::F32, 1, head_dim), 1e-6));
        // Small positions, and some far out.
        let position = |token: usize| {
            if token % 3 == 2 {
                4097 * token as u32
            } else {
                token as u32
            }
        };
        let positions = tokens.iter().map(|&token| position(token)).collect();
        // From 1 to 9, in no order.
        let divisor = |i: usize| 1.0 + (i * 7 % 33) as f32 * 0.25;
        let rope = Rope {
            theta: 1_000_000.0,
            divisors: divided.then(|| (0..head_dim / 2).map(divisor).collect()),
        };
        scene.run(Op::NormRope {
            into: into.clone(),
            norm,
            rope,
            heads,
            head_dim,
            positions,
        });
        scene.rows(&into, tokens.len(), width * 4)
    })
}

fn add_in_place(width: usize, tokens: usize) -> Case {
    Case::floats(
        format!("add_in_place width {width}"),
        tokens,
        move |scene, tokens| {
            let x = scene.put(&scene.token_rows(1, tokens, width));
            let into = scene.put(&scene.token_rows(2, tokens, width));
            scene.run(Op::AddInPlace {
                x,
                into: into.clone(),
                elements: tokens.len() * width,
            });
            scene.rows(&into, tokens.len(), width * 4)
        },
    )
}

fn add_bias(width: usize, tokens: usize) -> Case {
    Case::floats(
        format!("add_bias width {width}"),
        tokens,
        move |scene, tokens| {
            let into = scene.put(&scene.token_rows(1, tokens, width));
            scene.run(Op::AddBias {
                bias: scene.weight(2, BlockFormat::F32, 1, width),
                into: into.clone(),
                rows: tokens.len(),
            });
            scene.rows(&into, tokens.len(), width * 4)
        },
    )
}

fn add_gated(width: usize, tokens: usize) -> Case {
    Case::floats(
        format!("add_gated width {width}"),
        tokens,
        move |scene, tokens| {
            // Up to 200 in magnitude: gates that are all but shut or open, and some between.
            let gate: Vec<f32> = scene
                .token_rows(1, tokens, 1)
                .iter()
                .zip(tokens)
                .map(|(x, token)| if token % 2 == 0 { x * 100.0 } else { *x })
                .collect();
            let into = scene.put(&scene.token_rows(3, tokens, width));
            scene.run(Op::AddGated {
                gate: scene.put(&gate),
                x: scene.put(&scene.token_rows(2, tokens, width)),
                into: into.clone(),
                rows: tokens.len(),
                width,
            });
            scene.rows(&into, tokens.len(), width * 4)
        },
    )
}

fn silu_mul(width: usize, tokens: usize, in_place: bool) -> Case {
    Case::floats(
        format!("silu_mul width {width} in place {in_place}"),
        tokens,
        move |scene, tokens| {
            // Up to 200 in magnitude: beyond the range of the exponential on either side.
            let gate: Vec<f32> = scene
                .token_rows(1, tokens, width)
                .iter()
                .map(|x| x * 100.0)
                .collect();
            let gate = scene.put(&gate);
            let up = scene.put(&scene.token_rows(2, tokens, width));
            let out = if in_place {
                gate.clone()
            } else {
                scene.empty(gate.bytes())
            };
            scene.run(Op::SiluMul {
                gate,
                up,
                out: out.clone(),
                elements: tokens.len() * width,
            });
            scene.rows(&out, tokens.len(), width * 4)
        },
    )
}

fn gather_rows(width: usize, tokens: usize) -> Case {
    Case::floats(
        format!("gather_rows width {width}"),
        tokens,
        move |scene, tokens| {
            let x = scene.put(&scene.token_rows(1, tokens, width));
            let count = tokens.len() as u32;
            // There and back again: rows come out in the order of the tokens.
            let (turned, out) = (scene.empty(x.bytes()), scene.empty(x.bytes()));
            scene.run(Op::GatherRows {
                x,
                rows: (0..count).rev().collect(),
                out: turned.clone(),
                width,
            });
            scene.run(Op::GatherRows {
                x: turned,
                rows: (0..count).rev().collect(),
                out: out.clone(),
                width,
            });
            scene.rows(&out, tokens.len(), width * 4)
        },
    )
}

/// [tokens, K] choices with random weights.
fn choices(scene: &Scene<'_>, tokens: &[usize], top_k: usize) -> Vec<u8> {
    let of_token = |&token: &usize| scene.numbers(3, token).floats(top_k);
    let weights = tokens.iter().flat_map(of_token).enumerate();
    let record = |(index, weight): (usize, f32)| {
        let expert = (index % top_k) as u32;
        [expert.to_le_bytes(), weight.to_le_bytes()].concat()
    };
    let bytes: Vec<u8> = weights.flat_map(record).collect();
    assert_eq!(bytes.len(), tokens.len() * top_k * Choice::BYTES);
    bytes
}

fn combine(hidden: usize, top_k: usize, tokens: usize) -> Case {
    Case::floats(
        format!("combine_experts {top_k} of width {hidden}"),
        tokens,
        move |scene, tokens| {
            let expert_out = scene.put(&scene.token_rows(1, tokens, top_k * hidden));
            let into = scene.put(&scene.token_rows(2, tokens, hidden));
            let choices = scene.put_bytes(&choices(scene, tokens, top_k));
            let count = tokens.len();
            scene.run(Op::CombineExperts {
                expert_out,
                choices,
                into: into.clone(),
                tokens: count,
                top_k,
                hidden,
            });
            scene.rows(&into, count, hidden * 4)
        },
    )
}
