//! Which resident object leaves when a slot is needed.

mod lru;
mod policy;

pub use lru::SegmentedLru;
pub use policy::{EvictionPolicy, Heat};
