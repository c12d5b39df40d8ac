//! The memory sum that is promised is what is allocated (promise P2, the part that the engine decides).

mod support;

use odmoe_backend::Backend;
use odmoe_engine::EngineHandle;
use odmoe_expert_store::Catalog;
use odmoe_formats::{BlockFormat, ByteCount};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use support::engine::{Setup, backends, greedy};
use support::families::families;
use support::model::{Random, TestModel, random_model, small_config, wide_config};
use support::recorder::HookedBackend;

const SEED: u64 = 3;

#[test]
fn what_is_allocated_is_what_was_planned() {
    let families = families().into_iter();
    let families = families.map(|(_, config)| (config, BlockFormat::Q8_0));
    let fixed = [
        (small_config(), BlockFormat::Q8_0),
        (wide_config(), BlockFormat::BF16),
    ];
    for (config, format) in fixed.into_iter().chain(families) {
        let model = random_model(config, format, SEED);
        let catalog = Catalog::new(&model.manifest);
        let budgets = [
            catalog.least_budget(),
            ByteCount(catalog.full_budget().0 / 3),
            ByteCount(1 << 40),
        ];
        for (name, backend) in backends(SEED) {
            for (budget, predict_top) in budgets.into_iter().zip([0, 3, 9]) {
                println!("{format} on {name}, {budget}, seed {SEED}");
                check(&model, backend.clone(), budget, predict_top);
            }
        }
    }
}

fn check(model: &TestModel, backend: Arc<dyn Backend>, budget: ByteCount, predict_top: usize) {
    let mut setup = Setup::new(model);
    setup.store.budget = budget;
    setup.config.predict_top = predict_top;
    let plan = EngineHandle::plan_memory(&model.manifest, &setup.store, &setup.config);
    let backend = Arc::new(HookedBackend::new(backend, |_| Ok(())));
    setup.backend = backend.clone();
    let engine = setup.start();
    let allocated = || backend.allocated.load(Ordering::SeqCst);

    assert_eq!(engine.handle.gauges().kv_blocks, 128);
    let full = Catalog::new(&model.manifest).full_budget();
    assert!(plan.experts <= budget && plan.experts <= full);
    let resident = plan.base.0 + plan.kv.0 + plan.experts.0;
    let scratch = allocated() - resident;
    assert!(
        scratch > 0 && scratch <= plan.scratch.0,
        "{scratch} bytes of scratch, {plan:?}"
    );

    // Serving allocates nothing more from the backend.
    let before = allocated();
    let requests =
        [1, 100, 300].map(|tokens| greedy(Random(tokens).tokens(tokens as usize, 67), 5));
    engine.answers(&requests);
    assert_eq!(allocated(), before);
    // Apart from the device's slots, a backend with memory of its own gets a host tier of the same size, which is the
    // host's and no part of what the device is asked for.
    let tiers = if backend.capabilities().unified_memory {
        1
    } else {
        2
    };
    engine.wait_until("gauges of the store", |engine| {
        engine.handle.gauges().store.capacity.0 == tiers * plan.experts.0
    });
}

#[test]
fn a_machine_of_many_processors_counts_its_threads() {
    let model = random_model(small_config(), BlockFormat::Q8_0, SEED);
    let setup = Setup::new(&model);
    let plan = |threads| {
        let mut config = setup.config.clone();
        config.compute_threads = threads;
        EngineHandle::plan_memory(&model.manifest, &setup.store, &config)
    };
    let (few, many) = (plan(2), plan(128));
    assert_eq!(many.scratch.0 - few.scratch.0, 30 << 20, "256 KiB each");
    assert_eq!(many.overhead.0 - few.overhead.0, 116 * (2 << 20));
    assert_eq!(plan(8), few, "a small machine's are always counted");
}
