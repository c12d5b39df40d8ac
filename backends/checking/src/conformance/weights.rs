//! Matrix products and the router.

use super::scene::Scene;
use super::{Case, RowKind};
use odmoe_backend::{Choice, ChoiceOrder, Op, Scoring, Weight};
use odmoe_formats::block::LANES;
use odmoe_formats::{BlockFormat, WeightLayout};

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

/// More tokens than any kernel takes over a panel at once.
const MORE_THAN_TOGETHER: (usize, usize, usize) = (33, 1, 270);

/// (N, blocks, tokens).
const BLOCK_SHAPES: [(usize, usize, usize); 13] = [
    (1, 1, 1),
    (7, 2, 2),
    (8, 1, 3),
    (9, 3, 8),
    (15, 2, 17),
    (16, 1, 9),
    (17, 5, 7),
    (24, 2, 16),
    (33, 3, 13),
    (70, 2, 5),
    (145, 4, 12),
    (40, 64, 10),
    MORE_THAN_TOGETHER,
];

/// (N, superblocks, tokens).
const SUPERBLOCK_SHAPES: [(usize, usize, usize); 9] = [
    (1, 1, 1),
    (7, 2, 2),
    (8, 1, 3),
    (9, 3, 8),
    (16, 1, 5),
    (17, 2, 17),
    (33, 1, 4),
    (40, 8, 10),
    MORE_THAN_TOGETHER,
];

pub fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for format in BlockFormat::ALL {
        // The last is large enough that a pool is used.
        for (rows, columns, tokens) in shapes(format).into_iter().chain([(129, 512, 6)]) {
            for (layout, rows) in layouts(format, rows) {
                all.push(mat_mul(format, layout, rows, columns, tokens));
            }
        }
    }
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

/// Every layout that the format can have, with about so many rows.
fn layouts(format: BlockFormat, rows: usize) -> impl Iterator<Item = (WeightLayout, usize)> {
    let rows = move |layout: WeightLayout| match layout {
        WeightLayout::RowMajor => rows,
        _ => rows.next_multiple_of(LANES),
    };
    let with_rows = WeightLayout::ALL.map(|layout| (layout, rows(layout)));
    let fits = move |&(layout, rows): &(WeightLayout, usize)| {
        layout.of_matrix(format, rows as u64) == layout
    };
    with_rows.into_iter().filter(fits)
}

/// (N, columns, tokens).
fn shapes(format: BlockFormat) -> Vec<(usize, usize, usize)> {
    let blocks = match format.block_elements() {
        1 => &FLOAT_SHAPES[..],
        256 => &SUPERBLOCK_SHAPES[..],
        _ => &BLOCK_SHAPES[..],
    };
    let columns = |&(rows, blocks, tokens)| (rows, blocks * format.block_elements(), tokens);
    blocks.iter().map(columns).collect()
}

/// Weights of any bytes, and activations from the least floats to the largest; also every number of tokens up to two
/// tiles of sixteen, and some around more.
pub fn hostile_cases() -> Vec<Case> {
    let quantised = BlockFormat::ALL.into_iter().filter(|f| !f.is_float());
    let mut all = Vec::new();
    for format in quantised {
        let mut shapes = shapes(format);
        // Blocks of 32: one more than are unpacked together.
        let columns = if format.block_elements() == 256 {
            256
        } else {
            9 * 32
        };
        let counts = (1..=34).chain([47, 48, 49, 63, 64, 65, 70]);
        shapes.extend(counts.map(|tokens| (37, columns, tokens)));
        shapes.push((3, columns, 259));
        for (rows, columns, tokens) in shapes {
            for (layout, rows) in layouts(format, rows) {
                all.push(hostile_mat_mul(format, layout, rows, columns, tokens));
            }
        }
    }
    all
}

fn hostile_mat_mul(
    format: BlockFormat,
    layout: WeightLayout,
    rows: usize,
    columns: usize,
    tokens: usize,
) -> Case {
    let name = format!("hostile mat_mul {format} {layout} [{rows}, {columns}] for {tokens} tokens");
    Case::floats(name, tokens, move |scene, tokens| {
        let x: Vec<f32> = tokens
            .iter()
            .flat_map(|&token| hostile_row(scene, token, columns))
            .collect();
        let weight = scene.hostile_weight(layout, 2, format, rows, columns);
        multiply(scene, &x, weight, tokens.len())
    })
    .in_layout(layout)
}

/// Rows that give the largest integers, floats of every exponent, zeros among denormals, or a NaN.
fn hostile_row(scene: &Scene<'_>, token: usize, columns: usize) -> Vec<f32> {
    let mut numbers = scene.numbers(1, token);
    let mut row: Vec<f32> = (0..columns)
        .map(|_| {
            let bits = numbers.bits();
            let sign = (bits as u32) << 31;
            let magnitude = match token % 4 {
                0 => 1.5f32.to_bits(),
                1 => 1e-3f32.to_bits(),
                2 => (bits >> 32) as u32 & 0x7fff_ffff,
                _ => (bits >> 32) as u32 & 0x0080_0000,
            };
            let x = f32::from_bits(sign | magnitude);
            if x.is_finite() { x } else { 0.0 }
        })
        .collect();
    match token % 8 {
        // All of one sign.
        5 => row.fill(-1e-3),
        7 => row[columns / 2] = f32::NAN,
        _ => {}
    }
    row
}

fn mat_mul(
    format: BlockFormat,
    layout: WeightLayout,
    rows: usize,
    columns: usize,
    tokens: usize,
) -> Case {
    let name = format!("mat_mul {format} {layout} [{rows}, {columns}] for {tokens} tokens");
    Case::floats(name, tokens, move |scene, tokens| {
        let x = scene.token_rows(1, tokens, columns);
        let weight = scene.weight_in(layout, 2, format, rows, columns);
        multiply(scene, &x, weight, tokens.len())
    })
    .in_layout(layout)
}

fn multiply(scene: &Scene<'_>, x: &[f32], weight: Weight, tokens: usize) -> Vec<Vec<u8>> {
    let rows = weight.rows;
    let out = scene.empty(tokens * rows * 4);
    scene.run(Op::MatMul {
        x: scene.put(x),
        weight,
        out: out.clone(),
        tokens,
    });
    scene.rows(&out, tokens, rows * 4)
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
