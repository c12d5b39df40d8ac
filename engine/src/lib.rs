//! Token ids in, token ids out.
//!
//! The engine never sees text, JSON or HTTP, and does not know which backend it runs on. A request goes from
//! [`EngineHandle::submit`] to the step loop, which owns the scheduler, the expert store and two lanes; its tokens
//! come out of the sampler into the request's sink.
#![forbid(unsafe_code)]

mod api;
mod handle;
pub mod kv_cache;
mod lanes;
mod memory;
mod model;
pub mod sampler;
pub mod scheduler;
mod start;
mod step_loop;

pub use api::*;
pub use handle::EngineHandle;
