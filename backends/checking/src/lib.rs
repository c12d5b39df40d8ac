//! The checking backend: separate memory, delayed completion, and a refusal of every access that skips an upload or an event.
//!
//! It stands between the engine and a real backend in tests. What it finds: reads of bytes that nobody wrote, host
//! windows over buffers in use, ops over open windows, streams that share a buffer without an event between them,
//! attention over positions that were never appended, and read-backs taken twice. Results are those of the inner
//! backend, late.
#![forbid(unsafe_code)]

mod backend;
mod clock;
pub mod conformance;
mod device;
mod footprint;
mod ledger;
mod memory;
mod translate;

pub use backend::{CheckingBackend, CheckingConfig, Completion};
