//! How the values of each tensor are drawn, and what a kind of routing makes of them.
//!
//! Without more, every matrix keeps the mean square of what it multiplies, and a router's logits spread twice as wide.
//!
//! **Uniform** routing: attention adds next to nothing, so that the residual stream, and with it the router's choice,
//! follows the token. Random tokens then share experts as often as chance has it: top-k of all.
//!
//! **Reuse**: the router sees a running mixture of the last tokens. The channels of the residual stream are three bands:
//!
//! - the *beacon*: the same values for every token. Queries and keys read it alone, and a query head's matrix is that of
//!   its key head. So a score depends on the distance of two positions and on nothing else: it is the sum over the
//!   rotary pairs of cos(distance * frequency), which falls like -ln(distance) / ln(base). Its scale is chosen so that
//!   softmax weights fall about as 1 / distance where an expert is chosen for one token in sixteen, and faster where
//!   chance repeats more. Values read everything else.
//! - the *context*: empty in the embedding, written by the output projections of attention alone. With those weights
//!   it is a mixture of what the last tokens' values are, which the next token moves but does not replace.
//! - the rest, which holds the token, and what the MLPs write.
//!
//! Routers read the context alone. Neighbours so share a large part of their experts, in prompts of random tokens and in
//! generated text, at any length; and no expert is hot for long, since the mixture forgets. Tokens far apart share
//! experts as often as chance has it.

use super::{RandomModel, Routing};
use crate::source::TensorId;
use odmoe_formats::names::{EMBED_TOKENS, ExpertRole};

/// Widths of bands are multiples of this: no block of any format then holds two bands' scales.
const BAND: u32 = 32;
/// What attention adds under uniform routing.
const DAMPED: f32 = 0.02;

/// How a tensor's values are drawn: uniform around a centre, with a factor to the half width in bands of its rows or
/// of its columns.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Recipe {
    pub centre: f32,
    pub half_width: f32,
    pub bands: Bands,
}

/// What differs within a tensor.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Bands {
    /// Nothing.
    None,
    /// So many rows with such a factor, one after another; the last factor holds for all rows that are left.
    Rows(Vec<(u64, f32)>),
    /// Columns, with the row that a row is drawn as.
    Columns {
        bands: Vec<(u64, Fill)>,
        rows: RowNames,
    },
}

/// What a band of columns holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fill {
    Zero,
    /// The same in every row.
    Same,
    /// Of its own in every row.
    Own,
}

/// Rows of one name are drawn alike.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct RowNames {
    /// What takes the place of the tensor's name.
    pub tensor: Option<String>,
    /// Rows of a head.
    pub head_rows: u64,
    /// So many heads, one after another, are drawn as one.
    pub heads: u64,
}

impl RowNames {
    pub fn of(&self, row: u64) -> u64 {
        let (head, within) = (row / self.head_rows, row % self.head_rows);
        head / self.heads * self.head_rows + within
    }
}

/// Where the bands of the residual stream end.
struct Channels {
    beacon: u32,
    context: u32,
}

impl Channels {
    fn of(model: &RandomModel) -> Self {
        let context = (model.hidden / 4 / BAND).max(1) * BAND;
        Self {
            beacon: BAND,
            context,
        }
    }
}

/// The narrowest residual stream that has all three bands.
pub(super) const LEAST_HIDDEN_FOR_REUSE: u32 = 4 * BAND;

/// The kinds of tensors that recipes tell apart, by the last part of the canonical name.
fn kind(id: &TensorId) -> &str {
    match id {
        TensorId::Resident(name) => name.rsplit('.').next().unwrap_or(name),
        TensorId::Expert(_, ExpertRole::DownProj) => "down_proj",
        TensorId::Expert(..) => "expert",
    }
}

/// The recipe of a tensor of that shape, rows first.
pub(super) fn recipe(model: &RandomModel, id: &TensorId, shape: &[u64]) -> Recipe {
    let plain = plain(kind(id), shape);
    match model.routing {
        Routing::Unshaped => plain,
        Routing::Uniform => uniform(model, kind(id), plain),
        Routing::Reuse => reuse(model, id, plain),
    }
}

/// A norm's weight lies around 1; a matrix keeps the variance of what it multiplies; a router's logits spread wider,
/// so that its choices differ between tokens.
fn plain(kind: &str, shape: &[u64]) -> Recipe {
    let columns = shape.last().copied().unwrap_or(1) as f32;
    // A uniform distribution of half width sqrt(3) has variance 1.
    let unit = (3.0 / columns).sqrt();
    let (centre, half_width) = match (shape.len(), kind) {
        (1, _) => (1.0, 0.25),
        (_, EMBED_TOKENS) => (0.0, 3.0f32.sqrt()),
        (_, "router") => (0.0, 2.0 * unit),
        _ => (0.0, unit),
    };
    Recipe {
        centre,
        half_width,
        bands: Bands::None,
    }
}

/// All layers' MLPs together add about as much as there is.
fn depth_factor(model: &RandomModel) -> f32 {
    1.0 / (model.layers as f32).sqrt()
}

fn uniform(model: &RandomModel, kind: &str, plain: Recipe) -> Recipe {
    let factor = match kind {
        "o_proj" => DAMPED,
        "down_proj" => depth_factor(model),
        // As the output head it is to give logits of about 1.
        EMBED_TOKENS if model.tie => 1.0 / (model.hidden as f32).sqrt(),
        _ => 1.0,
    };
    Recipe {
        half_width: plain.half_width * factor,
        ..plain
    }
}

fn reuse(model: &RandomModel, id: &TensorId, plain: Recipe) -> Recipe {
    let Channels { beacon, context } = Channels::of(model);
    let scaled = |factor: f32, bands| Recipe {
        half_width: plain.half_width * factor,
        bands,
        ..plain
    };
    // As wide as if all channels were read, where only some are.
    let of_all = |read: u32| (model.hidden as f32 / read as f32).sqrt();
    let own_rows = RowNames {
        tensor: None,
        head_rows: 1,
        heads: 1,
    };
    let columns = |bands: &[(u32, Fill)], rest, rows| Bands::Columns {
        bands: bands
            .iter()
            .map(|(width, fill)| (u64::from(*width), *fill))
            .chain([(u64::MAX, rest)])
            .collect(),
        rows,
    };
    let rows = |factors: [f32; 3]| {
        let ends = [beacon.into(), context.into(), u64::MAX];
        Bands::Rows(ends.into_iter().zip(factors).collect())
    };
    match kind(id) {
        EMBED_TOKENS => {
            let bands = [(beacon, Fill::Same), (context, Fill::Zero)];
            scaled(1.0, columns(&bands, Fill::Own, own_rows))
        }
        "q_norm" | "k_norm" => Recipe {
            centre: score_gain(model),
            half_width: 0.0,
            bands: Bands::None,
        },
        kind @ ("q_proj" | "k_proj") => {
            let gain = match model.family.has_query_key_norm() {
                true => 1.0,
                false => score_gain(model),
            };
            let rows = shared_rows(model, id, kind == "q_proj");
            let bands = columns(&[(beacon, Fill::Own)], Fill::Zero, rows);
            scaled(gain * of_all(beacon), bands)
        }
        // Read by values, the beacon would move every token's context the same way for ever.
        "v_proj" => scaled(1.0, columns(&[(beacon, Fill::Zero)], Fill::Own, own_rows)),
        // What the last tokens' values leave after averaging is about a third of one value.
        "o_proj" => scaled(1.0, rows([0.0, 3.0 * depth_factor(model), DAMPED])),
        "down_proj" => scaled(depth_factor(model), rows([0.0, 0.0, 1.0])),
        "router" => {
            let bands = columns(
                &[(beacon, Fill::Zero), (context, Fill::Own)],
                Fill::Zero,
                own_rows,
            );
            scaled(of_all(context), bands)
        }
        _ => plain,
    }
}

/// What queries and keys are each multiplied with, so that at distance 0 their product over the square root of the
/// head's width is [`forgetting`] * ln(base).
fn score_gain(model: &RandomModel) -> f32 {
    let width = (model.head_dim as f32).sqrt();
    (forgetting(model) * (model.rope_theta as f32).ln() / width).sqrt()
}

/// The exponent at which softmax weights fall with distance. Where chance alone lets neighbours share many experts, they
/// need less in common.
fn forgetting(model: &RandomModel) -> f32 {
    let chance = model.top_k as f32 / model.experts as f32;
    1.0 + 12.0 * (chance - 1.0 / 16.0).clamp(0.0, 0.25)
}

/// A query head's rows are those of the key head that it meets.
fn shared_rows(model: &RandomModel, id: &TensorId, query: bool) -> RowNames {
    let TensorId::Resident(name) = id else {
        unreachable!("experts have no queries")
    };
    RowNames {
        tensor: Some(name.replace("q_proj", "k_proj")),
        head_rows: model.head_dim.into(),
        heads: match query {
            true => u64::from(model.heads / model.kv_heads),
            false => 1,
        },
    }
}
