//! A model without experts, from its conversion to its answers: nothing pages, and everything says so.

mod support;

use serde_json::Value;
use support::World;
use support::dense::write_dense_llama;

fn store(world: &World) -> String {
    let store = world.path("store");
    write_dense_llama(&world.path("lent"), &store);
    store.to_str().unwrap().to_owned()
}

#[test]
fn a_dense_model_is_served_without_an_expert_cache() {
    let world = World::new();
    let store = store(&world);
    let mut server = world.serve(&["--model", &store, "--expert-cache", "25%"]);
    let printed = server.until_ready();
    for part in [
        "dense layers, no experts",
        "+ experts          0 B  the model has none, so --expert-cache does nothing",
    ] {
        assert!(printed.contains(part), "{printed} lacks {part}");
    }
    assert_eq!(server.get("/ready").0, 200);
    let metrics = server.get("/metrics").1;
    for line in [
        "odmoe_expert_cache_capacity_bytes 0",
        "odmoe_model_load_progress_ratio 1",
    ] {
        assert!(metrics.contains(line), "{metrics} lacks {line}");
    }
    assert_eq!(server.stop(), Some(0));
}

#[test]
fn a_dense_model_answers_alike_whatever_it_is_told_about_experts() {
    let world = World::new();
    let store = store(&world);
    let ask = |more: &[&str]| {
        let fixed = ["generate", "--prompt", "Once upon", "--json", "--seed", "7"];
        let arguments = [&fixed[..], &["--model", &store, "--max-tokens", "12"], more].concat();
        let answer: Value = serde_json::from_str(&world.done(&arguments)).unwrap();
        answer["token_ids"].clone()
    };
    let answer = ask(&[]);
    assert_eq!(answer.as_array().map(Vec::len), Some(12), "{answer}");
    for more in [
        &["--expert-cache", "1%", "--threads", "1"][..],
        &["--expert-cache", "1GiB", "--no-prefetch"],
    ] {
        assert_eq!(ask(more), answer, "{more:?}");
    }
    let error = world.refused(1, &["--model", &store, "--memory-limit", "8MiB"]);
    assert!(
        error.contains("does not fit") && !error.contains("experts"),
        "{error}"
    );
}

#[test]
fn a_dense_model_is_measured_without_a_hit_rate() {
    let world = World::new();
    let store = store(&world);
    let measured = world.done(&[
        "bench",
        "--model",
        &store,
        "--prompt-tokens",
        "8",
        "--generate-tokens",
        "4",
        "--repeats",
        "1",
        "--json",
    ]);
    let report: Value = serde_json::from_str(&measured).unwrap();
    assert!(report["decode_tokens_per_s"]["median"].as_f64() > Some(0.0));
    assert_eq!(report["bytes_read"]["max"].as_f64(), Some(0.0));
    assert_eq!(report["expert_cache_bytes"], 0);
    assert!(report["hit_rate_decode"]["median"].is_null(), "{report}");
}
