//! GGUF files through the real binary, as their owner would serve them: converted once, paged without changing a bit,
//! near llama.cpp's values, refused in a sentence.

#[path = "server_gguf/conversion.rs"]
mod conversion;
#[path = "server_gguf/logits.rs"]
mod logits;
#[path = "server_gguf/paging.rs"]
mod paging;
#[path = "server_gguf/refusals.rs"]
mod refusals;

use odmoe_tests::golden::Golden;
use odmoe_tests::{Server, ServerOptions};
use std::path::Path;

/// Serves a model with a home folder, where its store is kept.
#[track_caller]
fn serve(model: &Path, home: &Path, arguments: &str) -> Server {
    let model = ["--model", model.to_str().expect("UTF-8")].map(str::to_owned);
    let arguments = arguments.split_whitespace().map(str::to_owned);
    Server::start(&ServerOptions {
        arguments: model.into_iter().chain(arguments).collect(),
        home: Some(home.to_owned()),
        ..ServerOptions::default()
    })
}

/// Serves an oracle model, for one server.
#[track_caller]
fn serve_golden(golden: &Golden, arguments: &str) -> (tempfile::TempDir, Server) {
    let home = tempfile::tempdir().expect("a temporary folder");
    let server = serve(&golden.model, home.path(), arguments);
    (home, server)
}
