//! The backend trait: opaque buffers, streams, events, and every op of the forward pass as plain data.
//!
//! The engine enqueues ops on a stream and never gets host data back from them; what the host needs comes by
//! [`Backend::read_back`] as a ticket. An op is a value ([`Op`]) that names its buffers, so one op can be run on
//! two backends and compared, recorded, delayed, or checked for a missing event.
//!
//! Letters in the comments: T tokens (rows), H hidden size, V vocabulary, Q query heads, G key/value heads,
//! D head width, E experts, K experts a token (top-k), F width of an expert's intermediate state.
#![forbid(unsafe_code)]

mod backend;
mod buffer;
mod kv;
mod op;

pub use backend::{
    AllocateError, Backend, BackendError, Capabilities, Event, Invariance, OpShape, ReadBack,
    StreamId, Waker, scratch_bytes_max,
};
pub use buffer::{Buffer, DeviceBuffer, Extent, ExtentMemory, HostWindow, HostWindowMemory};
pub use kv::{KvCache, KvFormat, KvMemory, KvPosition, KvSpec};
pub use op::{
    Access, AttentionSpan, Choice, ChoiceOrder, ExpertGroup, ExpertRow, Op, Rope, Scoring, Weight,
};
