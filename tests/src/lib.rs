//! The harness of the whole-server tests: it starts the real binary, speaks HTTP to it, watches its memory and
//! damages its files.
//!
//! Everything here panics with what went wrong: its only callers are tests.
#![forbid(unsafe_code)]

pub mod binary;
pub mod cgroup;
pub mod client;
pub mod conversion;
pub mod engine;
pub mod fuzzing;
pub mod golden;
pub mod memory_sum;
pub mod metrics;
pub mod models;
pub mod process;
pub mod requests;
pub mod routing;
pub mod server;
pub mod sse;
pub mod store_files;
pub mod tolerance;
pub mod workspace;

pub use client::{Client, Reply};
pub use server::{Server, ServerOptions};
