//! The seed corpus: small inputs of each kind that a parser tells apart, sound and hostile. `make_fuzz_corpus` writes
//! them to `fuzz/corpus/`; a test compares.

mod gguf;
mod gguf_model;
mod manifest;
mod safetensors;
mod tokenizer_import;

use crate::workspace::root;
use std::path::PathBuf;

/// Name and bytes of an input.
pub type Seed = (&'static str, Vec<u8>);

/// The seeds of a target of that name.
pub fn seeds(target: &str) -> Vec<Seed> {
    match target {
        "gguf" => gguf::seeds(),
        "gguf_model" => gguf_model::seeds(),
        "safetensors" => safetensors::seeds(),
        "manifest" => manifest::seeds(),
        "tokenizer_import" => tokenizer_import::seeds(),
        other => panic!("no target {other}"),
    }
}

/// Where a target's inputs lie: the seeds, and those in which fuzzing found a fault, whose names begin with `found-`.
pub fn folder(target: &str) -> PathBuf {
    root().join("fuzz/corpus").join(target)
}
