//! The master oracle while the budgets of experts and KV change at random moments: no request fails, no token changes, and
//! memory follows what was said last.

mod support;

use odmoe_backend::Backend;
use odmoe_engine::Request;
use odmoe_expert_store::{EvictionReason, StoreError, StoreEvent};
use odmoe_formats::{BlockFormat, ByteCount, ExpertKey};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;
use support::engine::{Setup, TestEngine, backends, checking, cpu, greedy};
use support::model::{Random, random_model, small_config};
use support::oracle::Oracle;
use support::sink::Listener;

const SEED: u64 = 20_261_122;

/// All eight requests together take 74 blocks of 8 tokens, the longest one 23.
const KV_BLOCKS_MAX: usize = 90;

/// Eight clients, of whom some sample.
fn requests(vocab: u32) -> Vec<Request> {
    let mut random = Random(SEED);
    let lengths = [1, 2, 9, 17, 40, 64, 90, 130];
    let request = |(index, length): (usize, usize)| {
        let mut request = greedy(random.tokens(length, vocab), 24 + 4 * index as u32);
        if index % 3 == 2 {
            request.sampling.temperature = 1.0;
            request.sampling.seed = index as u64;
        }
        request
    };
    lengths.into_iter().enumerate().map(request).collect()
}

fn oracle(format: BlockFormat) -> Oracle {
    let model = random_model(small_config(), format, SEED);
    let requests = requests(model.manifest.config.vocab_size);
    Oracle::new(model, requests)
}

/// Changes the budget until every answer has ended; says how often.
fn stir(
    engine: &TestEngine,
    (least, full): (ByteCount, ByteCount),
    random: &mut Random,
    listeners: &[Listener],
) -> usize {
    let mut changes = 0;
    while !listeners.iter().all(Listener::has_ended) {
        let budget = match random.below(4) {
            0 => least,
            1 => full,
            _ => ByteCount(least.0 + random.below(full.0 - least.0)),
        };
        if random.below(2) == 0 {
            let blocks = 1 + random.below(KV_BLOCKS_MAX as u64) as usize;
            assert_eq!(engine.handle.set_kv_blocks(blocks), blocks);
        }
        let accepted = engine.handle.set_expert_budget(budget);
        let bytes = accepted.expect("at least the least");
        assert!(bytes <= budget, "{bytes} of {budget}");
        changes += 1;
        std::thread::sleep(Duration::from_micros(random.below(4000)));
    }
    changes
}

/// Once nothing runs, all slots of the last budget are there and no others.
fn settle_at(engine: &TestEngine, budget: ByteCount) {
    let bytes = engine.handle.set_expert_budget(budget).unwrap();
    engine.wait_until("at its budget", |engine| {
        let store = engine.handle.gauges().store;
        // Both tiers, where there are two.
        let tiers = store.budget.0 / bytes.0;
        store.capacity == store.budget && store.budget.0 == bytes.0 * tiers && tiers <= 2
    });
}

fn check(what: &str, oracle: &Oracle, backend: Arc<dyn Backend>, seed: u64) {
    check_keeping(what, oracle, backend, seed, HashSet::new());
}

/// With experts that are to stay in memory.
fn check_keeping(
    what: &str,
    oracle: &Oracle,
    backend: Arc<dyn Backend>,
    seed: u64,
    keep: HashSet<ExpertKey>,
) {
    let least = match keep.is_empty() {
        true => oracle.least(),
        false => oracle.least_keeping(&keep),
    };
    let mut setup = Setup::new(&oracle.model);
    setup.backend = backend;
    setup.store.budget = oracle.percent(40).max(least);
    setup.store.keep = keep;
    setup.config.kv_block_tokens = 8;
    setup.config.kv_blocks = 60;
    setup.config.kv_blocks_max = KV_BLOCKS_MAX;
    let engine = setup.slowed().start();
    let mut random = Random(seed);
    let submit = |request: &Request| engine.submit(request.clone()).1;
    let listeners: Vec<_> = oracle.requests.iter().map(submit).collect();
    let changes = stir(
        &engine,
        (least, oracle.percent(100)),
        &mut random,
        &listeners,
    );
    assert!(changes > 10, "{what}: only {changes} changes");
    for (index, (listener, expected)) in listeners.iter().zip(&oracle.expected).enumerate() {
        let answer = listener.wait();
        let error = answer.error();
        assert!(error.is_none(), "{what}, request {index}: {error:?}");
        assert_eq!(&answer.bits(), expected, "{what}, request {index}");
    }
    let by_budget = engine.log.events().into_iter().filter(|event| {
        let odmoe_engine::EngineEvent::Store(StoreEvent::Evicted { reason, .. }) = event else {
            return false;
        };
        *reason == EvictionReason::Budget
    });
    assert!(by_budget.count() > 0, "{what}: no budget ever fell");
    for percent in [100, 30, 0, 70] {
        settle_at(&engine, oracle.percent(percent).max(least));
    }
    for blocks in [1, KV_BLOCKS_MAX, 7] {
        engine.handle.set_kv_blocks(blocks);
        engine.wait_until("at its KV blocks", |engine| {
            engine.handle.gauges().kv_blocks == blocks
        });
    }
    engine.wait_for_rest();
}

#[test]
fn budgets_that_change_at_random_change_no_answer() {
    for format in [BlockFormat::BF16, BlockFormat::Q8_0] {
        let oracle = oracle(format);
        for seed in SEED..SEED + 3 {
            check(&format!("{format}, seed {seed}"), &oracle, cpu(2), seed);
        }
    }
}

#[test]
fn nor_do_they_with_experts_that_stay() {
    let oracle = oracle(BlockFormat::Q8_0);
    for (percent, seed) in [(10, SEED), (40, SEED + 1), (70, SEED + 2)] {
        let keep = oracle.some_experts(percent, seed);
        let what = format!("{} pinned, seed {seed}", keep.len());
        check_keeping(&what, &oracle, cpu(2), seed, keep.clone());
        check_keeping(&what, &oracle, checking(false, seed), seed, keep);
    }
}

#[test]
fn nor_where_work_completes_late_or_memory_is_apart() {
    let oracle = oracle(BlockFormat::Q8_0);
    for unified in [true, false] {
        let what = format!("unified {unified}, seed {SEED}");
        check(&what, &oracle, checking(unified, SEED), SEED);
    }
}

#[test]
fn a_budget_below_the_least_is_refused_with_the_number_that_would_do() {
    let oracle = oracle(BlockFormat::BF16);
    for (name, backend) in backends(SEED) {
        let mut setup = Setup::new(&oracle.model);
        setup.backend = backend;
        let engine = setup.start();
        let asked = ByteCount(oracle.least().0 - 1);
        let refused = engine.handle.set_expert_budget(asked);
        let Err(StoreError::BudgetTooSmall { budget, least, .. }) = refused else {
            panic!("{name}: {refused:?}");
        };
        assert_eq!((budget, least), (asked, oracle.least()), "{name}");
        assert!(engine.handle.set_expert_budget(least).is_ok(), "{name}");
    }
}
