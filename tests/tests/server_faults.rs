//! Store files that break while they are served: every answer is right or a clear error, and others do not suffer.

use odmoe_tests::client::answer;
use odmoe_tests::process::eventually;
use odmoe_tests::sse::SseItem;
use odmoe_tests::store_files::{Damage, StoreFolder};
use odmoe_tests::{Reply, Server, ServerOptions, metrics};
use serde_json::{Value, json};
use std::path::PathBuf;

/// Prompts of one token: each needs few experts, so that some need a broken one and some do not.
const PROMPTS: std::ops::Range<u32> = 300..360;

struct Fixture {
    server: Server,
    store: StoreFolder,
    right: Vec<Value>,
}

impl Fixture {
    fn start() -> Self {
        let server = Server::start(&ServerOptions::with(["--expert-cache", "12.5%"]));
        let store = StoreFolder::find(server.home());
        let right = PROMPTS
            .map(|token| answer(&server.client.complete_tokens(&[token], 2)))
            .collect();
        Self {
            server,
            store,
            right,
        }
    }

    /// A few experts of a middle layer.
    fn some_experts(&self) -> Vec<PathBuf> {
        let mut files = self.store.expert_files(self.store.sparse_layers() / 2);
        files.truncate(files.len() / 8);
        files
    }

    fn ask_all(&self) -> Vec<Reply> {
        PROMPTS
            .map(|token| self.server.client.complete_tokens(&[token], 2))
            .collect()
    }

    /// How many requests failed; all others were answered rightly.
    fn failures(&self) -> usize {
        let mut failures = 0;
        for (reply, right) in self.ask_all().iter().zip(&self.right) {
            if reply.status == 200 {
                assert_eq!(answer(reply), *right);
                continue;
            }
            let error = reply.clone().expect(500).json()["error"].clone();
            assert_eq!(error["code"], "expert_unavailable", "{error}");
            assert_eq!(reply.header("x-should-retry"), Some("false"));
            failures += 1;
        }
        self.server.client.get("/health").expect(200);
        self.assert_at_rest();
        failures
    }

    fn assert_at_rest(&self) {
        eventually("gauges at rest", || {
            let text = self.server.client.get("/metrics").expect(200).body;
            let gauges = [
                "vllm:num_requests_running",
                "vllm:num_requests_waiting",
                "odmoe_expert_cache_pinned_bytes",
            ];
            (gauges
                .iter()
                .all(|gauge| metrics::sum(&text, gauge, &[]) == 0.0))
            .then_some(())
        });
    }

    fn assert_right_again(&self) {
        for (index, token) in PROMPTS.enumerate() {
            eventually("right answers after the repair", || {
                let reply = self.server.client.complete_tokens(&[token], 2);
                (reply.status == 200).then(|| assert_eq!(answer(&reply), self.right[index]))
            });
        }
        eventually("readiness after the repair", || {
            (self.server.client.get("/ready").status == 200).then_some(())
        });
    }
}

fn break_and_repair(damage: impl Fn(&[PathBuf]) -> Damage, kind: Option<&str>) {
    let fixture = Fixture::start();
    let damage = damage(&fixture.some_experts());
    let failures = fixture.failures();
    assert!(
        failures < PROMPTS.len(),
        "a few broken experts ended every request"
    );
    if let Some(kind) = kind {
        assert!(failures > 0, "no request needed a broken expert");
        let text = fixture.server.client.get("/metrics").expect(200).body;
        let label = format!("kind=\"{kind}\"");
        assert!(
            metrics::sum(&text, "odmoe_expert_load_failures_total", &[&label]) > 0.0,
            "{text}"
        );
    }
    damage.repair();
    fixture.assert_right_again();
}

#[test]
fn truncated_shards() {
    break_and_repair(Damage::truncate, Some("short_read"));
}

#[test]
fn a_flipped_bit() {
    break_and_repair(Damage::flip_one_bit, Some("checksum"));
}

/// The old file stays readable where the store holds it open, so an error is allowed and not demanded.
#[test]
fn replaced_shards() {
    break_and_repair(Damage::replace, None);
}

/// As for replaced ones.
#[test]
fn deleted_shards() {
    break_and_repair(Damage::delete, None);
}

#[test]
fn a_failure_in_a_stream_is_its_last_event() {
    let fixture = Fixture::start();
    let body = json!({
        "prompt": [954, 671, 261], "max_tokens": 400, "temperature": 1.0, "seed": 3, "stream": true, "ignore_eos": true,
    });
    let mut stream = fixture.server.client.stream("/v1/completions", &body);
    assert!(matches!(stream.next(), Some(SseItem::Json(_))));
    let layer = fixture.store.sparse_layers() - 1;
    let damage = Damage::truncate(&fixture.store.expert_files(layer));
    let items: Vec<SseItem> = stream.filter(|item| *item != SseItem::Comment).collect();
    let [.., SseItem::Json(error), SseItem::Done] = items.as_slice() else {
        panic!("no error and [DONE] at the end: {items:?}");
    };
    assert_eq!(error["error"]["code"], "expert_unavailable", "{error}");
    fixture.assert_at_rest();
    damage.repair();
    fixture.assert_right_again();
}

#[test]
fn a_vanished_disk_turns_readiness_off_until_it_is_back() {
    let fixture = Fixture::start();
    let files: Vec<PathBuf> = (0..fixture.store.sparse_layers())
        .flat_map(|layer| fixture.store.expert_files(layer))
        .collect();
    let damage = Damage::delete(&files);
    // A few files are still open and go on being read; what is asked for varies until the others are.
    let mut prompts = PROMPTS.cycle();
    eventually("503 from /ready", || {
        let prompt = prompts.next().expect("an endless cycle");
        let reply = fixture.server.client.complete_tokens(&[prompt], 2);
        assert!(reply.status == 200 || reply.status >= 500, "{}", reply.body);
        (fixture.server.client.get("/ready").status == 503).then_some(())
    });
    fixture.server.client.get("/health").expect(200);
    fixture.assert_at_rest();
    damage.repair();
    fixture.assert_right_again();
}
