//! The scalar definition of every op: what each result is, bit for bit. It stays as the oracle of every other kernel.
//!
//! Letters: T tokens (rows), H hidden size, V vocabulary, Q query heads, G key/value heads, D head width, E experts,
//! K experts a token, F width of an expert's intermediate state, N output width.
//!
//! No result depends on how many rows an op has, so each function here is about one row.

mod attention;
mod dot;
mod elementwise;
mod exp;
mod expert_ffn;
mod quantise;
mod quantised;
mod rope;
mod router;

pub use attention::{Merged, SPLIT, attend};
pub use dot::{LANES, decode_row, linear, maximum, reduce};
pub use elementwise::{
    add_gated_row, add_in_place, combine_row, rms_norm_row, rotate_head, silu_mul,
};
pub use expert_ffn::{ExpertView, expert_ffn_row};
#[cfg(test)]
pub use quantise::QuantisedRow;
pub use quantise::quantise_block;
#[cfg(test)]
pub use quantised::dot_quantised;
pub use rope::rope_row;
pub use router::{choose, exponentials};
