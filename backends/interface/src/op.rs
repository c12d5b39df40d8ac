//! The ops of a forward pass, as plain data over buffers.
//!
//! Activations are F32, row-major, tightly packed from the buffer's first byte; a buffer may be longer than the
//! rows in use. An op whose shapes do not fit its buffers is a bug of the caller: backends assert.

use crate::buffer::Buffer;
use crate::kv::{KvCache, KvPosition};
use odmoe_formats::{BlockFormat, WeightLayout};
use std::sync::Arc;

/// A weight matrix [rows, columns] inside a buffer, of blocks as the format defines them.
#[derive(Clone, Debug)]
pub struct Weight {
    /// Where it lives: the resident base, or an expert's slot.
    pub buffer: Buffer,
    /// Its first byte in the buffer.
    pub offset_bytes: usize,
    /// How it is stored.
    pub format: BlockFormat,
    /// In which order its blocks lie: one that the backend takes ([`crate::Capabilities::layouts`]), and that fits format and
    /// rows, as [`WeightLayout::of_matrix`] says.
    pub layout: WeightLayout,
    /// Output width, N.
    pub rows: usize,
    /// Input width.
    pub columns: usize,
}

/// Rotary position embedding, "half" (NeoX) pairing: element i turns with element i + D/2 by the angle
/// `position * theta^(-2i/D) / divisors[i]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// The base of the angles.
    pub theta: f64,
    /// [D / 2], or None for ones.
    pub divisors: Option<Arc<[f32]>>,
}

/// How router logits become weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scoring {
    /// Softmax over all E experts, then top-k; scaled to sum to one where asked.
    SoftmaxTopK {
        /// Whether the K weights are scaled to sum to one.
        renormalise: bool,
    },
}

/// In which order a token's K choices are written. Equal scores go to the lower expert first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChoiceOrder {
    /// Ascending expert index: the order in which outputs are summed.
    ByExpert,
    /// Descending score: for predictions.
    ByScore,
}

/// One choice as it lies in a choice buffer: [T, K] of these, 8 bytes each, little endian.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(C)]
pub struct Choice {
    /// The expert.
    pub expert: u32,
    /// Its weight in the sum.
    pub weight: f32,
}

impl Choice {
    /// Bytes of one choice in a choice buffer.
    pub const BYTES: usize = 8;

    /// Reads choices from the bytes of a read-back.
    pub fn decode(bytes: &[u8]) -> impl ExactSizeIterator<Item = Self> + '_ {
        bytes.chunks_exact(Self::BYTES).map(|record| Self {
            expert: u32::from_le_bytes([record[0], record[1], record[2], record[3]]),
            weight: f32::from_le_bytes([record[4], record[5], record[6], record[7]]),
        })
    }
}

/// One row of an expert's work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExpertRow {
    /// The row of `x` that goes in.
    pub token_row: u32,
    /// The row of `out` that comes out: token * K + place among the token's choices.
    pub out_row: u32,
}

/// One expert with the tokens that were routed to it.
#[derive(Clone, Debug)]
pub struct ExpertGroup {
    /// [F, H].
    pub gate: Weight,
    /// [F, H].
    pub up: Weight,
    /// [H, F].
    pub down: Weight,
    /// Its rows.
    pub rows: Arc<[ExpertRow]>,
}

/// Consecutive query rows of one sequence.
#[derive(Clone, Debug)]
pub struct AttentionSpan {
    /// The first row of `q` and `out`.
    pub first_row: usize,
    /// How many rows.
    pub rows: usize,
    /// Absolute position of the first row; row r sees positions 0 ..= first_position + r.
    pub first_position: usize,
    /// The sequence's blocks in order of position.
    pub blocks: Arc<[u32]>,
}

/// One op. In every variant, buffers named `out` or `into` are written, the others read.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Op {
    /// out [T, H] = rows `ids` of `table` [V, H], decoded to F32.
    Embed {
        /// [V, H].
        table: Weight,
        /// One id a token, each below V.
        ids: Arc<[u32]>,
        /// [T, H].
        out: Buffer,
    },
    /// out = x / sqrt(mean(x^2) + epsilon) * weight, row by row. `out` may be `x`.
    RmsNorm {
        /// [rows, width].
        x: Buffer,
        /// [1, width], F32.
        weight: Weight,
        /// Added to the mean square.
        epsilon: f32,
        /// [rows, width].
        out: Buffer,
        /// How many rows.
        rows: usize,
    },
    /// out [T, N] = x [T, columns] * weight^T.
    MatMul {
        /// [T, columns].
        x: Buffer,
        /// [N, columns].
        weight: Weight,
        /// [T, N].
        out: Buffer,
        /// T.
        tokens: usize,
    },
    /// In place on `into` [T, heads, D]: RMS norm of each head where a weight is given, then rotary embedding.
    NormRope {
        /// [T, heads, D].
        into: Buffer,
        /// [1, D] in F32, and epsilon.
        norm: Option<(Weight, f32)>,
        /// The rotation.
        rope: Rope,
        /// Heads in a row.
        heads: usize,
        /// D.
        head_dim: usize,
        /// The absolute position of each row.
        positions: Arc<[u32]>,
    },
    /// Stores k and v [T, G, D] of each row at its place in the cache.
    KvAppend {
        /// Written.
        cache: KvCache,
        /// The layer.
        layer: usize,
        /// [T, G, D].
        k: Buffer,
        /// [T, G, D].
        v: Buffer,
        /// One place a row.
        positions: Arc<[KvPosition]>,
    },
    /// Causal attention of q [T, Q, D] over the stored keys and values, head h reading K/V head h * G / Q.
    ///
    /// Invariance: scores and values go over fixed splits of absolute position, merged in ascending order, so that
    /// a row's result depends on nothing but its own sequence.
    PagedAttention {
        /// [T, Q, D].
        q: Buffer,
        /// Read.
        cache: KvCache,
        /// The layer.
        layer: usize,
        /// Who the rows belong to.
        spans: Arc<[AttentionSpan]>,
        /// Q.
        query_heads: usize,
        /// Factor on the scores, usually 1 / sqrt(D).
        scale: f32,
        /// [T, Q, D].
        out: Buffer,
    },
    /// into += x, element by element.
    AddInPlace {
        /// [elements].
        x: Buffer,
        /// [elements].
        into: Buffer,
        /// How many.
        elements: usize,
    },
    /// into[t] += bias, row by row.
    AddBias {
        /// [1, width], F32.
        bias: Weight,
        /// [rows, width].
        into: Buffer,
        /// How many rows.
        rows: usize,
    },
    /// into[t] += sigmoid(gate[t]) * x[t], row by row: the output of a gated shared expert.
    AddGated {
        /// [rows, 1], before the sigmoid.
        gate: Buffer,
        /// [rows, width].
        x: Buffer,
        /// [rows, width].
        into: Buffer,
        /// How many rows.
        rows: usize,
        /// Elements of a row.
        width: usize,
    },
    /// out = silu(gate) * up, element by element. `out` may be `gate`.
    SiluMul {
        /// [elements].
        gate: Buffer,
        /// [elements].
        up: Buffer,
        /// [elements].
        out: Buffer,
        /// How many.
        elements: usize,
    },
    /// Router: logits = x * weight^T, scored, top-k written to `out` as [T, K] [`Choice`]s.
    Route {
        /// [T, H].
        x: Buffer,
        /// [E, H], a float format.
        weight: Weight,
        /// T.
        tokens: usize,
        /// K.
        top_k: usize,
        /// How logits become weights.
        scoring: Scoring,
        /// The order of a token's choices.
        order: ChoiceOrder,
        /// [T, K] choices.
        out: Buffer,
    },
    /// out[row.out_row] = down * (silu(gate * x[row.token_row]) * (up * x[row.token_row])) for each row of each group.
    ExpertFfn {
        /// [T, H].
        x: Buffer,
        /// The experts whose weights are in memory.
        groups: Vec<ExpertGroup>,
        /// [T * K, H].
        out: Buffer,
    },
    /// into[t] += sum over j ascending of weight[t][j] * expert_out[t * K + j]. The sum starts from zero and is
    /// added to `into` once, so the order in which experts were computed does not matter.
    CombineExperts {
        /// [T * K, H].
        expert_out: Buffer,
        /// [T, K] choices in ascending expert index.
        choices: Buffer,
        /// [T, H].
        into: Buffer,
        /// T.
        tokens: usize,
        /// K.
        top_k: usize,
        /// H.
        hidden: usize,
    },
    /// out[i] = x[rows[i]], rows of `width` F32.
    GatherRows {
        /// [_, width].
        x: Buffer,
        /// Which rows.
        rows: Arc<[u32]>,
        /// [rows, width].
        out: Buffer,
        /// Elements of a row.
        width: usize,
    },
}

/// How an op touches a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Only reads.
    Read,
    /// Writes, perhaps reads too.
    Write,
}

impl Op {
    /// A short name, for traces and tables.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Embed { .. } => "embed",
            Self::RmsNorm { .. } => "rms_norm",
            Self::MatMul { .. } => "mat_mul",
            Self::NormRope { .. } => "norm_rope",
            Self::KvAppend { .. } => "kv_append",
            Self::PagedAttention { .. } => "paged_attention",
            Self::AddInPlace { .. } => "add_in_place",
            Self::AddBias { .. } => "add_bias",
            Self::AddGated { .. } => "add_gated",
            Self::SiluMul { .. } => "silu_mul",
            Self::Route { .. } => "route",
            Self::ExpertFfn { .. } => "expert_ffn",
            Self::CombineExperts { .. } => "combine_experts",
            Self::GatherRows { .. } => "gather_rows",
        }
    }

    /// Every buffer that the op touches, with how. KV caches are told by [`Op::kv_access`].
    pub fn accesses(&self) -> Vec<(&Buffer, Access)> {
        use Access::{Read, Write};
        match self {
            Self::Embed { table, out, .. } => vec![(&table.buffer, Read), (out, Write)],
            Self::RmsNorm { x, weight, out, .. } => {
                vec![(x, Read), (&weight.buffer, Read), (out, Write)]
            }
            Self::MatMul { x, weight, out, .. } => {
                vec![(x, Read), (&weight.buffer, Read), (out, Write)]
            }
            Self::NormRope { into, norm, .. } => {
                let mut all = vec![(into, Write)];
                all.extend(norm.iter().map(|(weight, _)| (&weight.buffer, Read)));
                all
            }
            Self::KvAppend { k, v, .. } => vec![(k, Read), (v, Read)],
            Self::PagedAttention { q, out, .. } => vec![(q, Read), (out, Write)],
            Self::AddInPlace { x, into, .. } => vec![(x, Read), (into, Write)],
            Self::AddBias { bias, into, .. } => vec![(&bias.buffer, Read), (into, Write)],
            Self::AddGated { gate, x, into, .. } => vec![(gate, Read), (x, Read), (into, Write)],
            Self::SiluMul { gate, up, out, .. } => vec![(gate, Read), (up, Read), (out, Write)],
            Self::Route { x, weight, out, .. } => {
                vec![(x, Read), (&weight.buffer, Read), (out, Write)]
            }
            Self::ExpertFfn { x, groups, out } => {
                let mut all = vec![(x, Read), (out, Write)];
                for group in groups {
                    all.extend([&group.gate, &group.up, &group.down].map(|w| (&w.buffer, Read)));
                }
                all
            }
            Self::CombineExperts {
                expert_out,
                choices,
                into,
                ..
            } => {
                vec![(expert_out, Read), (choices, Read), (into, Write)]
            }
            Self::GatherRows { x, out, .. } => vec![(x, Read), (out, Write)],
        }
    }

    /// The KV cache that the op touches, its layer, and how.
    pub fn kv_access(&self) -> Option<(&KvCache, usize, Access)> {
        match self {
            Self::KvAppend { cache, layer, .. } => Some((cache, *layer, Access::Write)),
            Self::PagedAttention { cache, layer, .. } => Some((cache, *layer, Access::Read)),
            _ => None,
        }
    }
}
