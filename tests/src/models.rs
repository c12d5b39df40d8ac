//! Models that tests make: large enough that what is promised about memory and time can be seen.

use odmoe_convert::random_model::RandomModel;
use odmoe_convert::{ConvertOptions, NoProgress, convert, open_source};
use std::path::Path;

/// 201 MB of experts beside less than 2 MB of other weights; tokens below 300, 512 of them in a context.
pub fn large_model() -> RandomModel {
    RandomModel {
        hidden: 256,
        experts: 128,
        expert_ffn: 512,
        ..RandomModel::default()
    }
}

/// Writes a store of [`large_model`] below a folder and gives its path.
#[track_caller]
pub fn large_store(folder: &Path) -> String {
    let (checkpoint, store) = (folder.join("checkpoint"), folder.join("store"));
    large_model()
        .write(&checkpoint)
        .unwrap_or_else(|e| panic!("{e}"));
    let source = open_source(&checkpoint).unwrap_or_else(|e| panic!("{e}"));
    convert(&*source, &store, &ConvertOptions::default(), &NoProgress)
        .unwrap_or_else(|e| panic!("{e}"));
    store.display().to_string()
}

/// Eight prompts for [`large_model`] of 200 tokens each, which together touch every expert.
pub fn large_prompts() -> Vec<Vec<u32>> {
    let prompt = |stream: u32| {
        (0..200).map(move |place| (stream * 37 + place * 7 + place * place) % 250 + 30)
    };
    (0..8).map(|stream| prompt(stream).collect()).collect()
}
