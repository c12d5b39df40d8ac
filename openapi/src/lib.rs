//! Request, response, error and event types of the HTTP surface, with their schemas.
//!
//! Requests ignore fields they do not know and read `null` as absent, as clients of many servers expect. Types here
//! say what can be *parsed*; what is *allowed* (ranges, counts) is the server's to check, so that its errors can name
//! the field and the limit.
#![forbid(unsafe_code)]

mod chat;
mod common;
mod completions;
mod embeddings;
mod error;
mod experts;
mod messages;
mod prompt;
mod response_events;
mod responses;
mod service;
mod tokens;

pub use chat::*;
pub use common::*;
pub use completions::*;
pub use embeddings::*;
pub use error::*;
pub use experts::*;
pub use messages::*;
pub use prompt::*;
pub use response_events::*;
pub use responses::*;
pub use service::*;
pub use tokens::*;
