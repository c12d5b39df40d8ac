//! The engine against `transformers` on the oracle models: every logit of every position, by decode and by prefill.
//!
//! Tolerance. Weights are the same bf16 values on both sides, and activations, keys and values are
//! binary32 here, so that only the order of sums differs. A dot of K terms is off by about
//! sqrt(K) * 2^-24 of the norm of its terms, K is at most 108, and some ten dots a layer follow one
//! another over at most six layers; independent errors add to sqrt(60 * 108) * 2^-24 = 4.8e-6 of a
//! value, and logits reach 12: 5.8e-5. Twice that and rounded up, 2e-4, is allowed; 2.7e-5 was found.
//! A wrong remainder or switch differs by 0.1 and more. A router whose last choice leads the next by
//! less than 1e-5 could choose otherwise; the oracle has no such position.

use odmoe_tests::engine::{EngineOptions, TestEngine};
use odmoe_tests::golden::Golden;

const TOLERANCE: f64 = 2e-4;

fn check(name: &str) {
    let golden = Golden::hugging_face(name);
    let engine = TestEngine::start(&golden.model, EngineOptions::default());
    let found = golden.compare(&engine, &golden.logprobs("logits.f32"));
    let worst = found.largest;
    println!("{name}: largest difference of a logprob {worst:.1e}");
    assert!(worst <= TOLERANCE, "{name}: logprobs differ by {worst}");
    golden.compare_greedy(&engine, TOLERANCE);
}

#[test]
fn remainders() {
    check("remainders");
}

#[test]
fn tied_embeddings_and_unnormalised_weights() {
    check("tied-unnormalised");
}

#[test]
fn dense_layers_among_sparse_ones() {
    check("dense-layers");
}

#[test]
fn a_context_of_hundreds_of_tokens() {
    check("long-context");
}

#[test]
fn experts_stacked_in_two_tensors() {
    check("fused-experts");
}

#[test]
fn llama_with_its_rope_scaling() {
    check("llama-rope3");
}

#[test]
fn mistral_with_heads_wider_than_the_hidden_state() {
    check("mistral-wide-heads");
}

#[test]
fn mixtral() {
    check("mixtral");
}

#[test]
fn qwen2_moe_with_biases_and_a_shared_expert() {
    check("qwen2-moe");
}

#[test]
fn qwen3_with_linear_rope_scaling() {
    check("qwen3-linear-rope");
}

#[test]
fn olmoe_with_norms_over_all_heads() {
    check("olmoe");
}

/// Scoring what was generated gives the same logprobs, bit for bit: it is the same computation.
#[test]
fn scoring_is_what_generation_says() {
    let golden = Golden::hugging_face("remainders");
    let engine = TestEngine::start(&golden.model, EngineOptions::default());
    let prompt = &golden.ids[..9];
    let generated = engine.generate(prompt, 20);
    let tokens: Vec<u32> = generated
        .iter()
        .map(|position| position.chosen.token)
        .collect();
    assert_eq!(engine.score(prompt, &tokens, 1).wait(), generated);
}
