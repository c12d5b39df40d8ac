//! Which experts are in memory and how they get there.
//!
//! The store sees keys, sizes and priorities: never a router, a model or HTTP. A prediction reaches it as a hint,
//! which may cost time, never correctness.

mod api;

pub use api::*;
