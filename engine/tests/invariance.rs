//! The master oracle (promise P1): nothing about paging, batching or timing changes a token or a logprob, bit for
//! bit. Every variant of the engine answers the same requests as one that holds every expert and serves each alone.

mod support;

use odmoe_engine::{EngineEvent, Request, SamplingParams};
use odmoe_expert_store::{Catalog, StoreEvent};
use odmoe_formats::{BlockFormat, ByteCount};
use std::collections::HashSet;
use std::time::Duration;
use support::engine::{Setup, checking, cpu, greedy};
use support::model::{Random, TestModel, random_model, small_config, wide_config};
use support::sink::Answer;

const SEED: u64 = 20_261_121;

type Bits = Vec<Vec<(u32, Vec<(u32, u32)>)>>;

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

fn bits(answers: &[Answer]) -> Bits {
    answers.iter().map(Answer::bits).collect()
}

/// All experts in memory, no prediction, one thread, each request alone.
fn reference(model: &TestModel, requests: &[Request]) -> Bits {
    let mut setup = Setup::new(model);
    setup.config.predict_top = 0;
    setup.store.prefetch = false;
    let engine = setup.start();
    let answers: Vec<_> = requests
        .iter()
        .map(|request| engine.answer(request.clone()))
        .collect();
    bits(&answers)
}

/// The answers of an engine that is made otherwise, to all requests at once.
fn check(
    what: &str,
    model: &TestModel,
    requests: &[Request],
    expected: &Bits,
    change: impl FnOnce(&mut Setup),
) -> Vec<EngineEvent> {
    let mut setup = Setup::new(model);
    change(&mut setup);
    let engine = setup.start();
    let found = bits(&engine.answers(requests));
    for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert_eq!(found, expected, "{what}, request {index}, seed {SEED}");
    }
    engine.wait_for_rest();
    engine.log.events()
}

fn percent(model: &TestModel, percent: u64) -> ByteCount {
    let catalog = Catalog::new(&model.manifest);
    ByteCount(catalog.full_budget().0 * percent / 100)
}

fn evictions(events: &[EngineEvent]) -> usize {
    events
        .iter()
        .filter(|event| matches!(event, EngineEvent::Store(StoreEvent::Evicted { .. })))
        .count()
}

fn small(format: BlockFormat) -> (TestModel, Vec<Request>, Bits) {
    let model = random_model(small_config(), format, SEED);
    let requests = requests(model.manifest.config.vocab_size);
    let expected = reference(&model, &requests);
    (model, requests, expected)
}

#[test]
fn answers_differ_between_requests() {
    let (_, requests, expected) = small(BlockFormat::BF16);
    let distinct: HashSet<_> = expected
        .iter()
        .map(|answer| format!("{answer:?}"))
        .collect();
    assert_eq!(
        distinct.len(),
        requests.len(),
        "an oracle of equal answers would prove nothing"
    );
}

#[test]
fn no_budget_changes_an_answer() {
    for format in [BlockFormat::BF16, BlockFormat::Q8_0] {
        let (model, requests, expected) = small(format);
        let least = Catalog::new(&model.manifest).least_budget();
        for budget in [
            percent(&model, 100),
            percent(&model, 50),
            percent(&model, 25),
            least,
        ] {
            for prefetch in [false, true] {
                let what = format!("{format}, {budget}, prefetch {prefetch}");
                let events = check(&what, &model, &requests, &expected, |setup| {
                    setup.store.budget = budget;
                    setup.store.prefetch = prefetch;
                });
                let paged = budget < percent(&model, 100);
                assert_eq!(
                    evictions(&events) > 0,
                    paged,
                    "{what}: the budget must decide whether it pages"
                );
            }
        }
    }
}

#[test]
fn no_number_of_threads_changes_an_answer() {
    for format in [BlockFormat::BF16, BlockFormat::Q8_0] {
        let (model, requests, expected) = small(format);
        for threads in [1, 2, 3] {
            let what = format!("{format}, {threads} threads");
            check(&what, &model, &requests, &expected, |setup| {
                setup.backend = cpu(threads)
            });
        }
    }
}

#[test]
fn no_chunk_size_changes_an_answer() {
    let (model, requests, expected) = small(BlockFormat::Q8_0);
    for chunk in [1, 7, 64, 512] {
        check(
            &format!("chunks of {chunk}"),
            &model,
            &requests,
            &expected,
            |setup| {
                setup.config.prefill_chunk_tokens = chunk;
                setup.store.budget = percent(&model, 50);
            },
        );
    }
}

#[test]
fn company_changes_no_answer() {
    let (model, requests, expected) = small(BlockFormat::BF16);
    for running in [1, 2, 8] {
        check(
            &format!("{running} at once"),
            &model,
            &requests,
            &expected,
            |setup| {
                setup.config.max_running = running;
            },
        );
    }
}

#[test]
fn no_preemption_changes_an_answer() {
    let (model, requests, expected) = small(BlockFormat::BF16);
    let events = check("a tiny KV cache", &model, &requests, &expected, |setup| {
        // Two of the longest requests do not fit beside each other, and others grow into their neighbours.
        setup.config.kv_block_tokens = 8;
        setup.config.kv_blocks = 24;
        setup.store.budget = percent(&model, 50);
    });
    let preempted = events
        .iter()
        .filter(|event| matches!(event, EngineEvent::Preempted))
        .count();
    assert!(preempted > 0, "the KV cache was not tiny enough to preempt");
}

#[test]
fn no_order_of_arrival_changes_an_answer() {
    let (model, requests, expected) = small(BlockFormat::BF16);
    check("slow storage", &model, &requests, &expected, |setup| {
        setup.store.budget = percent(&model, 50);
        setup.store.readers = 4;
        setup.reader.set_jitter(SEED, Duration::from_millis(2));
    });
}

#[test]
fn late_completion_changes_no_answer() {
    let (model, requests, expected) = small(BlockFormat::Q8_0);
    let least = Catalog::new(&model.manifest).least_budget();
    for unified in [true, false] {
        for budget in [percent(&model, 100), percent(&model, 25), least] {
            let what = format!("checking backend, unified {unified}, {budget}");
            check(&what, &model, &requests, &expected, |setup| {
                setup.backend = checking(unified, SEED);
                setup.store.budget = budget;
                setup.reader.set_jitter(SEED, Duration::from_micros(200));
            });
        }
        let events = check(
            "checking backend, tiny KV cache",
            &model,
            &requests,
            &expected,
            |setup| {
                setup.backend = checking(unified, SEED);
                setup.config.kv_block_tokens = 8;
                setup.config.kv_blocks = 24;
            },
        );
        assert!(
            events
                .iter()
                .any(|event| matches!(event, EngineEvent::Preempted))
        );
    }
}

#[test]
fn a_wide_model_with_a_long_context_keeps_its_bits() {
    let model = random_model(wide_config(), BlockFormat::Q8_0, SEED);
    let mut random = Random(SEED);
    // More than three attention splits of 256 positions, and one that crosses a split's end while it decodes.
    let requests = [
        greedy(random.tokens(790, 67), 6),
        greedy(random.tokens(253, 67), 8),
    ];
    let expected = reference(&model, &requests);
    let least = Catalog::new(&model.manifest).least_budget();
    let variants = [
        (512, percent(&model, 100), 3),
        (512, least, 2),
        (64, percent(&model, 25), 3),
        (7, percent(&model, 50), 1),
        (1, percent(&model, 25), 2),
    ];
    for (chunk, budget, threads) in variants {
        let what = format!("wide, chunks of {chunk}, {budget}, {threads} threads");
        check(&what, &model, &requests, &expected, |setup| {
            setup.backend = cpu(threads);
            setup.config.prefill_chunk_tokens = chunk;
            setup.store.budget = budget;
        });
    }
}
