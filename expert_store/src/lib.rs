//! Which experts are in memory and how they get there.
//!
//! The store sees keys, sizes and priorities: never a router, a model or HTTP. A prediction reaches it as a hint,
//! which may cost time, never correctness.
#![deny(unsafe_code)]

mod api;
mod catalog;
pub mod disk;
mod executor;
pub mod faulty;
pub mod io;
mod memory;
pub mod residency;
mod store;

pub use api::*;
pub use catalog::Catalog;
pub use faulty::FaultyReader;
pub use io::{Access, FileReader, MemoryReader, Method, OpenError, ReadPlan};
pub use store::ExpertStore;
