//! The HTTP surface: OpenAI's completions, health, metrics and documentation.
//!
//! A request passes, from the outside in: record (request id, log line, count) → panic guard → `Host` and `Origin` →
//! key → route. A completion then passes: admission (ready? draining?) → body within its budget → parsing, validation,
//! template and tokenizer in a bounded blocking task → [`Generator::submit`] → only now the 200.

mod access;
mod account;
mod admin;
mod answer;
mod anthropic;
mod app;
mod backlog;
mod batch;
mod body;
mod bucket;
mod chat;
mod completions;
mod config;
mod connections;
mod constraint;
mod deadlines;
mod docs;
mod embeddings;
mod error;
mod experts;
mod generation;
mod generator;
mod held;
mod hosts;
mod job;
mod keys;
mod lifecycle;
mod parts;
mod peer;
mod record;
mod respond;
mod responses;
mod router;
mod said;
mod serve;
mod service;
#[cfg(test)]
mod tests;
mod tls;
mod tokens;
mod trace;

pub use config::{HttpConfig, Limits, OpenListenError, Timeouts, check_listen};
pub use docs::openapi_document;
pub use generator::Generator;
pub use keys::{ApiKey, KeyLimits, SecretDigest};
pub use serve::{Listeners, serve, serve_until};
pub use tls::{Tls, TlsError};
