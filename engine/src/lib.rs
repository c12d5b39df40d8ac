//! Token ids in, token ids out.
//!
//! The engine never sees text, JSON or HTTP, and does not know which backend it runs on.
#![forbid(unsafe_code)]

mod api;
pub mod kv_cache;
pub mod sampler;
pub mod scheduler;

pub use api::*;
