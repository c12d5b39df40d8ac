//! What must hold for every input of a parser, however hostile: called by the fuzz targets of `fuzz/` and, on the seed
//! corpus and its mutations, by `cargo test`.

pub mod corpus;
pub mod gguf;
pub mod gguf_model;
pub mod manifest;
pub mod mutate;
pub mod safetensors;
pub mod tokenizer_import;

use std::fmt::Debug;

/// How a parser took an input.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// Parsed, and everything promised of what parses held.
    Accepted,
    /// Refused, by this variant of its error.
    Refused(String),
}

impl Outcome {
    /// The variant of an error, from how it prints for debugging.
    fn refused(error: &impl Debug) -> Self {
        let text = format!("{error:?}");
        let end = text.find(|c: char| !c.is_alphanumeric());
        Self::Refused(text[..end.unwrap_or(text.len())].to_string())
    }
}

/// One parser under test.
pub struct Target {
    /// Of the fuzz target and of its folder in `fuzz/corpus/`.
    pub name: &'static str,
    /// Parses and checks what must hold; panics where it does not.
    pub check: fn(&[u8]) -> Outcome,
    /// Only parses, for measuring.
    pub parse: fn(&[u8]),
    /// The most memory that parsing may take: this many bytes,
    pub memory_base: usize,
    /// and this many for each byte of input.
    pub memory_factor: usize,
    /// Makes a mutated input plausible again, so that mutations reach what lies behind the first check.
    pub repair: fn(&mut [u8]),
}

/// Every parser under test.
pub const TARGETS: [Target; 5] = [
    Target {
        name: "gguf",
        check: gguf::check,
        parse: gguf::parse,
        memory_base: 16 << 10,
        memory_factor: 16,
        repair: |_| {},
    },
    Target {
        name: "gguf_model",
        check: gguf_model::check,
        parse: gguf_model::parse,
        // A few bytes may say a thousand layers, whose tensors are listed to compare with, and the megabyte of zeros
        // behind them may be an array of strings.
        memory_base: 8 << 20,
        memory_factor: 64,
        repair: |_| {},
    },
    Target {
        name: "safetensors",
        check: safetensors::check,
        parse: safetensors::parse,
        memory_base: 16 << 10,
        memory_factor: 16,
        repair: safetensors::repair,
    },
    Target {
        name: "manifest",
        check: manifest::check,
        parse: manifest::parse,
        // A configuration of a few bytes may have a thousand layers, whose tensors are listed to compare with.
        memory_base: 4 << 20,
        memory_factor: 16,
        repair: |_| {},
    },
    Target {
        name: "tokenizer_import",
        check: tokenizer_import::check,
        parse: tokenizer_import::parse,
        // A token of one byte becomes some ten of JSON, beside tables of all tokens; the base is for fixed parts.
        memory_base: 64 << 10,
        memory_factor: 64,
        repair: |_| {},
    },
];
