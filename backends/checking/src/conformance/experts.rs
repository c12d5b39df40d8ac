//! The grouped expert op.

use super::Case;
use super::scene::Scene;
use odmoe_backend::{ExpertGroup, ExpertRow, Op};
use odmoe_formats::{BlockFormat, WeightLayout};

#[derive(Clone, Copy)]
struct Shape {
    experts: usize,
    hidden: usize,
    width: usize,
    top_k: usize,
    /// Gate, up, down.
    formats: [BlockFormat; 3],
    layout: WeightLayout,
}

pub fn cases() -> Vec<Case> {
    use BlockFormat::{BF16, F32, IQ4_NL, IQ4_XS, MXFP4, Q2_K, Q3_K, Q4_0, Q4_K, Q5_1, Q6_K, Q8_0};
    let shape = |experts, hidden, width, top_k, formats| Shape {
        experts,
        hidden,
        width,
        top_k,
        formats,
        layout: WeightLayout::RowMajor,
    };
    let mut all = Vec::new();
    for format in BlockFormat::ALL {
        let formats = [format; 3];
        if format.block_elements() == 256 {
            all.push((shape(4, 256, 512, 2, formats), 17));
            continue;
        }
        all.push((shape(4, 64, 96, 2, formats), 17));
        all.push((shape(2, 160, 32, 2, formats), 9));
        all.push((shape(5, 256, 128, 3, formats), 4));
    }
    all.push((shape(3, 50, 37, 1, [BF16; 3]), 5));
    all.push((shape(3, 17, 9, 3, [F32; 3]), 7));
    // Files mix formats, within an expert too.
    all.push((shape(3, 64, 40, 2, [Q8_0, BF16, F32]), 6));
    all.push((shape(3, 256, 96, 2, [Q4_K, Q8_0, Q5_1]), 6));
    all.push((shape(3, 512, 256, 2, [Q6_K, Q4_0, Q2_K]), 5));
    all.push((shape(2, 256, 32, 1, [F32, Q3_K, MXFP4]), 3));
    all.push((shape(2, 256, 64, 2, [IQ4_XS, Q4_K, IQ4_NL]), 9));
    // More bytes of activations than go over weights together.
    all.push((shape(1, 74 * 256, 32, 1, [Q4_K, Q6_K, Q8_0]), 34));
    let in_lanes = all.clone().into_iter().map(|(shape, tokens)| {
        let layout = WeightLayout::Lanes16;
        (Shape { layout, ..shape }, tokens)
    });
    all.extend(in_lanes);
    all.into_iter()
        .map(|(shape, tokens)| expert_ffn(shape, tokens))
        .collect()
}

fn expert_ffn(shape: Shape, tokens: usize) -> Case {
    let Shape {
        experts,
        hidden,
        width,
        top_k,
        formats,
        layout,
    } = shape;
    let name = format!(
        "expert_ffn {top_k} of {experts}, hidden {hidden}, width {width}, {formats:?}, {layout}"
    );
    Case::floats(name, tokens, move |scene, tokens| {
        let x = scene.put(&scene.token_rows(1, tokens, hidden));
        let out = scene.empty(tokens.len() * top_k * hidden * 4);
        // Groups come in descending order: in which order experts are computed must not matter.
        let groups = (0..experts)
            .rev()
            .map(|expert| group(scene, shape, expert, tokens))
            .collect();
        scene.run(Op::ExpertFfn {
            x,
            groups,
            out: out.clone(),
        });
        scene.rows(&out, tokens.len(), top_k * hidden * 4)
    })
    .in_layout(layout)
}

/// Token t goes to experts t, t + 1, ... (modulo), its j-th choice to out row t * K + j.
fn group(scene: &Scene<'_>, shape: Shape, expert: usize, tokens: &[usize]) -> ExpertGroup {
    let Shape {
        experts,
        hidden,
        width,
        top_k,
        formats,
        layout,
    } = shape;
    let mut rows = Vec::new();
    for (row, &token) in tokens.iter().enumerate() {
        for choice in (0..top_k).filter(|choice| (token + choice) % experts == expert) {
            rows.push(ExpertRow {
                token_row: row as u32,
                out_row: (row * top_k + choice) as u32,
            });
        }
    }
    let purpose = 10 + 3 * expert as u64;
    ExpertGroup {
        gate: scene.weight_in(layout, purpose, formats[0], width, hidden),
        up: scene.weight_in(layout, purpose + 1, formats[1], width, hidden),
        down: scene.weight_in(layout, purpose + 2, formats[2], hidden, width),
        rows: rows.into(),
    }
}
