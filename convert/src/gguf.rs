//! GGUF files as a source.

pub mod tokenizer;
