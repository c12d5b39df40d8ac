//! The master oracle (promise P1) on every family, on models whose matrices are of several formats, and on models
//! without experts.

mod support;

use odmoe_backend::Op;
use odmoe_engine::{EngineEvent, EngineHandle, Request};
use odmoe_expert_store::{Catalog, StoreEvent, StoreGauges, StoreHealth};
use odmoe_formats::names::ExpertRole;
use odmoe_formats::{BlockFormat, ByteCount};
use std::collections::BTreeSet;
use std::time::Duration;
use support::engine::{checking, cpu, greedy, setups};
use support::families::{dense, families, superblock_config};
use support::model::{Matrix, Random, mixed_model, random_model, small_config};
use support::oracle::Oracle;
use support::reader::Fault;
use support::recorder::Entry;

const SEED: u64 = 11;

fn requests() -> Vec<Request> {
    let mut random = Random(SEED);
    let lengths = [1, 5, 17, 60];
    let request = |length| greedy(random.tokens(length, 67), 9);
    lengths.map(request).into()
}

/// Answers in every way that must not matter.
fn check(name: &str, oracle: &Oracle) {
    let budgets = [oracle.percent(100), oracle.percent(40), oracle.least()];
    for (budget, (chunk, threads)) in budgets.into_iter().zip([(7, 3), (512, 2), (64, 1)]) {
        let what = format!("{name}, {budget}, chunks of {chunk}, {threads} threads, seed {SEED}");
        oracle.check(&what, |setup| {
            setup.backend = cpu(threads);
            setup.store.budget = budget;
            setup.config.prefill_chunk_tokens = chunk;
        });
    }
    for unified in [true, false] {
        let what = format!("{name}, checking backend, unified {unified}, seed {SEED}");
        oracle.check(&what, |setup| {
            setup.backend = checking(unified, SEED);
            setup.store.budget = oracle.percent(40);
            setup.config.max_running = 3;
            setup.reader.set_jitter(SEED, Duration::from_micros(200));
        });
    }
}

#[test]
fn no_family_is_changed_by_paging_or_company() {
    for (index, (name, config)) in families().into_iter().enumerate() {
        let format = [BlockFormat::BF16, BlockFormat::Q8_0][index % 2];
        let model = random_model(config, format, SEED);
        check(name, &Oracle::new(model, requests()));
    }
}

/// The formats of a layer's experts: gate and up, then down. Files mix them from tensor to tensor and layer to layer.
const EXPERT_FORMATS: [[BlockFormat; 2]; 3] = [
    [BlockFormat::Q4_K, BlockFormat::Q6_K],
    [BlockFormat::Q4_K, BlockFormat::Q4_K],
    [BlockFormat::Q4_0, BlockFormat::MXFP4],
];

#[test]
fn a_model_of_k_quants_is_not_changed_by_paging_or_company() {
    let format = |matrix: Matrix<'_>| match matrix {
        Matrix::Resident("embed_tokens" | "lm_head") => BlockFormat::Q6_K,
        Matrix::Resident(name) if name.contains("layers.0") => BlockFormat::Q5_K,
        Matrix::Resident(name) if name.contains("layers.1") => BlockFormat::Q3_K,
        Matrix::Resident(name) if name.ends_with("q_proj") => BlockFormat::Q5_0,
        Matrix::Resident(name) if name.ends_with("o_proj") => BlockFormat::Q2_K,
        Matrix::Resident(name) if name.ends_with("v_proj") => BlockFormat::Q5_1,
        Matrix::Resident(_) => BlockFormat::Q4_1,
        Matrix::Expert(key, role) => {
            let [inner, down] = EXPERT_FORMATS[key.layer.0 as usize];
            if role == ExpertRole::DownProj {
                down
            } else {
                inner
            }
        }
    };
    let model = mixed_model(superblock_config(), format, SEED);
    let slots = Catalog::new(&model.manifest).slots(ByteCount(1 << 30));
    let classes = slots.expect("room for all").classes().len();
    assert_eq!(classes, 2, "slots of two sizes");
    check("k-quants", &Oracle::new(model, requests()));
}

#[test]
fn a_model_of_several_formats_is_not_changed_by_paging_or_company() {
    let format = |matrix: Matrix<'_>| match matrix {
        Matrix::Resident(name) if name.ends_with("v_proj") => BlockFormat::F16,
        Matrix::Resident(_) => BlockFormat::Q8_0,
        Matrix::Expert(key, ExpertRole::DownProj) if key.layer.0 == 0 => BlockFormat::F32,
        Matrix::Expert(key, ExpertRole::DownProj) if key.layer.0 == 2 => BlockFormat::BF16,
        Matrix::Expert(..) => BlockFormat::Q8_0,
    };
    let model = mixed_model(small_config(), format, SEED);
    let sizes: BTreeSet<u64> = Catalog::new(&model.manifest)
        .objects()
        .map(|object| object.bytes)
        .collect();
    assert_eq!(sizes.len(), 3, "experts of several sizes in one store");
    check("several formats", &Oracle::new(model, requests()));
}

#[test]
fn the_shared_expert_runs_while_routed_ones_are_read() {
    let (_, config) = families()
        .into_iter()
        .find(|(name, _)| *name == "qwen2moe")
        .unwrap();
    let model = random_model(config, BlockFormat::BF16, SEED);
    for setup in setups(&model, SEED) {
        let engine = setup.recording().start();
        let keys = model.manifest.objects.iter().map(|object| object.key);
        engine.reader.set_faults(keys, Fault::Hang);
        let (_, listener) = engine.submit(greedy(vec![1, 2, 3], 2));
        engine.wait_until("computed beside a read", |engine| {
            engine
                .log
                .entries()
                .iter()
                .any(|(_, entry)| matches!(entry, Entry::Op(Op::AddGated { rows: 3, .. })))
        });
        let entries = engine.log.entries();
        let place = |found: fn(&Entry) -> bool| entries.iter().position(|(_, e)| found(e));
        let asked = place(|entry| {
            matches!(
                entry,
                Entry::Event(EngineEvent::Store(StoreEvent::Lookup { .. }))
            )
        });
        let added = place(|entry| matches!(entry, Entry::Op(Op::AddGated { .. })));
        assert!(asked.is_some() && asked < added, "{asked:?}, {added:?}");
        assert_eq!(
            place(|e| matches!(e, Entry::Op(Op::ExpertFfn { .. }))),
            None
        );
        engine.reader.heal();
        assert_eq!(listener.wait().tokens.len(), 2);
    }
}

#[test]
fn a_dense_model_asks_nothing_of_the_store() {
    let model = random_model(dense("llama"), BlockFormat::Q8_0, SEED);
    for mut setup in setups(&model, SEED) {
        setup.store.budget = ByteCount(0);
        let plan = EngineHandle::plan_memory(&model.manifest, &setup.store, &setup.config);
        assert_eq!(plan.experts, ByteCount(0));
        let engine = setup.start();
        assert_eq!(engine.answers(&requests()).len(), 4);
        engine.wait_for_rest();
        let paging = |event: &EngineEvent| {
            matches!(
                event,
                EngineEvent::Store(_)
                    | EngineEvent::Prediction { .. }
                    | EngineEvent::ExpertStall { .. }
            )
        };
        assert!(!engine.log.events().iter().any(paging));
        let gauges = engine.handle.gauges();
        assert_eq!(gauges.store, StoreGauges::default());
        assert_eq!(gauges.health, StoreHealth::Healthy);
    }
}
