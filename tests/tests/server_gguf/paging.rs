//! The master oracle (promise P1) on GGUF models of mixed Q4_K and Q6_K: whatever part of the experts fits, and whoever
//! else is served, tokens and logprobs are those of the model that is all in memory, bit for bit.

use crate::serve;
use odmoe_tests::client::answer;
use odmoe_tests::golden::Golden;
use odmoe_tests::{Server, metrics};
use serde_json::{Value, json};

/// A share that rounds up to the least budget, two experts.
const LEAST: &str = "0.001%";
const ANSWER_TOKENS: u32 = 10;

fn requests(ids: &[u32]) -> Vec<Value> {
    let greedy = |prompt: &[u32]| {
        json!({
            "prompt": prompt, "max_tokens": ANSWER_TOKENS, "temperature": 0, "logprobs": 5, "ignore_eos": true,
        })
    };
    let sampled = |prompt: &[u32], seed: u32| {
        let mut request = greedy(prompt);
        request["temperature"] = json!(0.9);
        request["seed"] = json!(seed);
        request
    };
    vec![
        greedy(&ids[..1]),
        greedy(&ids[..24]),
        sampled(&ids[3..20], 1),
        sampled(&ids[9..14], 2),
    ]
}

/// What is said, as text: two floats that differ in a bit differ in their shortest decimal.
fn ask(server: &Server, request: &Value) -> String {
    answer(&server.client.post("/v1/completions", request)).to_string()
}

fn alone(server: &Server, requests: &[Value]) -> Vec<String> {
    requests
        .iter()
        .map(|request| ask(server, request))
        .collect()
}

fn together(server: &Server, requests: &[Value]) -> Vec<String> {
    std::thread::scope(|scope| {
        let ask_one = |request| scope.spawn(move || ask(server, request));
        let asked: Vec<_> = requests.iter().map(ask_one).collect();
        let answers = asked.into_iter().map(|one| one.join().expect("an answer"));
        answers.collect()
    })
}

#[track_caller]
fn check(name: &str) {
    let golden = Golden::gguf(name);
    let requests = requests(&golden.ids);
    let home = tempfile::tempdir().expect("a temporary folder");
    let start = |budget: &str, more: &str| {
        // Several chunks a prompt.
        let arguments = format!("--expert-cache {budget} --prefill-chunk 10 {more}");
        serve(&golden.model, home.path(), &arguments)
    };
    let resident = start("100%", "--no-prefetch --threads 1 --max-running 1");
    let expected = alone(&resident, &requests);
    drop(resident);
    for budget in ["100%", "50%", "25%", LEAST] {
        let server = start(budget, "");
        assert_eq!(alone(&server, &requests), expected, "{name}, {budget}");
        let found = together(&server, &requests);
        assert_eq!(found, expected, "{name}, {budget}, in a batch");
        let scraped = server.client.get("/metrics").expect(200).body;
        let evicted = metrics::sum(&scraped, "odmoe_expert_cache_evictions_total", &[]);
        let pages = budget != "100%";
        assert_eq!(
            evicted > 0.0,
            pages,
            "{name}, {budget}: {evicted} evictions"
        );
    }
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
