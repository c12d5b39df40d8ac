//! What was computed for one request and is found by another gives the very bits that computing it again would
//! (promise P1b), whoever computed it, in whatever company, under paging, preemption and late completion.

mod support;

use odmoe_backend::KvFormat;
use odmoe_engine::{ClientId, Pooling, PrefixCache, Request, SamplingParams};
use odmoe_formats::BlockFormat;
use support::engine::{Setup, TestEngine, backends, greedy};
use support::model::{Random, random_model, small_config};
use support::oracle::{Counts, Oracle, reference};
use support::reader::Fault;

const SEED: u64 = 20_261_122;
const BLOCK: usize = 16;

/// Prompts that begin alike: forks of one text before, at and behind the ends of blocks, sampled and greedy, and the
/// same prompt several times.
fn forks(vocab: u32) -> Vec<Request> {
    let mut random = Random(SEED);
    let text = random.tokens(150, vocab);
    let lengths = [
        (0, 40),
        (15, 20),
        (16, 1),
        (47, 30),
        (64, 9),
        (100, 50),
        (150, 0),
        (150, 0),
        (149, 1),
    ];
    let request = |(index, (shared, own)): (usize, (usize, usize))| {
        let mut prompt = text[..shared].to_vec();
        prompt.extend(random.tokens(own, vocab));
        let mut request = greedy(prompt, 12 + index as u32);
        if index % 2 == 1 {
            request.sampling = SamplingParams {
                seed: index as u64,
                top_k: 40,
                repetition_penalty: 1.1,
                ..Default::default()
            };
        }
        request
    };
    lengths.into_iter().enumerate().map(request).collect()
}

/// Asks one after another.
fn in_turn(engine: &TestEngine, requests: &[Request]) -> Vec<usize> {
    let answers: Vec<_> = requests.iter().map(|r| engine.answer(r.clone())).collect();
    answers
        .iter()
        .map(|answer| answer.cached_tokens.expect("told before the first token"))
        .collect()
}

fn oracle(format: BlockFormat) -> Oracle {
    let model = random_model(small_config(), format, SEED);
    let requests = forks(model.manifest.config.vocab_size);
    Oracle::new(model, requests)
}

#[test]
fn what_is_found_gives_the_same_bits() {
    for format in [BlockFormat::BF16, BlockFormat::Q8_0] {
        let oracle = oracle(format);
        for budget in [100, 25].map(|percent| oracle.percent(percent)) {
            for chunk in [7, 64] {
                let what = format!("{format}, {budget}, chunks of {chunk}, seed {SEED}");
                let mut setup = Setup::new(&oracle.model);
                setup.store.budget = budget;
                setup.config.prefill_chunk_tokens = chunk;
                let engine = setup.start();
                for (index, request) in oracle.requests.iter().chain(&oracle.requests).enumerate() {
                    let answer = engine.answer(request.clone());
                    let place = index % oracle.requests.len();
                    assert_eq!(answer.bits(), oracle.expected[place], "{what}, {index}");
                    if index >= oracle.requests.len() {
                        let most = (request.prompt.len() - 1) / BLOCK * BLOCK;
                        assert_eq!(answer.cached_tokens, Some(most), "{what}, {index} again");
                    }
                }
                engine.wait_for_rest();
            }
        }
    }
}

#[test]
fn every_storage_of_keys_and_values_is_found_as_it_was_stored() {
    let mut config = small_config();
    config.head_dim = 32;
    let model = random_model(config, BlockFormat::Q8_0, SEED);
    let requests = forks(model.manifest.config.vocab_size);
    for format in [KvFormat::F32, KvFormat::F16, KvFormat::Q8_0] {
        let answers = |prefix_cache| {
            let mut setup = Setup::new(&model);
            setup.config.kv_format = format;
            setup.config.prefix_cache = prefix_cache;
            let engine = setup.start();
            let answers = requests.iter().map(|r| engine.answer(r.clone()).bits());
            (answers.collect::<Vec<_>>(), engine.log.events())
        };
        let (whole, none) = answers(PrefixCache::Off);
        let (found, some) = answers(PrefixCache::PerClient);
        assert_eq!(found, whole, "{format:?}");
        assert_eq!(Counts::of(&none).prefixes.queried, 0);
        assert!(Counts::of(&some).prefixes.found > 0);
    }
}

#[test]
fn sharing_in_company_and_under_preemption_changes_no_answer() {
    let oracle = oracle(BlockFormat::BF16);
    for (name, backend) in backends(SEED) {
        let counts = oracle.check(&format!("{name}, roomy, seed {SEED}"), |setup| {
            setup.backend = backend.clone();
            setup.config.prefill_chunk_tokens = 32;
        });
        assert!(counts.prefixes.found > 0, "{name}: nothing was shared");
        // Who is preempted depends on who comes when: a few rounds, each with the same answers.
        let tiny = |round: usize| {
            oracle.check(
                &format!("{name}, a tiny KV cache, round {round}, seed {SEED}"),
                |setup| {
                    setup.backend = backend.clone();
                    setup.config.kv_block_tokens = 8;
                    setup.config.kv_blocks = 24;
                    setup.store.budget = oracle.percent(50);
                },
            )
        };
        let found = (0..20).map(tiny).any(|counts| {
            assert!(counts.prefixes.found > 0, "{name}: nothing was shared");
            counts.preemptions > 0
        });
        assert!(found, "{name}: nothing was preempted");
    }
}

#[test]
fn a_conversation_is_computed_once() {
    let model = random_model(small_config(), BlockFormat::Q8_0, SEED);
    let vocab = model.manifest.config.vocab_size;
    let mut random = Random(SEED + 1);
    let engine = Setup::new(&model).start();
    let mut turns = random.tokens(50, vocab);
    for turn in 0..4 {
        let request = greedy(turns.clone(), 21);
        let answer = engine.answer(request.clone());
        assert_eq!(
            [answer.bits()].to_vec(),
            reference(&model, &[request]),
            "turn {turn}"
        );
        if turn > 0 {
            // All but what was said since, the last token of the answer before, and a part of a block.
            let known = turns.len() - 7 - 1;
            assert_eq!(answer.cached_tokens, Some(known / BLOCK * BLOCK));
        }
        turns.extend(&answer.tokens);
        turns.extend(random.tokens(7, vocab));
    }
}

#[test]
fn clients_share_only_where_they_are_told_to() {
    let model = random_model(small_config(), BlockFormat::Q8_0, SEED);
    let prompt = Random(SEED).tokens(40, model.manifest.config.vocab_size);
    let of = |client| Request {
        client: ClientId(client),
        ..greedy(prompt.clone(), 3)
    };
    for (prefix_cache, expected) in [
        (PrefixCache::Off, [0, 0, 0]),
        (PrefixCache::PerClient, [0, 0, 32]),
        (PrefixCache::Shared, [0, 32, 32]),
    ] {
        let mut setup = Setup::new(&model);
        setup.config.prefix_cache = prefix_cache;
        let engine = setup.start();
        let found = in_turn(&engine, &[of(1), of(2), of(1)]);
        assert_eq!(found, expected, "{prefix_cache:?}");
    }
}

#[test]
fn scores_and_embeddings_of_what_is_remembered_are_the_same() {
    let model = random_model(small_config(), BlockFormat::Q8_0, SEED);
    let text = Random(SEED).tokens(70, model.manifest.config.vocab_size);
    let bits = |prefix_cache| {
        let mut setup = Setup::new(&model);
        setup.config.prefix_cache = prefix_cache;
        let engine = setup.start();
        engine.answer(greedy(text.clone(), 3));
        let embedded = [Pooling::Mean, Pooling::Last, Pooling::Mean]
            .map(|pooling| engine.embedding(&text, pooling))
            .map(|values| {
                values
                    .iter()
                    .map(|value| value.to_bits())
                    .collect::<Vec<_>>()
            });
        let listener = support::sink::Listener::default();
        let (prompt, rest) = (text[..50].to_vec(), text[50..].to_vec());
        let scored = engine
            .handle
            .score(ClientId::default(), prompt, rest, 2, listener.sink());
        scored.expect("room in the queue");
        let scores = listener.wait();
        (embedded, scores.bits(), scores.cached_tokens)
    };
    let (embedded, scores, none) = bits(PrefixCache::Off);
    let (found_embedded, found_scores, some) = bits(PrefixCache::PerClient);
    assert_eq!((none, some), (Some(0), Some(48)));
    assert!(found_embedded == embedded, "an embedding changed");
    assert_eq!(found_scores, scores);
}

#[test]
fn what_failed_is_not_remembered() {
    let model = random_model(small_config(), BlockFormat::Q8_0, SEED);
    let request = greedy(Random(SEED).tokens(70, model.manifest.config.vocab_size), 5);
    let expected = reference(&model, std::slice::from_ref(&request));
    let mut setup = Setup::new(&model);
    setup.config.prefill_chunk_tokens = 32;
    let engine = setup.start();
    let key = model.manifest.objects.last().expect("experts").key;
    engine.reader.set_faults([key], Fault::Fail);
    let answer = engine.answer(request.clone());
    assert!(answer.error().is_some(), "nobody needed {key}");
    engine.reader.heal();
    engine.wait_until("well again", |engine| {
        engine.answer(request.clone()).error().is_none()
    });
    assert_eq!(engine.answer(request).bits(), expected[0]);
}
