//! Matrix products and the router.

use super::scene::FORMATS;
use super::{Case, RowKind};
use odmoe_backend::{Choice, ChoiceOrder, Op, Scoring};
use odmoe_formats::BlockFormat;

/// (N, columns, tokens): N and tokens around the sizes of tiles, panels and packed groups, columns around lanes.
const FLOAT_SHAPES: [(usize, usize, usize); 14] = [
    (1, 1, 1),
    (3, 7, 2),
    (4, 16, 4),
    (5, 17, 5),
    (8, 31, 3),
    (9, 33, 17),
    (17, 64, 8),
    (33, 100, 9),
    (64, 48, 7),
    (70, 130, 6),
    (131, 40, 16),
    (16, 15, 11),
    (260, 65, 12),
    (35, 2048, 13),
];

const QUANTISED_SHAPES: [(usize, usize, usize); 12] = [
    (1, 32, 1),
    (7, 64, 2),
    (8, 32, 3),
    (9, 96, 8),
    (15, 64, 17),
    (16, 32, 9),
    (17, 160, 7),
    (24, 64, 16),
    (33, 96, 13),
    (70, 64, 5),
    (145, 128, 12),
    (40, 2048, 10),
];

pub fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for format in FORMATS {
        let quantised = format.block_elements() > 1;
        let shapes = if quantised {
            &QUANTISED_SHAPES[..]
        } else {
            &FLOAT_SHAPES[..]
        };
        all.extend(
            shapes
                .iter()
                .map(|&(rows, columns, tokens)| mat_mul(format, rows, columns, tokens)),
        );
    }
    // Large enough that a pool is used.
    all.extend(FORMATS.map(|format| mat_mul(format, 513, 512, 6)));
    let routers = [
        (3, 16, 1, 3),
        (16, 33, 4, 17),
        (60, 64, 4, 5),
        (128, 96, 8, 9),
        (5, 7, 5, 2),
        (256, 512, 8, 4),
    ];
    for (experts, hidden, top_k, tokens) in routers {
        for (renormalise, order) in [(true, ChoiceOrder::ByExpert), (false, ChoiceOrder::ByScore)] {
            all.push(route(experts, hidden, top_k, tokens, renormalise, order));
        }
    }
    all
}

fn mat_mul(format: BlockFormat, rows: usize, columns: usize, tokens: usize) -> Case {
    let name = format!("mat_mul {format:?} [{rows}, {columns}] for {tokens} tokens");
    Case::floats(name, tokens, move |scene, tokens| {
        let x = scene.put(&scene.token_rows(1, tokens, columns));
        let weight = scene.weight(2, format, rows, columns);
        let out = scene.empty(tokens.len() * rows * 4);
        scene.run(Op::MatMul {
            x,
            weight,
            out: out.clone(),
            tokens: tokens.len(),
        });
        scene.rows(&out, tokens.len(), rows * 4)
    })
}

fn route(
    experts: usize,
    hidden: usize,
    top_k: usize,
    tokens: usize,
    renormalise: bool,
    order: ChoiceOrder,
) -> Case {
    let name =
        format!("route {top_k} of {experts} from {hidden}, renormalise {renormalise}, {order:?}");
    let mut case = Case::floats(name, tokens, move |scene, tokens| {
        let x = scene.put(&scene.token_rows(1, tokens, hidden));
        let out = scene.empty(tokens.len() * top_k * Choice::BYTES);
        scene.run(Op::Route {
            x,
            weight: scene.weight(2, BlockFormat::BF16, experts, hidden),
            tokens: tokens.len(),
            top_k,
            scoring: Scoring::SoftmaxTopK { renormalise },
            order,
            out: out.clone(),
        });
        scene.rows(&out, tokens.len(), top_k * Choice::BYTES)
    });
    case.kind = RowKind::Choices;
    case
}
