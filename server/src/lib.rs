//! The inside of the `odmoe` binary.
//!
//! The only crate of the workspace that knows HTTP, JSON bodies, the environment and the async runtime.
#![forbid(unsafe_code)]

pub mod cli;
pub mod config;
pub mod embedded;
pub mod grammars;
pub mod http;
pub mod metrics;
pub mod model;
pub mod state;
pub mod traces;
