//! The grouped expert op.

use super::Case;
use super::scene::{FORMATS, Scene};
use odmoe_backend::{ExpertGroup, ExpertRow, Op};
use odmoe_formats::BlockFormat;

#[derive(Clone, Copy)]
struct Shape {
    experts: usize,
    hidden: usize,
    width: usize,
    top_k: usize,
    /// Gate, up, down.
    formats: [BlockFormat; 3],
}

pub fn cases() -> Vec<Case> {
    use BlockFormat::{BF16, F32, Q8_0};
    let mut all = Vec::new();
    for format in FORMATS {
        let formats = [format; 3];
        all.push(expert_ffn(
            Shape {
                experts: 4,
                hidden: 64,
                width: 96,
                top_k: 2,
                formats,
            },
            17,
        ));
        all.push(expert_ffn(
            Shape {
                experts: 2,
                hidden: 160,
                width: 32,
                top_k: 2,
                formats,
            },
            9,
        ));
        all.push(expert_ffn(
            Shape {
                experts: 5,
                hidden: 256,
                width: 128,
                top_k: 3,
                formats,
            },
            4,
        ));
    }
    let (float, mixed) = ([BF16; 3], [Q8_0, BF16, F32]);
    all.push(expert_ffn(
        Shape {
            experts: 3,
            hidden: 50,
            width: 37,
            top_k: 1,
            formats: float,
        },
        5,
    ));
    all.push(expert_ffn(
        Shape {
            experts: 3,
            hidden: 17,
            width: 9,
            top_k: 3,
            formats: [F32; 3],
        },
        7,
    ));
    all.push(expert_ffn(
        Shape {
            experts: 3,
            hidden: 64,
            width: 40,
            top_k: 2,
            formats: mixed,
        },
        6,
    ));
    all
}

fn expert_ffn(shape: Shape, tokens: usize) -> Case {
    let Shape {
        experts,
        hidden,
        width,
        top_k,
        formats,
    } = shape;
    let name =
        format!("expert_ffn {top_k} of {experts}, hidden {hidden}, width {width}, {formats:?}");
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
}

/// Token t goes to experts t, t + 1, ... (modulo), its j-th choice to out row t * K + j.
fn group(scene: &Scene<'_>, shape: Shape, expert: usize, tokens: &[usize]) -> ExpertGroup {
    let Shape {
        experts,
        hidden,
        width,
        top_k,
        formats,
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
        gate: scene.weight(purpose, formats[0], width, hidden),
        up: scene.weight(purpose + 1, formats[1], width, hidden),
        down: scene.weight(purpose + 2, formats[2], hidden, width),
        rows: rows.into(),
    }
}
