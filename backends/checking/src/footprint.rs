//! Which bytes an op touches.

use crate::ledger::Use;
use odmoe_backend::{AttentionSpan, Buffer, Choice, Op, Weight};
use std::ops::Range;

/// One range that an op uses.
#[derive(Debug)]
pub struct Touch<'a> {
    /// The buffer.
    pub buffer: &'a Buffer,
    /// Its bytes.
    pub range: Range<usize>,
    /// How.
    pub how: Use,
}

/// Every range of an op, reads before writes. KV caches are not among them: see [`kv_slots`].
pub fn touches(op: &Op) -> Vec<Touch<'_>> {
    match op {
        Op::Embed { table, ids, out } => {
            let rows = ids.iter().map(|&id| weight_row(table, id as usize));
            rows.chain([write(out, ids.len() * table.columns)])
                .collect()
        }
        Op::KvAppend {
            cache,
            k,
            v,
            positions,
            ..
        } => {
            let elements = positions.len() * cache.spec().kv_heads * cache.spec().head_dim;
            vec![read(k, elements), read(v, elements)]
        }
        Op::PagedAttention {
            q,
            cache,
            spans,
            query_heads,
            out,
            ..
        } => attention(q, spans, query_heads * cache.spec().head_dim, out),
        Op::AddInPlace {
            x,
            into,
            elements: n,
        } => vec![read(x, *n), read(into, *n), write(into, *n)],
        Op::AddGated {
            gate,
            x,
            into,
            rows,
            width,
        } => {
            let n = rows * width;
            vec![read(gate, *rows), read(x, n), read(into, n), write(into, n)]
        }
        Op::SiluMul {
            gate,
            up,
            out,
            elements: n,
        } => {
            vec![read(gate, *n), read(up, *n), write(out, *n)]
        }
        Op::ExpertFfn { .. } => expert_ffn(op),
        Op::CombineExperts { .. } => combine(op),
        Op::GatherRows {
            x,
            rows,
            out,
            width,
        } => {
            let read = rows
                .iter()
                .map(|&row| float_row(x, row as usize, *width, Use::Read));
            read.chain([write(out, rows.len() * width)]).collect()
        }
        _ => with_weight(op),
    }
}

/// Ops that read the whole of one weight.
fn with_weight(op: &Op) -> Vec<Touch<'_>> {
    match op {
        Op::RmsNorm {
            x,
            weight,
            out,
            rows,
            ..
        } => {
            let elements = rows * weight.columns;
            vec![read(x, elements), whole(weight), write(out, elements)]
        }
        Op::MatMul {
            x,
            weight,
            out,
            tokens,
        } => {
            let x = read(x, tokens * weight.columns);
            vec![x, whole(weight), write(out, tokens * weight.rows)]
        }
        Op::AddBias { bias, into, rows } => {
            let elements = rows * bias.columns;
            vec![read(into, elements), whole(bias), write(into, elements)]
        }
        Op::NormRope {
            into,
            norm,
            heads,
            head_dim,
            positions,
            ..
        } => {
            let elements = positions.len() * heads * head_dim;
            let mut all = vec![read(into, elements)];
            all.extend(norm.iter().map(|(weight, _)| whole(weight)));
            all.push(write(into, elements));
            all
        }
        Op::Route {
            x,
            weight,
            tokens,
            top_k,
            out,
            ..
        } => {
            let choices = touch(out, 0, tokens * top_k * Choice::BYTES, Use::Write);
            vec![read(x, tokens * weight.columns), whole(weight), choices]
        }
        other => panic!(
            "the checking backend does not know what {} touches",
            other.name()
        ),
    }
}

fn combine(op: &Op) -> Vec<Touch<'_>> {
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
    vec![
        read(expert_out, tokens * top_k * hidden),
        touch(choices, 0, tokens * top_k * Choice::BYTES, Use::Read),
        read(into, tokens * hidden),
        write(into, tokens * hidden),
    ]
}

fn attention<'a>(
    q: &'a Buffer,
    spans: &[AttentionSpan],
    width: usize,
    out: &'a Buffer,
) -> Vec<Touch<'a>> {
    let of = |buffer, how| {
        spans.iter().map(move |span| {
            touch(
                buffer,
                span.first_row * width * 4,
                span.rows * width * 4,
                how,
            )
        })
    };
    of(q, Use::Read).chain(of(out, Use::Write)).collect()
}

fn expert_ffn(op: &Op) -> Vec<Touch<'_>> {
    let Op::ExpertFfn { x, groups, out } = op else {
        unreachable!("called for this op only")
    };
    let mut all = Vec::new();
    for group in groups {
        all.extend([&group.gate, &group.up, &group.down].map(whole));
        let hidden = group.gate.columns;
        all.extend(
            group
                .rows
                .iter()
                .map(|row| float_row(x, row.token_row as usize, hidden, Use::Read)),
        );
    }
    for group in groups {
        let hidden = group.gate.columns;
        all.extend(
            group
                .rows
                .iter()
                .map(|row| float_row(out, row.out_row as usize, hidden, Use::Write)),
        );
    }
    all
}

/// The token slots (block * block_tokens + offset) of one layer that an op uses.
pub fn kv_slots(op: &Op) -> Vec<(Range<usize>, Use)> {
    match op {
        Op::KvAppend {
            cache, positions, ..
        } => {
            let block_tokens = cache.spec().block_tokens;
            let slot = |place: &odmoe_backend::KvPosition| {
                place.block as usize * block_tokens + place.offset as usize
            };
            positions
                .iter()
                .map(slot)
                .map(|slot| (slot..slot + 1, Use::Write))
                .collect()
        }
        Op::PagedAttention { cache, spans, .. } => {
            let block_tokens = cache.spec().block_tokens;
            spans
                .iter()
                .flat_map(|span| seen_slots(span, block_tokens))
                .collect()
        }
        _ => Vec::new(),
    }
}

fn seen_slots(
    span: &AttentionSpan,
    block_tokens: usize,
) -> impl Iterator<Item = (Range<usize>, Use)> {
    let seen = span.first_position + span.rows;
    assert!(
        seen <= span.blocks.len() * block_tokens,
        "a span sees {seen} positions, more than its blocks hold"
    );
    span.blocks
        .iter()
        .enumerate()
        .take(seen.div_ceil(block_tokens))
        .map(move |(index, &block)| {
            let in_block = block_tokens.min(seen - index * block_tokens);
            let first = block as usize * block_tokens;
            (first..first + in_block, Use::Read)
        })
}

fn touch(buffer: &Buffer, start: usize, bytes: usize, how: Use) -> Touch<'_> {
    Touch {
        buffer,
        range: start..start + bytes,
        how,
    }
}

fn read(buffer: &Buffer, floats: usize) -> Touch<'_> {
    touch(buffer, 0, floats * 4, Use::Read)
}

fn write(buffer: &Buffer, floats: usize) -> Touch<'_> {
    touch(buffer, 0, floats * 4, Use::Write)
}

fn float_row(buffer: &Buffer, row: usize, width: usize, how: Use) -> Touch<'_> {
    touch(buffer, row * width * 4, width * 4, how)
}

fn row_bytes(weight: &Weight) -> usize {
    let bytes = weight.format.row_bytes(weight.columns as u64);
    bytes.unwrap_or_else(|| {
        panic!(
            "{} columns are not whole blocks of {:?}",
            weight.columns, weight.format
        )
    }) as usize
}

fn whole(weight: &Weight) -> Touch<'_> {
    touch(
        &weight.buffer,
        weight.offset_bytes,
        weight.rows * row_bytes(weight),
        Use::Read,
    )
}

fn weight_row(weight: &Weight, row: usize) -> Touch<'_> {
    assert!(
        row < weight.rows,
        "row {row} of a weight with {}",
        weight.rows
    );
    let bytes = row_bytes(weight);
    touch(
        &weight.buffer,
        weight.offset_bytes + row * bytes,
        bytes,
        Use::Read,
    )
}
