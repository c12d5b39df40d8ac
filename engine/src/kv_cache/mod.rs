//! Which block of the KV cache belongs to which sequences. Pure bookkeeping: the backend owns the memory.
//!
//! A full block can be remembered by the prefix of the text that it ends: sequences that begin with the same tokens
//! share it, and once nobody holds it it counts as free, but is handed out last. So remembering takes no memory.
//!
//! A sequence's state is one [`BlockTable`] for all layers today. Other kinds (windows, recurrent snapshots) become
//! a list of per-layer kinds beside it, each planned, freed and recomputed together with the table.

mod limit;
mod pool;
mod prefixes;
mod table;

pub use pool::BlockPool;
pub use prefixes::PrefixScope;
pub use table::{BlockTable, kv_position};
