//! Safetensors headers over hostile bytes, and a layout for writing that aligns.
//!
//! A file is an 8-byte little-endian length N, N bytes of JSON, and the data. The JSON maps each tensor's name to
//! `dtype`, `shape` and `data_offsets` (from the data's start), and may have string pairs under `__metadata__`. The
//! tensors must cover the data without gap or overlap.

mod error;
mod header;
mod json;
mod layout;

pub use ::safetensors::Dtype;
pub use error::SafetensorsError;
pub use header::{Encoding, SafetensorsHeader, TensorEntry, header_length};
pub use layout::{LayoutError, PlacedTensor, SafetensorsLayout, TensorSpec};

/// Bytes before the JSON: its length.
pub const PREFIX_BYTES: u64 = 8;
/// The longest JSON that is read, as in the format's reference reader.
pub const MAX_HEADER_BYTES: u64 = 100_000_000;
/// The most tensors in one file. The largest public mixture-of-experts models have about 10^5 in all their files.
pub const MAX_TENSORS: usize = 1_000_000;
/// The most dimensions of one tensor.
pub const MAX_DIMENSIONS: usize = 8;
/// The longest tensor name in bytes.
pub const MAX_NAME_BYTES: usize = 1024;

/// Metadata key prefix for a tensor of blocks that the format has no dtype for. The whole key is this and the
/// tensor's name; the value is the block format's name, a space, and the logical shape: `Q8_0 128x256`. Where the rows do
/// not lie one after another, a space and the layout's name follow: `Q8_0 128x256 lanes-16-1`.
pub const BLOCKS_KEY_PREFIX: &str = "odmoe.blocks.";
/// Name prefix of the U8 tensors that fill what alignment leaves open. Reserved: no other tensor may bear it.
pub const FILLER_PREFIX: &str = "__odmoe_filler__.";

#[cfg(test)]
mod tests;
