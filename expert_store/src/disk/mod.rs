//! What the disk gives: how experts are read best here, and how fast.

mod bench;
mod choose;

pub use bench::{DiskBench, DiskError, DiskSpeed, Verify};
pub use choose::{Choice, Wanted, choose};
