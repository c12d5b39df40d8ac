//! Which block of the KV cache belongs to which sequence. Pure bookkeeping: the backend owns the memory.
//!
//! A sequence's state is one [`BlockTable`] for all layers today. Other kinds (windows, recurrent snapshots) become
//! a list of per-layer kinds beside it, each planned, freed and recomputed together with the table.

mod limit;
mod pool;
mod table;

pub use pool::BlockPool;
pub use table::{BlockTable, kv_position};
