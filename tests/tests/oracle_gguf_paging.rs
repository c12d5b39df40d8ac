//! The master oracle on GGUF models of mixed Q4_K and Q6_K: whatever part of the experts fits in memory, in whatever order their
//! weights lie, and whoever else is being served, tokens and logprobs are those of the model that is all resident, bit for bit.

use odmoe_engine::PositionLogprobs;
use odmoe_formats::WeightLayout::{self, Lanes16, RowMajor};
use odmoe_tests::engine::{EngineOptions, TestEngine};
use odmoe_tests::golden::Golden;

const GENERATED_TOKENS: u32 = 24;

fn start(golden: &Golden, layout: WeightLayout, cache_share: f64) -> TestEngine {
    let options = EngineOptions {
        layout,
        cache_share,
        // Several chunks a prompt.
        prefill_chunk_tokens: 10,
        ..EngineOptions::default()
    };
    TestEngine::start(&golden.model, options)
}

/// Prompts of several lengths, cut from the golden ids.
fn prompts(golden: &Golden) -> Vec<&[u32]> {
    let ids = &golden.ids;
    vec![&ids[..1], &ids[3..20], &ids[..24], &ids[9..14]]
}

/// The same, one after the other.
fn alone(golden: &Golden, engine: &TestEngine) -> Vec<Vec<PositionLogprobs>> {
    let prompts = prompts(golden).into_iter();
    prompts
        .map(|prompt| engine.generate(prompt, GENERATED_TOKENS))
        .collect()
}

/// The same, all at once.
fn together(golden: &Golden, engine: &TestEngine) -> Vec<Vec<PositionLogprobs>> {
    let prompts = prompts(golden).into_iter();
    let begun: Vec<_> = prompts
        .map(|prompt| engine.begin(prompt, GENERATED_TOKENS))
        .collect();
    begun.into_iter().map(|request| request.wait()).collect()
}

fn check(name: &str) {
    let golden = Golden::gguf(name);
    let expected = alone(&golden, &start(&golden, RowMajor, 1.0));
    assert!(
        expected
            .iter()
            .all(|r| r.len() == GENERATED_TOKENS as usize)
    );
    // A share of nothing is the least budget: two experts.
    for (layout, share) in [(RowMajor, 0.0), (Lanes16, 0.25), (RowMajor, 0.5)] {
        let engine = start(&golden, layout, share);
        assert!(
            alone(&golden, &engine) == expected,
            "{name}, {layout}, {share}"
        );
        assert!(
            together(&golden, &engine) == expected,
            "{name}, {layout}, {share}, in a batch"
        );
    }
    assert!(
        together(&golden, &start(&golden, Lanes16, 1.0)) == expected,
        "{name}, {Lanes16}, in a batch"
    );
}

#[test]
fn llama_with_experts() {
    check("llama-moe-q4_k_m");
}

#[test]
fn qwen2_moe() {
    check("qwen2moe-q4_k_m");
}

#[test]
fn qwen3_moe() {
    check("qwen3moe-q4_k_m");
}

#[test]
fn olmoe() {
    check("olmoe-q4_k_m");
}

/// Every other format that experts may have.
#[test]
fn experts_of_several_formats() {
    check("qwen3moe-blocks");
    check("llama-moe-k");
}
