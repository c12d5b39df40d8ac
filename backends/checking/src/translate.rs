//! An op over checked buffers as the same op over the inner backend's.

use crate::memory::{CheckedBuffer, CheckedKv};
use odmoe_backend::{Buffer, ExpertGroup, KvCache, Op, Weight};

fn buffer(buffer: &Buffer) -> Buffer {
    CheckedBuffer::of(buffer).inner.clone()
}

fn weight(weight: &Weight) -> Weight {
    Weight {
        buffer: buffer(&weight.buffer),
        ..weight.clone()
    }
}

fn cache(cache: &KvCache) -> KvCache {
    CheckedKv::of(cache).inner.clone()
}

fn group(group: &ExpertGroup) -> ExpertGroup {
    ExpertGroup {
        gate: weight(&group.gate),
        up: weight(&group.up),
        down: weight(&group.down),
        rows: group.rows.clone(),
    }
}

/// Replaces every handle in place.
pub fn translate(mut op: Op) -> Op {
    let inner = |handle: &mut Buffer| *handle = buffer(handle);
    match &mut op {
        Op::Embed { table, out, .. } => {
            *table = weight(table);
            inner(out);
        }
        Op::RmsNorm {
            x, weight: w, out, ..
        }
        | Op::MatMul {
            x, weight: w, out, ..
        }
        | Op::Route {
            x, weight: w, out, ..
        } => {
            *w = weight(w);
            [x, out].into_iter().for_each(inner);
        }
        Op::NormRope { into, norm, .. } => {
            inner(into);
            if let Some((w, _)) = norm {
                *w = weight(w);
            }
        }
        Op::KvAppend {
            cache: kv, k, v, ..
        } => {
            *kv = cache(kv);
            [k, v].into_iter().for_each(inner);
        }
        Op::PagedAttention {
            q, cache: kv, out, ..
        } => {
            *kv = cache(kv);
            [q, out].into_iter().for_each(inner);
        }
        Op::AddInPlace { x, into, .. } => [x, into].into_iter().for_each(inner),
        Op::AddBias { bias, into, .. } => {
            *bias = weight(bias);
            inner(into);
        }
        Op::AddGated { gate, x, into, .. } => [gate, x, into].into_iter().for_each(inner),
        Op::SiluMul { gate, up, out, .. } => [gate, up, out].into_iter().for_each(inner),
        Op::ExpertFfn { x, groups, out } => {
            groups.iter_mut().for_each(|g| *g = group(g));
            [x, out].into_iter().for_each(inner);
        }
        Op::CombineExperts {
            expert_out,
            choices,
            into,
            ..
        } => [expert_out, choices, into].into_iter().for_each(inner),
        Op::GatherRows { x, out, .. } => [x, out].into_iter().for_each(inner),
        other => panic!("the checking backend cannot pass on {}", other.name()),
    }
    op
}
