//! Embeddings: the same bits however they are computed, one end each, and nothing left behind.

mod support;

use odmoe_engine::{
    ClientId, EmbeddingEnd, EmbeddingRequest, Pooling, PrefixCache, RequestError, SubmitError,
};
use odmoe_expert_store::Catalog;
use odmoe_formats::BlockFormat;
use support::engine::{Setup, backends, greedy};
use support::model::{Random, TestModel, random_model, small_config};
use support::oracle::Counts;
use support::sink::EmbeddingListener;

const SEED: u64 = 61;
const POOLINGS: [Pooling; 2] = [Pooling::Mean, Pooling::Last];

fn model() -> TestModel {
    random_model(small_config(), BlockFormat::Q8_0, SEED)
}

fn texts() -> Vec<Vec<u32>> {
    let mut random = Random(SEED);
    [1, 15, 16, 17, 64, 65, 130]
        .map(|tokens| random.tokens(tokens, 199))
        .into()
}

type Bits = Vec<Vec<u32>>;

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// Each text alone, by an engine in which nothing pages and nothing is remembered.
fn alone(model: &TestModel) -> Bits {
    let mut setup = Setup::new(model);
    setup.config.prefix_cache = PrefixCache::Off;
    let engine = setup.start();
    let pairs = texts()
        .into_iter()
        .flat_map(|text| POOLINGS.map(|pooling| (text.clone(), pooling)));
    pairs
        .map(|(text, pooling)| bits(&engine.embedding(&text, pooling)))
        .collect()
}

/// All texts at once, beside answers, by an engine that is made otherwise.
fn together(model: &TestModel, change: impl FnOnce(&mut Setup)) -> (Bits, Counts) {
    let mut setup = Setup::new(model);
    change(&mut setup);
    let engine = setup.start();
    let request = |other| greedy(Random(SEED + other).tokens(70, 199), 60);
    let answers: Vec<_> = (0..3)
        .map(|other| engine.submit(request(other)).1)
        .collect();
    let listeners: Vec<_> = texts()
        .iter()
        .flat_map(|text| POOLINGS.map(|pooling| engine.submit_text(text, pooling).1))
        .collect();
    let found = listeners.iter().map(|listener| match listener.wait() {
        EmbeddingEnd::Done { values, timings } => {
            assert_eq!(timings.decode, Default::default(), "a text has no decode");
            bits(&values)
        }
        other => panic!("{other:?}"),
    });
    let found = found.collect();
    for answer in &answers {
        assert_eq!(answer.wait().tokens.len(), 60);
    }
    engine.wait_for_rest();
    (found, Counts::of(&engine.log.events()))
}

#[test]
fn neither_chunks_nor_paging_nor_company_change_a_bit() {
    let model = model();
    let expected = alone(&model);
    for chunk in [1, 7, 64, 512] {
        let (found, _) = together(&model, |setup| setup.config.prefill_chunk_tokens = chunk);
        assert!(found == expected, "chunks of {chunk}, seed {SEED}");
    }
    for (name, backend) in backends(SEED) {
        let (found, counts) = together(&model, |setup| {
            setup.backend = backend;
            setup.store.budget = Catalog::new(&model.manifest).least_budget();
        });
        assert!(found == expected, "the least budget on {name}, seed {SEED}");
        assert!(counts.evictions > 0, "{name}: it pages");
    }
}

#[test]
fn a_text_that_loses_its_blocks_is_embedded_all_the_same() {
    let model = model();
    let expected = alone(&model);
    let (found, counts) = together(&model, |setup| {
        setup.config.kv_blocks = 12;
        setup.config.prefill_chunk_tokens = 7;
    });
    assert!(found == expected, "seed {SEED}");
    assert!(counts.preemptions > 0, "not tiny enough to preempt");
}

#[test]
fn poolings_differ_and_a_text_of_one_token_is_its_own_mean() {
    let model = model();
    let found = alone(&model);
    assert_eq!(found[0], found[1]);
    for pair in found.chunks(2).skip(1) {
        assert_ne!(pair[0], pair[1]);
    }
}

#[test]
fn what_nobody_wants_ends_and_leaves_nothing() {
    let model = model();
    let engine = Setup::new(&model).slowed().start();
    let text = Random(SEED).tokens(1500, 199);
    let (id, cancelled) = engine.submit_text(&text, Pooling::Mean);
    let (_, left) = engine.submit_text(&text, Pooling::Last);
    let (_, kept) = engine.submit_text(&text[..20], Pooling::Last);
    engine.handle.cancel(id);
    left.close();
    assert!(matches!(cancelled.wait(), EmbeddingEnd::Cancelled));
    assert!(matches!(left.wait(), EmbeddingEnd::Cancelled));
    assert!(matches!(kept.wait(), EmbeddingEnd::Done { .. }));
    engine.wait_for_rest();
    let (_, stopped) = engine.submit_text(&text, Pooling::Mean);
    engine.handle.stop();
    let end = stopped.wait();
    let is_told = matches!(end, EmbeddingEnd::Failed(RequestError::ShuttingDown));
    assert!(is_told, "{end:?}");
}

#[test]
fn what_cannot_be_embedded_is_refused() {
    let model = model();
    let engine = Setup::new(&model).start();
    let embed = |tokens: Vec<u32>| {
        let pooling = Pooling::Mean;
        let request = EmbeddingRequest {
            client: ClientId::default(),
            tokens,
            pooling,
        };
        engine
            .handle
            .embed(request, EmbeddingListener::default().sink())
            .map(|_| ())
    };
    for bad in [vec![], vec![199]] {
        assert!(matches!(embed(bad), Err(SubmitError::BadPrompt(_))));
    }
    let limit = 2048;
    let too_long = SubmitError::TooLong {
        prompt: limit,
        new: 1,
        limit,
    };
    assert_eq!(embed(vec![1; limit]), Err(too_long));
    assert_eq!(embed(vec![1; limit - 1]), Ok(()));
}
