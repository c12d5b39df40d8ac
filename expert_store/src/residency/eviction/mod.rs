//! Which resident object leaves when a slot is needed.

mod choice;
mod lru;
mod next_turn;
mod policy;

pub use choice::{Eviction, UnknownEviction};
pub use lru::SegmentedLru;
pub use next_turn::NextTurn;
pub use policy::{EvictionPolicy, Heat};
