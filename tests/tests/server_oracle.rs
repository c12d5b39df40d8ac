//! The master oracle (promise P1) on the embedded model, through the real binary: neither the budget, prefetching,
//! threads, chunks of prefill, company, preemption nor kernels change a token or a bit of a logprob.

use odmoe_backend_cpu::KernelSet;
use odmoe_tests::client::answer;
use odmoe_tests::{Server, ServerOptions, metrics};
use serde_json::{Value, json};
use std::sync::OnceLock;

/// Tokens of the longest prompt; with [`ANSWER_TOKENS`] it decides the least KV cache.
const LONGEST_PROMPT_TOKENS: u32 = 300;
const ANSWER_TOKENS: u32 = 20;
/// A share that rounds up to the least budget, two experts.
const LEAST: &str = "0.001%";

/// The eight requests, and what the reference server says to each.
struct Oracle {
    requests: Vec<Value>,
    answers: Vec<String>,
    /// The unpacked model, for all servers of this file.
    home: tempfile::TempDir,
}

fn prompt(tokens: u32, salt: u32) -> Vec<u32> {
    (0..tokens)
        .map(|place| 300 + (salt * 331 + place * place * 7 + place) % 3600)
        .collect()
}

/// `stop` is a text that ends one of the answers early.
fn requests(stop: &str) -> Vec<Value> {
    let greedy = |prompt: Vec<u32>| json!({"prompt": prompt, "max_tokens": ANSWER_TOKENS, "temperature": 0, "logprobs": 5});
    let with = |mut body: Value, fields: Value| {
        for (name, value) in fields.as_object().expect("fields") {
            body[name] = value.clone();
        }
        body
    };
    let sampled = |tokens, seed: u32| {
        let fields = json!({"temperature": 0.9, "seed": seed, "ignore_eos": true});
        with(greedy(prompt(tokens, seed)), fields)
    };
    vec![
        greedy(story()),
        with(greedy(story()), json!({"stop": [stop]})),
        greedy(prompt(65, 1)),
        with(
            greedy(prompt(LONGEST_PROMPT_TOKENS, 2)),
            json!({"ignore_eos": true}),
        ),
        sampled(3, 3),
        with(sampled(17, 4), json!({"top_k": 40, "top_p": 0.9})),
        with(
            sampled(128, 5),
            json!({"min_p": 0.02, "repetition_penalty": 1.2, "stop": ["."]}),
        ),
        with(
            sampled(190, 6),
            json!({"frequency_penalty": 0.5, "presence_penalty": 0.5}),
        ),
    ]
}

/// The beginning of a sentence that the model knows how to go on with.
fn story() -> Vec<u32> {
    vec![954, 671, 261, 514, 14, 480, 313, 261, 540, 710]
}

/// What is said, as text: two floats that differ in a bit differ in their shortest decimal.
fn ask(server: &Server, request: &Value) -> String {
    answer(&server.client.post("/v1/completions", request)).to_string()
}

fn oracle() -> &'static Oracle {
    static ORACLE: OnceLock<Oracle> = OnceLock::new();
    ORACLE.get_or_init(|| {
        let home = tempfile::tempdir().expect("a temporary folder");
        let server = start(
            home.path(),
            "--expert-cache 100% --no-prefetch --threads 1 --max-running 1",
        );
        let story = answer(&server.client.complete_tokens(&story(), ANSWER_TOKENS));
        let words = story[0]["text"].as_str().expect("a text");
        let stop = words.split(' ').nth(6).expect("a few words").to_owned();
        let requests = requests(&stop);
        let answers: Vec<String> = requests.iter().map(|r| ask(&server, r)).collect();
        let stopped = |answer: &String| answer.contains("\"finish_reason\":\"stop\"");
        assert!(
            stopped(&answers[1]),
            "{stop:?} ends nothing: {}",
            answers[1]
        );
        assert!(answers.iter().any(|answer| !stopped(answer)));
        Oracle {
            requests,
            answers,
            home,
        }
    })
}

fn start(home: &std::path::Path, arguments: &str) -> Server {
    Server::start(&ServerOptions {
        arguments: arguments.split(' ').map(str::to_owned).collect(),
        home: Some(home.to_owned()),
        ..ServerOptions::default()
    })
}

/// Asks a server with these arguments all eight at once and one by one.
#[track_caller]
fn check(arguments: &str) -> Server {
    let oracle = oracle();
    let server = start(oracle.home.path(), arguments);
    let together: Vec<String> = std::thread::scope(|scope| {
        let asked: Vec<_> = (oracle.requests.iter())
            .map(|request| scope.spawn(|| ask(&server, request)))
            .collect();
        asked
            .into_iter()
            .map(|one| one.join().expect("an answer"))
            .collect()
    });
    let alone: Vec<String> = oracle.requests.iter().map(|r| ask(&server, r)).collect();
    for (company, found) in [("beside seven others", together), ("alone", alone)] {
        for (place, (right, found)) in oracle.answers.iter().zip(&found).enumerate() {
            assert_eq!(right, found, "request {place}, {company}, with {arguments}");
        }
    }
    server
}

#[test]
fn budgets_do_not_change_a_bit() {
    for budget in ["100%", "50%", "25%", LEAST] {
        check(&format!("--expert-cache {budget}"));
    }
}

#[test]
fn budgets_without_prefetch_do_not_change_a_bit() {
    for budget in ["100%", "50%", "25%", LEAST] {
        let server = check(&format!("--expert-cache {budget} --no-prefetch"));
        let scraped = server.client.get("/metrics").expect(200).body;
        let evicted = metrics::sum(&scraped, "odmoe_expert_cache_evictions_total", &[]);
        assert_eq!(
            evicted > 0.0,
            budget != "100%",
            "{budget}: {evicted} evictions"
        );
    }
}

#[test]
fn threads_do_not_change_a_bit() {
    for threads in 1..=3 {
        check(&format!("--expert-cache 25% --threads {threads}"));
    }
}

#[test]
fn chunks_of_prefill_do_not_change_a_bit() {
    for tokens in [1, 7, 64, 512] {
        check(&format!("--expert-cache 50% --prefill-chunk {tokens}"));
    }
}

/// Two answers start small and together outgrow a KV cache that holds one of them.
#[test]
fn preemption_does_not_change_a_bit() {
    let tokens = LONGEST_PROMPT_TOKENS + ANSWER_TOKENS;
    let server = check(&format!("--expert-cache 25% --kv-cache {tokens}"));
    let long = [7, 8].map(|seed| {
        json!({
            "prompt": prompt(3, seed), "max_tokens": tokens - 20, "temperature": 0.9, "seed": seed, "logprobs": 5,
            "ignore_eos": true,
        })
    });
    let alone = long.each_ref().map(|request| ask(&server, request));
    let before = preemptions(&server);
    let together = std::thread::scope(|scope| {
        let asked = long
            .each_ref()
            .map(|request| scope.spawn(|| ask(&server, request)));
        asked.map(|one| one.join().expect("an answer"))
    });
    assert!(preemptions(&server) > before, "nothing was preempted");
    assert_eq!(alone, together);
}

fn preemptions(server: &Server) -> f64 {
    let scraped = server.client.get("/metrics").expect(200).body;
    metrics::sum(&scraped, "vllm:num_preemptions_total", &[])
}

#[test]
fn kernels_do_not_change_a_bit() {
    let sets = KernelSet::available();
    assert!(
        sets.len() >= 2,
        "the scalar reference and the portable kernels are everywhere"
    );
    for kernels in sets {
        check(&format!("--expert-cache 50% --cpu {}", kernels.name()));
    }
}
