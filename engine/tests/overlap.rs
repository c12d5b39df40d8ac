//! Compute goes on while experts are read, and prefill does not stop decode.

mod support;

use odmoe_backend::{ChoiceOrder, Op};
use odmoe_engine::{EngineEvent, Request};
use odmoe_expert_store::{Catalog, LookupResult, StoreEvent};
use odmoe_formats::model_config::ModelConfig;
use odmoe_formats::{BlockFormat, ExpertKey};
use std::collections::{HashMap, HashSet};
use std::time::Duration;
use support::engine::{Setup, TestEngine, greedy, setups};
use support::model::{Random, random_model, small_config};
use support::reader::Fault;
use support::recorder::Entry;

const SEED: u64 = 7;

/// One expert acquisition of a layer pass as the log shows it: what was found, and what happened next.
#[derive(Default)]
struct Acquisition {
    hits: usize,
    misses: usize,
    /// Experts computed before the next read ended.
    computed_first: usize,
}

fn acquisitions(engine: &TestEngine) -> Vec<Acquisition> {
    let mut all: Vec<Acquisition> = Vec::new();
    let (mut looking_up, mut waiting) = (false, false);
    for (_, entry) in engine.log.entries() {
        match entry {
            Entry::Event(EngineEvent::Store(StoreEvent::Lookup { result, .. })) => {
                if !looking_up {
                    all.push(Acquisition::default());
                }
                (looking_up, waiting) = (true, true);
                let last = all.last_mut().expect("pushed above");
                match result {
                    LookupResult::Hit | LookupResult::PrefetchHit => last.hits += 1,
                    LookupResult::Coalesced | LookupResult::Miss => last.misses += 1,
                }
            }
            Entry::Event(EngineEvent::Store(StoreEvent::Loaded { .. })) => {
                (looking_up, waiting) = (false, false)
            }
            Entry::Op(Op::ExpertFfn { groups, .. }) => {
                looking_up = false;
                if let Some(last) = all.last_mut().filter(|_| waiting) {
                    last.computed_first += groups.len();
                }
            }
            Entry::Op(_) => looking_up = false,
            Entry::Event(_) => {}
        }
    }
    all
}

#[test]
fn hits_are_computed_before_the_first_miss_arrives() {
    let model = random_model(small_config(), BlockFormat::BF16, SEED);
    for setup in setups(&model, SEED) {
        let mut setup = setup.recording();
        setup.config.predict_top = 0;
        let engine = setup.start();
        engine.answer(greedy(vec![1, 2], 2));
        engine.log.clear();
        engine.reader.set_delay(Duration::from_millis(50));
        engine.answer(greedy(vec![150, 3, 77], 2));
        let all = acquisitions(&engine);
        let mixed: Vec<_> = all
            .iter()
            .filter(|one| one.hits > 0 && one.misses > 0)
            .collect();
        assert!(
            !mixed.is_empty(),
            "no layer had both hits and misses: nothing was shown"
        );
        for one in mixed {
            assert_eq!(
                one.computed_first, one.hits,
                "every hit, before any of {} misses",
                one.misses
            );
        }
        engine.wait_for_rest();
    }
}

#[test]
fn two_lanes_that_want_one_expert_cause_one_read() {
    let model = random_model(small_config(), BlockFormat::BF16, SEED);
    for mut setup in setups(&model, SEED) {
        setup.config.predict_top = 0;
        let engine = setup.start();
        let prompt = vec![1, 2];
        engine.answer(sampled(prompt.clone(), 1));
        let keys = || model.manifest.objects.iter().map(|object| object.key);
        engine.reader.set_faults(
            keys().filter(|key| engine.reader.reads(*key) == 0),
            Fault::Hang,
        );
        let (_, first) = engine.submit(sampled(prompt.clone(), 200));
        engine.wait_until("a decode step waits", |engine| {
            engine.handle.gauges().store.reads_in_flight > 0
        });

        // The same tokens in another lane: its prompt reaches the same expert at the same layer.
        let so_far = first.now().tokens;
        assert!(!so_far.is_empty(), "the first request must wait in decode");
        let (_, second) = engine.submit(sampled([prompt, so_far.clone()].concat(), 3));
        let coalesced = |event: &EngineEvent| {
            matches!(
                event,
                EngineEvent::Store(StoreEvent::Lookup {
                    result: LookupResult::Coalesced,
                    ..
                })
            )
        };
        engine.wait_until("coalesced", |engine| {
            engine.log.events().iter().any(coalesced)
        });
        engine.reader.heal();
        let (first, second) = (first.wait(), second.wait());
        assert_eq!(
            second.tokens,
            first.tokens[so_far.len()..][..3],
            "seed {SEED}"
        );
        let most = keys().map(|key| engine.reader.reads(key)).max();
        assert_eq!(most, Some(1), "all experts fit, so each is read once");
        engine.wait_for_rest();
    }
}

/// Drawn at temperature 1, so that tokens, and with them experts, vary; the draw at a position is always the same.
fn sampled(prompt: Vec<u32>, new_tokens: u32) -> Request {
    let mut request = greedy(prompt, new_tokens);
    request.sampling.temperature = 1.0;
    request
}

/// Twenty thin layers: a decode pass that has to share with prefill.
fn deep_config() -> ModelConfig {
    let mut config = small_config();
    config.num_hidden_layers = 20;
    config.hidden_size = 32;
    let moe = config.moe.as_mut().expect("a sparse model");
    moe.num_experts = 4;
    moe.num_experts_per_tok = 2;
    moe.moe_intermediate_size = 32;
    moe.dense_layers = vec![];
    config.intermediate_size = 0;
    config
}

/// Only where ops are complete at once: the checking backend draws how late each completes, so two layers of one lane may
/// follow each other there, and the sharing of turns cannot be seen.
#[test]
fn decode_advances_between_the_layers_of_a_long_prefill() {
    let model = random_model(deep_config(), BlockFormat::BF16, SEED);
    let mut setup = Setup::new(&model).recording();
    setup.config.prefill_chunk_tokens = 150;
    let engine = setup.start();
    // Brings all experts in, so that nobody waits for one below.
    engine.answer(greedy(Random(SEED + 1).tokens(300, 199), 1));
    let all = Catalog::new(&model.manifest).total();
    assert_eq!(engine.handle.gauges().store.resident, all);
    let (_, decoding) = engine.submit(greedy(vec![1, 2, 3], 1500));
    decoding.wait_for_tokens(2);
    engine.log.clear();
    let prompt = Random(SEED).tokens(300, 199);
    engine.answer(greedy(prompt, 1));

    // Attention ops tell the lanes' layers apart: the decode lane has one row, a prompt chunk hundreds.
    let layers = engine
        .log
        .entries()
        .into_iter()
        .filter_map(|(_, entry)| match entry {
            Entry::Op(Op::PagedAttention { spans, layer, .. }) => {
                Some((spans.iter().any(|s| s.rows > 1), layer))
            }
            _ => None,
        });
    let layers: Vec<(bool, usize)> = layers.collect();
    let prefill: Vec<usize> = (0..layers.len()).filter(|&i| layers[i].0).collect();
    assert_eq!(prefill.len(), 40, "two chunks of twenty layers");
    for pair in prefill.windows(2) {
        assert!(
            pair[1] > pair[0] + 1,
            "decode stood still between two prefill layers"
        );
    }

    // A decode pass of L layers beside L / 8 + 2 prefill layers at most.
    let during = &layers[prefill[0]..=*prefill.last().unwrap()];
    let passes = during.split(|&(prefill, layer)| !prefill && layer == 0);
    let most = passes
        .map(|pass| pass.iter().filter(|(prefill, _)| *prefill).count())
        .max();
    assert!(
        most <= Some(20 / 8 + 2),
        "{most:?} prefill layers within a decode pass"
    );
    assert!(
        !decoding.has_ended(),
        "the request must decode during the whole prefill"
    );
}

#[test]
fn stalls_are_counted_for_those_who_wait() {
    let model = random_model(small_config(), BlockFormat::BF16, SEED);
    for mut setup in setups(&model, SEED) {
        setup.config.predict_top = 0;
        let engine = setup.start();
        engine.reader.set_delay(Duration::from_millis(50));
        let answer = engine.answer(greedy(vec![1, 2, 3], 1));
        let seconds = |event: &EngineEvent| match event {
            EngineEvent::ExpertStall { seconds } => Some(*seconds),
            _ => None,
        };
        let stalls: Vec<f64> = engine.log.events().iter().filter_map(seconds).collect();
        assert!(
            !stalls.is_empty(),
            "nothing else can run while the first experts are read"
        );
        let total: f64 = stalls.iter().sum();
        let (_, timings) = answer.end.unwrap().unwrap();
        let of_request = timings.expert_stall.as_secs_f64();
        assert!((of_request - total).abs() < 1e-6, "{of_request} of {total}");
        assert!(timings.expert_stall <= timings.prefill);
    }
}

/// A model whose layers all have experts.
fn sparse_config() -> ModelConfig {
    let mut config = small_config();
    config.moe.as_mut().expect("a sparse model").dense_layers = vec![];
    config
}

#[test]
fn predictions_are_counted() {
    let model = random_model(sparse_config(), BlockFormat::BF16, SEED);
    for mut setup in setups(&model, SEED) {
        // No room for a whole layer.
        setup.store.budget = Catalog::new(&model.manifest).least_budget();
        let engine = setup.start();
        let prompt = vec![1, 2, 3, 4];
        let answer = engine.answer(greedy(prompt.clone(), 20));
        let mut passes = 0;
        for event in &engine.log.events() {
            if let EngineEvent::Prediction { chosen, predicted } = event {
                assert!(predicted <= chosen && *chosen > 0);
                passes += 1;
            }
        }
        // Twenty passes with three layers that have one before them; the last token is not computed on. The first layer
        // is foretold where the token came before.
        let mut known: HashSet<u32> = prompt.into_iter().collect();
        let inputs = &answer.tokens[..19];
        let again = inputs.iter().filter(|id| !known.insert(**id)).count();
        assert_eq!(passes, 20 * 3 + again);
    }
}

#[test]
fn predictions_are_followed() {
    let model = random_model(sparse_config(), BlockFormat::BF16, SEED);
    for setup in setups(&model, SEED) {
        let engine = setup.start();
        engine.answer(greedy(vec![1, 2, 3, 4], 20));
        let mut used: HashMap<ExpertKey, usize> = HashMap::new();
        for event in &engine.log.events() {
            if let EngineEvent::Store(StoreEvent::Lookup {
                key,
                result: LookupResult::PrefetchHit,
                ..
            }) = event
            {
                *used.entry(*key).or_default() += 1;
            }
        }
        assert!(!used.is_empty());
        assert!(
            used.values().all(|&count| count == 1),
            "only the first use is a prefetch hit"
        );
    }
}

/// A layer whose experts are all in memory is not asked ahead of time: nothing could come of it.
#[test]
fn nothing_is_predicted_of_what_is_in_memory() {
    let model = random_model(sparse_config(), BlockFormat::BF16, SEED);
    for setup in setups(&model, SEED) {
        let engine = setup.recording().start();
        // Brings all experts in.
        engine.answer(greedy(Random(SEED + 1).tokens(300, 199), 1));
        let all = Catalog::new(&model.manifest).total();
        // Where there are two tiers both hold them.
        assert!(engine.handle.gauges().store.resident >= all);
        engine.log.clear();
        engine.answer(greedy(vec![1, 2, 3], 3));
        let orders = engine.log.entries().into_iter();
        let orders = orders.filter_map(|(_, entry)| match entry {
            Entry::Op(Op::Route { order, .. }) => Some(order),
            _ => None,
        });
        let orders: Vec<ChoiceOrder> = orders.collect();
        assert_eq!(
            orders,
            [ChoiceOrder::ByExpert; 3 * 4],
            "three passes of four layers"
        );
        let predicted = |event: &EngineEvent| matches!(event, EngineEvent::Prediction { .. });
        assert!(!engine.log.events().iter().any(predicted));
    }
}
