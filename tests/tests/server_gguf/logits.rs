//! What clients get is what llama.cpp computes on the same file, within what `src/tolerance.rs` derives: the twenty
//! likeliest tokens after every beginning of the oracle's text.

use crate::serve_golden;
use odmoe_convert::open_source;
use odmoe_tests::client::answer;
use odmoe_tests::golden::{Difference, Golden, Logprobs};
use odmoe_text::Tokenizer;
use serde_json::{Value, json};
use std::collections::HashMap;

/// As many as the API gives.
const TOP: usize = 20;

/// Ids by what the API calls a token.
struct TokenNames(HashMap<String, usize>);

impl TokenNames {
    fn of(golden: &Golden) -> Self {
        let source = open_source(&golden.model).unwrap_or_else(|e| panic!("{e}"));
        let metadata = source.metadata();
        let tokenizer = metadata.text.tokenizer.as_deref().expect("a tokenizer");
        let tokenizer = Tokenizer::from_json(tokenizer).unwrap_or_else(|e| panic!("{e}"));
        let count = metadata.config.vocab_size as usize;
        let names = (0..count).map(|id| (name(tokenizer.token_bytes(id as u32)), id));
        let ids = Self(names.collect());
        assert_eq!(
            ids.0.len(),
            count,
            "{}: two tokens of one name",
            golden.name
        );
        ids
    }
}

fn name(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap_or_else(|error| {
        let bytes = error.into_bytes();
        let hexadecimal = bytes.iter().map(|byte| format!("\\x{byte:02x}"));
        format!("bytes:{}", hexadecimal.collect::<String>())
    })
}

/// Takes in what is said of one position, and checks that it is the likeliest token that is chosen.
#[track_caller]
fn compare(difference: &mut Difference, said: &Value, ids: &TokenNames, reference: &[f64]) {
    let top = said["top_logprobs"][0].as_object().expect("logprobs");
    assert_eq!(top.len(), TOP);
    let mut greatest = f64::NEG_INFINITY;
    for (name, logprob) in top {
        let logprob = logprob.as_f64().expect("a number");
        greatest = greatest.max(logprob);
        difference.add_one(logprob, reference[ids.0[name]]);
    }
    assert_eq!(said["token_logprobs"][0], greatest);
}

#[track_caller]
fn check(name: &str) {
    let golden = Golden::gguf(name);
    let (_home, server) = serve_golden(&golden, "--kv-format f32 --expert-cache 50%");
    let (ids, reference): (_, Logprobs) = (TokenNames::of(&golden), golden.logprobs("logits.f32"));
    let beginnings: Vec<&[u32]> = (1..=golden.ids.len()).map(|n| &golden.ids[..n]).collect();
    let request = json!({
        "prompt": beginnings, "max_tokens": 1, "temperature": 0, "logprobs": TOP, "ignore_eos": true,
    });
    let choices = answer(&server.client.post("/v1/completions", &request));
    let choices = choices.as_array().expect("choices");
    assert_eq!(choices.len(), reference.len());
    let mut difference = Difference::default();
    for (choice, reference) in choices.iter().zip(&reference) {
        compare(&mut difference, &choice["logprobs"], &ids, reference);
    }
    println!("{name}: from llama.cpp {difference}");
    golden.tolerance_of_peer().check(difference, name);
}

#[test]
fn mixtures_of_q4_k_and_q6_k() {
    check("llama-moe-q4_k_m");
    check("qwen2moe-q4_k_m");
    check("qwen3moe-q4_k_m");
    check("olmoe-q4_k_m");
}

#[test]
fn dense_models() {
    check("llama-q4_k_m");
    check("qwen3-q4_k_m");
}

#[test]
fn blocks_of_32_and_other_k_quants() {
    check("qwen3moe-blocks");
    check("llama-moe-k");
}

/// Where nothing is rounded, the tolerance is that of sums in another order.
#[test]
fn floats() {
    check("qwen3moe-f32");
    check("llama-moe-f16-bf16");
}
