//! Starting, refusing, draining, stopping, and failing as a whole.

mod support;

use odmoe_backend::{Backend, BackendError, Op};
use odmoe_engine::{
    EngineHandle, EngineParts, FinishReason, RequestError, StartError, SubmitError,
};
use odmoe_expert_store::StoreError;
use odmoe_formats::manifest::Manifest;
use odmoe_formats::{BlockFormat, ByteCount};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use support::engine::{Setup, backends, greedy, setups};
use support::model::{TestModel, random_model, small_config};
use support::reader::TestReader;
use support::recorder::HookedBackend;
use support::sink::Listener;

const SEED: u64 = 2;

fn model() -> TestModel {
    random_model(small_config(), BlockFormat::BF16, SEED)
}

#[test]
fn an_answer_ends_at_its_length_or_at_a_stop_token() {
    for setup in setups(&model(), SEED) {
        let engine = setup.start();
        let whole = engine.answer(greedy(vec![5, 17, 33], 24));
        assert_eq!(whole.tokens.len(), 24);
        assert_eq!(whole.finish_reason(), Some(FinishReason::Length));

        let stop = whole.tokens[5];
        let first = whole
            .tokens
            .iter()
            .position(|&token| token == stop)
            .unwrap();
        let mut request = greedy(vec![5, 17, 33], 24);
        request.stop_token_ids = vec![stop];
        let stopped = engine.answer(request);
        assert_eq!(stopped.tokens, whole.tokens[..=first]);
        assert_eq!(stopped.finish_reason(), Some(FinishReason::Stop));
        engine.wait_for_rest();
    }
}

#[test]
fn logprobs_come_only_where_they_are_asked_for() {
    for setup in setups(&model(), SEED) {
        let engine = setup.start();
        let mut request = greedy(vec![9, 8, 7], 3);
        let with = engine.answer(request.clone());
        for (token, position) in with.tokens.iter().zip(&with.logprobs) {
            let position = position.as_ref().expect("asked for");
            assert_eq!(position.top.len(), 3);
            assert_eq!(
                (position.chosen.token, position.top[0].token),
                (*token, *token)
            );
        }
        request.logprobs = None;
        let without = engine.answer(request);
        assert_eq!(without.tokens, with.tokens);
        assert!(without.logprobs.iter().all(Option::is_none));
    }
}

#[test]
fn bad_requests_are_refused_at_once() {
    for setup in setups(&model(), SEED) {
        let engine = setup.start();
        let submit = |prompt: Vec<u32>, new| {
            engine
                .handle
                .submit(greedy(prompt, new), Listener::default().sink())
        };
        assert!(matches!(submit(vec![], 4), Err(SubmitError::BadPrompt(_))));
        assert!(
            matches!(submit(vec![1, 199], 4), Err(SubmitError::BadPrompt(text)) if text.contains("199"))
        );
        assert!(matches!(submit(vec![1], 0), Err(SubmitError::BadPrompt(_))));
        let too_long = SubmitError::TooLong {
            prompt: 2000,
            new: 49,
            limit: 2048,
        };
        assert_eq!(submit(vec![1; 2000], 49), Err(too_long));
        assert!(engine.handle.is_idle());
    }
}

#[test]
fn a_full_queue_refuses_and_the_others_go_on() {
    for mut setup in setups(&model(), SEED) {
        setup.config.max_running = 2;
        setup.config.max_waiting = 3;
        let (hold, backend) = Hold::new(&setup);
        setup.backend = backend;
        let engine = setup.start();
        let held = hold.close();
        let accepted: Vec<_> = (0..5)
            .map(|i| engine.submit(greedy(vec![i + 1], 4)).1)
            .collect();
        let refused = engine
            .handle
            .submit(greedy(vec![9], 4), Listener::default().sink());
        assert!(
            matches!(refused, Err(SubmitError::QueueFull { limit: 3, .. })),
            "{refused:?}"
        );
        drop(held);
        for listener in accepted {
            assert_eq!(listener.wait().tokens.len(), 4);
        }
        engine.wait_for_rest();
    }
}

#[test]
fn draining_refuses_new_requests_and_finishes_old_ones() {
    for setup in setups(&model(), SEED) {
        let engine = setup.start();
        let (_, listener) = engine.submit(greedy(vec![3, 4], 40));
        engine.handle.drain();
        let refused = engine
            .handle
            .submit(greedy(vec![3, 4], 40), Listener::default().sink());
        assert_eq!(refused, Err(SubmitError::ShuttingDown));
        assert_eq!(listener.wait().tokens.len(), 40);
        engine.wait_until("idle", |engine| engine.handle.is_idle());
        assert!(engine.handle.is_alive());
    }
}

#[test]
fn stopping_ends_every_request_once() {
    for mut setup in setups(&model(), SEED) {
        setup.config.max_running = 2;
        let engine = setup.slowed().start();
        let listeners: Vec<_> = (0..6)
            .map(|i| engine.submit(greedy(vec![i + 1; 40], 500)).1)
            .collect();
        listeners[0].wait_for_tokens(2);
        let other = engine.handle.clone();
        other.stop();
        assert!(!engine.handle.is_alive());
        for listener in listeners {
            let answer = listener.now();
            assert!(
                matches!(answer.error(), Some(RequestError::ShuttingDown)),
                "{answer:?}"
            );
        }
        assert!(engine.handle.is_idle());
        engine.handle.stop();
    }
}

#[test]
fn dropping_the_last_handle_ends_every_request() {
    for setup in setups(&model(), SEED) {
        let engine = setup.slowed().start();
        let (_, listener) = engine.submit(greedy(vec![1, 2, 3], 1000));
        listener.wait_for_tokens(1);
        drop(engine);
        assert!(matches!(
            listener.now().error(),
            Some(RequestError::ShuttingDown)
        ));
    }
}

#[test]
fn a_backend_failure_or_a_panic_ends_every_request_and_the_engine() {
    for panics in [false, true] {
        for mut setup in setups(&model(), SEED) {
            let ops = AtomicUsize::new(0);
            let hook = move |_: &Op| {
                if ops.fetch_add(1, Ordering::Relaxed) < 300 {
                    return Ok(());
                }
                assert!(!panics, "told to panic");
                Err(BackendError::Device {
                    backend: "test",
                    op: "any",
                    reason: "told to fail".into(),
                })
            };
            setup.backend = Arc::new(HookedBackend::new(setup.backend, hook));
            let engine = setup.start();
            let listeners: Vec<_> = (0..4)
                .map(|i| engine.submit(greedy(vec![i + 1; 70], 200)).1)
                .collect();
            for listener in listeners {
                let answer = listener.wait();
                assert!(
                    matches!(answer.error(), Some(RequestError::Backend(text)) if text.contains("told to"))
                );
            }
            engine.wait_until("dead", |engine| !engine.handle.is_alive());
            let refused = engine
                .handle
                .submit(greedy(vec![1], 1), Listener::default().sink());
            assert_eq!(refused, Err(SubmitError::ShuttingDown));
            assert!(engine.handle.is_idle());
        }
    }
}

#[test]
fn timings_cover_queue_prefill_and_decode() {
    for mut setup in setups(&model(), SEED) {
        setup.config.max_running = 1;
        let engine = setup.start();
        let answers = engine.answers(&[greedy(vec![1; 30], 40), greedy(vec![2; 30], 40)]);
        let timings = answers
            .iter()
            .map(|answer| answer.end.clone().unwrap().unwrap().1);
        let [first, second]: [_; 2] = timings.collect::<Vec<_>>().try_into().unwrap();
        assert!(!first.prefill.is_zero() && !first.decode.is_zero());
        // The second waited for the first to end.
        assert!(second.queue >= first.decode, "{second:?} after {first:?}");
        assert_eq!(first.preemptions, 0);
    }
}

fn start_error(setup: Setup, manifest: Arc<Manifest>, reader: Arc<TestReader>) -> StartError {
    let parts = EngineParts {
        manifest,
        backend: setup.backend,
        reader,
        store: setup.store,
        config: setup.config,
        observer: Arc::new(setup.log),
    };
    EngineHandle::start(parts, &|_, _| {})
        .err()
        .expect("no engine")
}

#[test]
fn what_cannot_be_served_does_not_start() {
    let model = model();
    for (name, backend) in backends(SEED) {
        println!("on {name}, seed {SEED}");
        refuses_to_start(&model, &backend);
    }
}

fn refuses_to_start(model: &TestModel, backend: &Arc<dyn Backend>) {
    let setup = || {
        let mut setup = Setup::new(model);
        setup.backend = backend.clone();
        setup
    };
    let changed = |change: &dyn Fn(&mut Manifest)| {
        let mut manifest = (*model.manifest).clone();
        change(&mut manifest);
        start_error(setup(), Arc::new(manifest), TestReader::new(model))
    };
    let error = changed(&|manifest| manifest.config.architecture = "gpt5".into());
    assert!(
        matches!(&error, StartError::Architecture { found, .. } if found == "gpt5"),
        "{error}"
    );
    assert!(error.to_string().contains("qwen3moe"), "{error}");

    let error = changed(&|manifest| drop(manifest.resident.remove("layers.2.q_proj")));
    assert!(
        matches!(&error, StartError::Shape(text) if text.contains("layers.2.q_proj is missing")),
        "{error}"
    );

    let error = changed(&|manifest| manifest.resident.get_mut("norm").unwrap().shape = vec![95]);
    assert!(
        matches!(&error, StartError::Shape(text) if text.contains("[95] in place of [96]")),
        "{error}"
    );

    let extra = model.manifest.resident["norm"].clone();
    let error = changed(&|manifest| {
        drop(
            manifest
                .resident
                .insert("layers.0.q_bias".into(), extra.clone()),
        )
    });
    assert!(
        matches!(&error, StartError::Shape(text) if text.contains("layers.0.q_bias")),
        "{error}"
    );

    let error = changed(&|manifest| {
        manifest.resident.get_mut("lm_head").unwrap().xxh3_128 = "0".repeat(32)
    });
    assert!(matches!(&error, StartError::Load(_)), "{error}");
    assert!(
        error.to_string().contains("tensor lm_head: checksum"),
        "{error}"
    );
    assert!(error.to_string().contains("base.safetensors"), "{error}");

    let mut setup = setup();
    setup.store.budget = ByteCount(1000);
    let error = start_error(setup, model.manifest.clone(), TestReader::new(model));
    assert!(
        matches!(error, StartError::Store(StoreError::BudgetTooSmall { .. })),
        "{error}"
    );
}

#[test]
fn loading_tells_its_progress() {
    let model = model();
    for setup in setups(&model, SEED) {
        let parts = EngineParts {
            manifest: model.manifest.clone(),
            backend: setup.backend,
            reader: setup.reader,
            store: setup.store,
            config: setup.config,
            observer: Arc::new(setup.log),
        };
        let seen = Mutex::new(Vec::new());
        let _engine = EngineHandle::start(parts, &|done, total| {
            seen.lock().unwrap().push((done, total))
        })
        .unwrap();
        let seen = seen.into_inner().unwrap();
        let total = ByteCount(model.files[0].len() as u64);
        assert_eq!(
            (seen[0], *seen.last().unwrap()),
            ((ByteCount(0), total), (total, total))
        );
        assert!(seen.is_sorted() && seen.len() > 3, "{seen:?}");
    }
}

/// Holds the engine's thread at its next op while closed.
#[derive(Clone, Default)]
struct Hold(Arc<Mutex<()>>);

impl Hold {
    fn new(setup: &Setup) -> (Self, Arc<HookedBackend>) {
        let hold = Self::default();
        let gate = hold.0.clone();
        let hook = move |_: &Op| {
            drop(gate.lock().unwrap());
            Ok(())
        };
        (
            hold,
            Arc::new(HookedBackend::new(setup.backend.clone(), hook)),
        )
    }

    fn close(&self) -> std::sync::MutexGuard<'_, ()> {
        self.0.lock().unwrap()
    }
}
