//! The master oracle (promise P1): nothing about paging, batching or timing changes a token or a logprob, bit for
//! bit. Every variant of the engine answers the same requests as one that holds every expert and serves each alone.

mod support;

use odmoe_engine::{Request, SamplingParams};
use odmoe_formats::BlockFormat;
use std::collections::HashSet;
use std::time::Duration;
use support::engine::{Setup, checking, cpu, greedy};
use support::model::{Random, random_model, small_config};
use support::oracle::{Counts, Oracle};

const SEED: u64 = 20_261_121;

const FORMATS: [BlockFormat; 2] = [BlockFormat::BF16, BlockFormat::Q8_0];

/// Eight requests: prompts of 1 to 150 tokens, greedy and sampled, with penalties and without.
fn requests(vocab: u32) -> Vec<Request> {
    let mut random = Random(SEED);
    let lengths = [1, 2, 7, 16, 33, 64, 100, 150];
    let request = |(index, length): (usize, usize)| {
        let mut request = greedy(random.tokens(length, vocab), 10 + 3 * index as u32);
        if index % 2 == 1 {
            request.sampling = SamplingParams {
                seed: index as u64,
                top_k: 40,
                top_p: 0.95,
                repetition_penalty: 1.1,
                frequency_penalty: 0.2,
                ..Default::default()
            };
        }
        request
    };
    lengths.into_iter().enumerate().map(request).collect()
}

fn small(format: BlockFormat) -> Oracle {
    let model = random_model(small_config(), format, SEED);
    let requests = requests(model.manifest.config.vocab_size);
    Oracle::new(model, requests)
}

/// Six of the eight prompts fit, and enter in a chunk or two; they have no room for their answers beside each other.
fn tiny_kv(setup: &mut Setup) {
    setup.config.prefill_chunk_tokens = 512;
    setup.config.kv_block_tokens = 8;
    setup.config.kv_blocks = 24;
}

/// Who is preempted depends on who comes when: a few rounds, each with the same answers.
fn assert_preempts(what: &str, round: impl Fn() -> Counts) {
    let preempts = (0..20).any(|_| round().preemptions > 0);
    assert!(preempts, "{what}: not tiny enough to preempt");
}

#[test]
fn answers_differ_between_requests() {
    let oracle = small(BlockFormat::BF16);
    let distinct: HashSet<_> = oracle
        .expected
        .iter()
        .map(|answer| format!("{answer:?}"))
        .collect();
    assert_eq!(
        distinct.len(),
        oracle.requests.len(),
        "an oracle of equal answers would prove nothing"
    );
}

#[test]
fn no_budget_changes_an_answer() {
    for format in FORMATS {
        let oracle = small(format);
        let [full, half, quarter] = [100, 50, 25].map(|percent| oracle.percent(percent));
        for budget in [full, half, quarter, oracle.least()] {
            for prefetch in [false, true] {
                let what = format!("{format}, {budget}, prefetch {prefetch}, seed {SEED}");
                oracle.check(&what, |setup| {
                    setup.store.budget = budget;
                    setup.store.prefetch = prefetch;
                });
            }
        }
    }
}

#[test]
fn no_pins_change_an_answer() {
    for format in FORMATS {
        let oracle = small(format);
        for percent in [10, 40, 70] {
            let keep = oracle.some_experts(percent, SEED + percent);
            let least = oracle.least_keeping(&keep);
            for budget in [least, least.max(oracle.percent(60))] {
                let what = format!("{format}, {} pinned, {budget}, seed {SEED}", keep.len());
                oracle.check(&what, |setup| {
                    setup.store.budget = budget;
                    setup.store.keep = keep.clone();
                });
            }
        }
    }
}

#[test]
fn no_number_of_threads_changes_an_answer() {
    for format in FORMATS {
        let oracle = small(format);
        for threads in [1, 2, 3] {
            for budget in [oracle.percent(100), oracle.percent(25), oracle.least()] {
                let what = format!("{format}, {threads} threads, {budget}, seed {SEED}");
                oracle.check(&what, |setup| {
                    setup.backend = cpu(threads);
                    setup.store.budget = budget;
                });
            }
        }
    }
}

#[test]
fn no_chunk_size_changes_an_answer() {
    for format in FORMATS {
        let oracle = small(format);
        for chunk in [1, 7, 64, 512] {
            for budget in [oracle.percent(50), oracle.percent(25), oracle.least()] {
                let what = format!("{format}, chunks of {chunk}, {budget}, seed {SEED}");
                oracle.check(&what, |setup| {
                    setup.config.prefill_chunk_tokens = chunk;
                    setup.store.budget = budget;
                });
            }
        }
    }
}

#[test]
fn company_changes_no_answer() {
    let oracle = small(BlockFormat::BF16);
    for running in [1, 2, 8] {
        for budget in [oracle.percent(100), oracle.percent(25)] {
            let what = format!("{running} at once, {budget}, seed {SEED}");
            oracle.check(&what, |setup| {
                setup.config.max_running = running;
                setup.store.budget = budget;
            });
        }
    }
}

#[test]
fn no_preemption_changes_an_answer() {
    for format in FORMATS {
        let oracle = small(format);
        for budget in [oracle.percent(50), oracle.least()] {
            let what = format!("{format}, a tiny KV cache, {budget}, seed {SEED}");
            assert_preempts(&what, || {
                oracle.check(&what, |setup| {
                    tiny_kv(setup);
                    setup.store.budget = budget;
                })
            });
        }
    }
}

#[test]
fn no_order_of_arrival_changes_an_answer() {
    let oracle = small(BlockFormat::BF16);
    oracle.check(&format!("slow storage, seed {SEED}"), |setup| {
        setup.store.budget = oracle.percent(50);
        setup.store.readers = 4;
        setup.reader.set_jitter(SEED, Duration::from_millis(2));
    });
}

#[test]
fn late_completion_changes_no_answer() {
    let oracle = small(BlockFormat::Q8_0);
    for unified in [true, false] {
        for budget in [oracle.percent(100), oracle.percent(25), oracle.least()] {
            let what = format!("checking backend, unified {unified}, {budget}, seed {SEED}");
            oracle.check(&what, |setup| {
                setup.backend = checking(unified, SEED);
                setup.store.budget = budget;
                setup.reader.set_jitter(SEED, Duration::from_micros(200));
            });
        }
        let what = format!("checking backend, unified {unified}, tiny KV cache, seed {SEED}");
        assert_preempts(&what, || {
            oracle.check(&what, |setup| {
                setup.backend = checking(unified, SEED);
                tiny_kv(setup);
            })
        });
    }
}
