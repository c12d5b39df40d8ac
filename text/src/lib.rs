//! Text to token ids and back: chat templates, tokenizer, incremental detokenizer, stop strings.
//!
//! Nothing here opens a file, starts a thread or knows HTTP. Tokenizer files, templates, conversations and texts are
//! hostile input: they give named errors and never panic; see each module for its bounds.
#![forbid(unsafe_code)]

mod detokenize;
pub mod grammar;
pub mod output;
mod python;
mod stop;
mod surface;
mod template;
mod tokenizer;

pub use detokenize::IncrementalDetokenizer;
pub use stop::{StopMatcher, StopOutcome};
pub use template::{ChatTemplate, RenderOptions, TemplateError};
pub use tokenizer::{Tokenizer, TokenizerError};
