//! The engine against `transformers` on the oracle models: every logit of every position, by decode and by prefill.
//!
//! Tolerance. Weights are the same bf16 values on both sides, and activations, keys and values are
//! binary32 here, so that only the order of sums differs. A dot of K terms is off by about
//! sqrt(K) * 2^-24 of the norm of its terms, K is at most 96, and some ten dots a layer follow one
//! another over at most six layers; independent errors add to sqrt(60 * 96) * 2^-24 = 4.5e-6 of a
//! value, and logits reach 12: 5.5e-5. Twice that and rounded up, 2e-4, is allowed; 2.2e-5 was found.
//! A wrong remainder or switch differs by 0.1 and more. A router whose last choice leads the next by
//! less than 1e-5 could choose otherwise; the oracle has no such position.

use odmoe_tests::engine::{EngineOptions, TestEngine};
use odmoe_tests::golden::{
    largest_difference, log_softmax, numbers, read_floats, read_json, token_ids,
};
use odmoe_tests::workspace::root;
use serde_json::Value;
use std::path::PathBuf;

const TOLERANCE: f64 = 2e-4;

struct Golden {
    folder: PathBuf,
    json: Value,
    ids: Vec<u32>,
    /// By position, the log-softmax of the logits after it.
    logprobs: Vec<Vec<f64>>,
}

impl Golden {
    fn read(name: &str) -> Self {
        let folder = root().join("tests/oracle/models").join(name);
        let json = read_json(&folder.join("golden.json"));
        let vocabulary = json["logits"]["shape"][1].as_u64().expect("a shape") as usize;
        let logits = read_floats(&folder.join("logits.f32"));
        let logprobs = logits.chunks_exact(vocabulary).map(log_softmax).collect();
        Self {
            ids: token_ids(&json["ids"]),
            folder,
            json,
            logprobs,
        }
    }
}

fn check(name: &str) {
    let golden = Golden::read(name);
    let engine = TestEngine::start(&golden.folder, EngineOptions::default());
    let vocabulary = engine.vocabulary();
    assert_eq!(golden.logprobs[0].len(), vocabulary);
    let mut worst = 0.0_f64;
    let mut compare = |what: &str, prompt_tokens: usize, tokens: usize| {
        let (prompt, rest) = golden.ids.split_at(prompt_tokens);
        let found = engine.score(prompt, &rest[..tokens], vocabulary).wait();
        assert_eq!(found.len(), tokens);
        for (place, position) in found.iter().enumerate() {
            assert_eq!(position.top.len(), vocabulary);
            let at = prompt_tokens - 1 + place;
            let difference = largest_difference(position, &golden.logprobs[at]);
            worst = worst.max(difference);
            assert!(
                difference <= TOLERANCE,
                "{name}, {what}, position {at}: logprobs differ by {difference}"
            );
        }
    };
    // All of it token by token.
    compare("decode", 1, golden.ids.len() - 1);
    // Prompts of lengths around the edges of chunks and KV blocks.
    let prompt_tokens = golden.json["prompt_tokens"].as_u64().expect("a count") as usize;
    for length in [2, 15, 16, 17, prompt_tokens - 1, prompt_tokens] {
        compare("prefill", length, 1);
    }
    println!("{name}: largest difference of a logprob {worst:.1e}");
    // What a client would get: the reference's greedy continuation, wherever its margin is no tie.
    let margins = numbers(&golden.json["greedy_top2_margin"]);
    let (prompt, continuation) = golden.ids.split_at(prompt_tokens);
    for (step, position) in engine
        .score(prompt, continuation, 1)
        .wait()
        .iter()
        .enumerate()
    {
        let same = position.top[0].token == continuation[step];
        assert!(
            same || margins[step] < TOLERANCE,
            "{name}: greedy step {step}"
        );
    }
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

/// Scoring what was generated gives the same logprobs, bit for bit: it is the same computation.
#[test]
fn scoring_is_what_generation_says() {
    let golden = Golden::read("remainders");
    let engine = TestEngine::start(&golden.folder, EngineOptions::default());
    let prompt = &golden.ids[..9];
    let generated = engine.generate(prompt, 20);
    let tokens: Vec<u32> = generated
        .iter()
        .map(|position| position.chosen.token)
        .collect();
    assert_eq!(engine.score(prompt, &tokens, 1).wait(), generated);
}
