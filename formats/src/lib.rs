//! Bytes to descriptions: safetensors headers, the store manifest, quantised block formats.
//!
//! This crate opens no file and starts no thread. Everything that it parses is hostile input: it returns a
//! named error and never panics, and never allocates more than a small multiple of the bytes it was given.
#![forbid(unsafe_code)]

pub mod architecture;
pub mod block;
pub mod checksum;
pub mod expected;
pub mod gguf;
pub mod ids;
pub mod manifest;
pub mod model_config;
pub mod names;
pub mod safetensors;
pub mod usage;

#[cfg(test)]
mod test_random;

pub use block::{BlockFormat, WeightLayout};
pub use ids::{ByteCount, ExpertIndex, ExpertKey, LayerIndex, Space};
