//! Promise P2 under a memory limit of the system. Needs root: `.ci/run` runs it.

use odmoe_tests::cgroup::MemoryCgroup;
use odmoe_tests::client::answer;
use odmoe_tests::memory_sum::printed_total;
use odmoe_tests::models::{large_prompts, large_store};
use odmoe_tests::process::peak_resident_bytes;
use odmoe_tests::{Server, ServerOptions};
use serde_json::{Value, json};

const PROMPT: [u32; 3] = [54, 71, 261];

/// Eight streams at once that touch every expert, then one answer to compare.
fn load(server: &Server) -> Value {
    std::thread::scope(|scope| {
        for prompt in large_prompts() {
            let body = json!({"prompt": prompt, "max_tokens": 32, "temperature": 0.8, "seed": 1});
            scope.spawn(move || server.client.post("/v1/completions", &body).expect(200));
        }
    });
    answer(&server.client.complete_tokens(&PROMPT, 16))
}

fn options(store: &str, budget: &str) -> ServerOptions {
    ServerOptions::with([
        "--model",
        store,
        "--expert-cache",
        budget,
        "--kv-cache",
        "2048",
    ])
}

/// A server under a limit of `limit` bytes: its answer, its peak and the sum that it printed.
fn run_limited(name: &str, limit: u64, options: ServerOptions) -> (Value, u64, u64) {
    let cgroup = MemoryCgroup::create(name, limit).unwrap_or_else(|reason| panic!("{reason}"));
    let mut server = Server::start(&ServerOptions {
        prelude: Some(cgroup.join_line()),
        ..options
    });
    let found = load(&server);
    let peak = peak_resident_bytes(server.child.id()).expect("a running server");
    let printed = printed_total(&server.log());
    assert_eq!(cgroup.kills(), 0, "{}", server.log());
    assert!(server.stop().success(), "{}", server.log());
    (found, peak, printed)
}

#[test]
fn the_sum_is_enough_at_each_budget() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let store = large_store(folder.path());
    let mut right = None;
    for budget in ["100%", "50%", "25%", "0.001%"] {
        let limit = {
            let server = Server::start(&options(&store, budget));
            printed_total(&server.log())
        };
        let (found, peak, printed) = run_limited("budget", limit, options(&store, budget));
        // A KV cache that sizes itself may take less under a limit.
        assert!(
            printed <= limit,
            "{budget}: printed {printed} under a limit of {limit}"
        );
        assert!(peak <= printed, "{budget}: peak {peak} of {printed} bytes");
        assert_eq!(
            *right.get_or_insert_with(|| found.clone()),
            found,
            "{budget}: another answer"
        );
        println!("{budget}: peak {} of {} KiB", peak >> 10, printed >> 10);
    }
}

#[test]
fn auto_fits_itself_under_the_limit() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let store = large_store(folder.path());
    let all = {
        let server = Server::start(&options(&store, "100%"));
        printed_total(&server.log())
    };
    let limit = all - (64 << 20);
    let (_, peak, printed) = run_limited("auto", limit, options(&store, "auto"));
    assert!(
        printed <= limit,
        "printed {printed} under a limit of {limit}"
    );
    assert!(peak <= printed, "peak {peak} of {printed} bytes");
}
