//! The HTTP surface: OpenAI's completions, health, metrics and documentation.
//!
//! A request passes, from the outside in: record (request id, log line, count) → panic guard → `Host` and `Origin` →
//! key → route. A completion then passes: admission (ready? draining?) → body within its budget → parsing, validation,
//! template and tokenizer in a bounded blocking task → [`Generator::submit`] → only now the 200.

mod access;
mod answer;
mod anthropic;
mod app;
mod batch;
mod body;
mod chat;
mod completions;
mod config;
mod connections;
mod constraint;
mod docs;
mod embeddings;
mod error;
mod generation;
mod generator;
mod held;
mod job;
mod lifecycle;
mod parts;
mod peer;
mod record;
mod respond;
mod responses;
mod router;
mod serve;
mod service;
#[cfg(test)]
mod tests;
mod tokens;

pub use config::{HttpConfig, Limits, OpenListenError, check_listen};
pub use docs::openapi_document;
pub use generator::Generator;
pub use serve::{serve, serve_until};
