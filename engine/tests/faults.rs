//! Bad storage and vanishing clients: who is concerned ends, everybody else goes on, and everything is given back.

mod support;

use odmoe_engine::{EngineEvent, FinishReason, RequestError};
use odmoe_expert_store::{LoadFailureKind, StoreEvent, StoreHealth};
use odmoe_formats::{BlockFormat, ExpertKey};
use std::collections::BTreeSet;
use std::time::Duration;
use support::engine::{self, Setup, TestEngine, greedy};
use support::model::{Random, TestModel, random_model, small_config};
use support::reader::Fault;
use support::sink::Answer;

const SEED: u64 = 99;

fn model() -> TestModel {
    let mut config = small_config();
    // Many experts, so that two short requests differ in theirs.
    let moe = config.moe.as_mut().expect("a sparse model");
    moe.num_experts = 32;
    moe.num_experts_per_tok = 2;
    random_model(config, BlockFormat::BF16, SEED)
}

fn setup(model: &TestModel) -> Setup {
    let mut setup = Setup::new(model);
    setup.config.predict_top = 0;
    setup
}

/// One set-up for each kind of backend.
fn setups(model: &TestModel) -> impl Iterator<Item = Setup> {
    engine::setups(model, SEED).map(|mut setup| {
        setup.config.predict_top = 0;
        setup
    })
}

/// What a request answers alone, and the experts that it needs for it.
fn alone(model: &TestModel, prompt: &[u32], new_tokens: u32) -> (Answer, BTreeSet<ExpertKey>) {
    let engine = setup(model).start();
    let answer = engine.answer(greedy(prompt.to_vec(), new_tokens));
    let lookup = |event: EngineEvent| match event {
        EngineEvent::Store(StoreEvent::Lookup { key, .. }) => Some(key),
        _ => None,
    };
    (
        answer,
        engine.log.events().into_iter().filter_map(lookup).collect(),
    )
}

/// Two requests; the experts that only the first needs.
struct Pair {
    model: TestModel,
    prompts: [Vec<u32>; 2],
    answers: [Answer; 2],
    only_first: Vec<ExpertKey>,
}

const NEW_TOKENS: u32 = 4;

impl Pair {
    fn new() -> Self {
        let model = model();
        let prompts = [vec![11, 12], vec![90, 91]];
        let [(first, first_keys), (second, second_keys)] =
            [0, 1].map(|i: usize| alone(&model, &prompts[i], NEW_TOKENS));
        let only_first: Vec<_> = first_keys.difference(&second_keys).copied().collect();
        assert!(
            !only_first.is_empty(),
            "both requests need the same experts: nothing can be shown"
        );
        Self {
            model,
            prompts,
            answers: [first, second],
            only_first,
        }
    }

    /// Both at once under a fault: the first fails as `kind` says, the second answers as if alone; once storage is
    /// good again, so does the first.
    fn check(&self, engine: &TestEngine, fault: Fault, kind: LoadFailureKind) {
        let [first, second] = [0, 1].map(|i: usize| greedy(self.prompts[i].clone(), NEW_TOKENS));
        engine
            .reader
            .set_faults(self.only_first.iter().copied(), fault);
        let listeners = [first.clone(), second].map(|request| engine.submit(request).1);
        let [failed, other] = listeners.map(|listener| listener.wait());
        match failed.error() {
            Some(RequestError::ExpertUnavailable(error)) => {
                assert_eq!(error.kind(), kind, "{error}")
            }
            end => panic!("{fault:?}: {end:?}"),
        }
        assert_eq!(other.bits(), self.answers[1].bits(), "{fault:?}");
        engine.reader.heal();
        engine.wait_for_rest();
        assert_eq!(
            engine.answer(first).bits(),
            self.answers[0].bits(),
            "after {fault:?}"
        );
        engine.wait_for_rest();
        assert_eq!(
            engine.handle.gauges().health,
            StoreHealth::Healthy,
            "after {fault:?}"
        );
    }
}

#[test]
fn a_bad_expert_fails_only_the_requests_that_need_it() {
    let pair = Pair::new();
    let faults = [
        (Fault::Corrupt, LoadFailureKind::Checksum),
        (Fault::Short, LoadFailureKind::ShortRead),
        (Fault::Fail, LoadFailureKind::Io),
    ];
    for (fault, kind) in faults {
        for setup in setups(&pair.model) {
            pair.check(&setup.start(), fault, kind);
        }
    }
}

#[test]
fn a_read_that_hangs_fails_only_the_requests_that_need_it() {
    let pair = Pair::new();
    for mut setup in setups(&pair.model) {
        setup.store.read_timeout = Duration::from_secs(1);
        // A reader that hangs is lost until storage answers.
        setup.store.readers = 8;
        pair.check(&setup.start(), Fault::Hang, LoadFailureKind::Timeout);
    }
}

#[test]
fn a_vanished_disk_ends_its_requests_and_comes_back() {
    let model = model();
    let (expected, _) = alone(&model, &[11, 12], NEW_TOKENS);
    for setup in setups(&model) {
        let engine = setup.start();
        engine.reader.set_faults(
            model.manifest.objects.iter().map(|object| object.key),
            Fault::Fail,
        );
        let requests: Vec<_> = (0..6).map(|i| greedy(vec![i, i + 1], NEW_TOKENS)).collect();
        for answer in engine.answers(&requests) {
            assert!(
                matches!(answer.error(), Some(RequestError::ExpertUnavailable(_))),
                "{answer:?}"
            );
        }
        engine.wait_for_rest();
        engine.reader.heal();
        assert_eq!(
            engine.answer(greedy(vec![11, 12], NEW_TOKENS)).bits(),
            expected.bits()
        );
        engine.wait_until("healthy", |engine| {
            engine.handle.gauges().health == StoreHealth::Healthy
        });
    }
}

#[test]
fn a_client_that_leaves_the_queue_is_gone() {
    let model = model();
    for mut setup in setups(&model) {
        setup.config.max_running = 1;
        let engine = setup.slowed().start();
        let (_, running) = engine.submit(greedy(vec![1, 2], 600));
        running.wait_for_tokens(1);
        let (_, queued) = engine.submit(greedy(vec![3, 4], 600));
        let (cancelled_id, cancelled) = engine.submit(greedy(vec![5, 6], 600));
        queued.close();
        engine.handle.cancel(cancelled_id);
        for gone in [queued.wait(), cancelled.wait()] {
            assert_eq!(
                (gone.tokens.len(), gone.finish_reason()),
                (0, Some(FinishReason::Cancelled))
            );
        }
        assert!(
            !running.has_ended(),
            "the running request must outlive those that left"
        );
        running.close();
        assert_eq!(
            running.wait().finish_reason(),
            Some(FinishReason::Cancelled)
        );
        engine.wait_for_rest();
    }
}

#[test]
fn a_client_that_leaves_in_prefill_or_decode_is_gone() {
    let model = model();
    for mut setup in setups(&model) {
        setup.config.prefill_chunk_tokens = 4;
        let engine = setup.slowed().start();
        let (_, other) = engine.submit(greedy(vec![1, 2], 40));
        let (id, prefilling) = engine.submit(greedy(Random(SEED).tokens(1500, 199), 4));
        engine.wait_until("in prefill", |engine| {
            engine.handle.gauges().kv_blocks_used > 90
        });
        engine.handle.cancel(id);
        let answer = prefilling.wait();
        assert_eq!(
            (answer.tokens.len(), answer.finish_reason()),
            (0, Some(FinishReason::Cancelled))
        );
        let (_, decoding) = engine.submit(greedy(vec![7, 8], 1000));
        decoding.wait_for_tokens(3);
        decoding.close();
        let answer = decoding.wait();
        assert_eq!(answer.finish_reason(), Some(FinishReason::Cancelled));
        assert!(answer.tokens.len() < 1000);
        assert_eq!(other.wait().bits(), alone(&model, &[1, 2], 40).0.bits());
        engine.wait_for_rest();
    }
}

#[test]
fn a_client_that_leaves_an_expert_wait_frees_its_memory_at_once() {
    let model = model();
    let (expected, _) = alone(&model, &[11, 12], NEW_TOKENS);
    for setup in setups(&model) {
        let engine = setup.start();
        engine.reader.set_faults(
            model.manifest.objects.iter().map(|object| object.key),
            Fault::Hang,
        );
        let (_, waiting) = engine.submit(greedy(vec![11, 12, 13], 20));
        engine.wait_until("an expert wait", |engine| {
            engine.handle.gauges().store.reads_in_flight > 0
        });
        waiting.close();
        assert_eq!(
            waiting.wait().finish_reason(),
            Some(FinishReason::Cancelled)
        );
        // Storage still hangs: nothing but the reads under way may be left.
        engine.wait_until("free", |engine| {
            let gauges = engine.handle.gauges();
            gauges.running + gauges.kv_blocks_used + gauges.store.reads_queued == 0
        });
        engine.reader.heal();
        engine.wait_for_rest();
        assert_eq!(
            engine.answer(greedy(vec![11, 12], NEW_TOKENS)).bits(),
            expected.bits()
        );
    }
}

#[test]
fn the_other_rows_of_a_pass_outlive_one_that_leaves() {
    let pair = Pair::new();
    for setup in setups(&pair.model) {
        let engine = setup.start();
        engine
            .reader
            .set_faults(pair.only_first.iter().copied(), Fault::Hang);
        let [first, second] =
            [0, 1].map(|i: usize| engine.submit(greedy(pair.prompts[i].clone(), NEW_TOKENS)).1);
        engine.wait_until("an expert wait", |engine| {
            engine.handle.gauges().store.reads_in_flight > 0
        });
        first.close();
        assert_eq!(first.wait().finish_reason(), Some(FinishReason::Cancelled));
        engine.reader.heal();
        assert_eq!(second.wait().bits(), pair.answers[1].bits());
        engine.wait_for_rest();
    }
}
