//! A known text's logprobs are those that generating it would have had.

mod support;

use odmoe_engine::{ClientId, FinishReason, SubmitError};
use odmoe_expert_store::Catalog;
use odmoe_formats::BlockFormat;
use support::engine::{Setup, TestEngine, backends, greedy};
use support::model::{Random, random_model, small_config};
use support::sink::{Answer, Listener};

const SEED: u64 = 31;

fn score(engine: &TestEngine, prompt: &[u32], continuation: &[u32]) -> Answer {
    let listener = Listener::default();
    let submitted = engine.handle.score(
        ClientId(1),
        prompt.to_vec(),
        continuation.to_vec(),
        3,
        listener.sink(),
    );
    submitted.expect("room in the queue");
    listener.wait()
}

#[test]
fn the_score_of_a_greedy_answer_is_its_generations_logprobs() {
    for format in [BlockFormat::BF16, BlockFormat::Q8_0] {
        let model = random_model(small_config(), format, SEED);
        for (name, backend) in backends(SEED) {
            let mut setup = Setup::new(&model);
            setup.backend = backend;
            setup.store.budget = Catalog::new(&model.manifest).least_budget();
            let engine = setup.start();
            let prompt = Random(SEED).tokens(70, 199);
            let generated = engine.answer(greedy(prompt.clone(), 90));
            let scored = score(&engine, &prompt, &generated.tokens);
            let what = format!("{format} on {name}, seed {SEED}");
            assert_eq!(generated.tokens.len(), 90, "{what}");
            assert_eq!(scored.bits(), generated.bits(), "{what}");
            assert_eq!(scored.finish_reason(), Some(FinishReason::Length), "{what}");
            engine.wait_for_rest();
        }
    }
}

#[test]
fn a_text_that_the_model_would_not_choose_is_scored_all_the_same() {
    let model = random_model(small_config(), BlockFormat::BF16, SEED);
    let engine = Setup::new(&model).start();
    let prompt = Random(SEED).tokens(5, 199);
    let chosen = engine.answer(greedy(prompt.clone(), 4));
    let mut other = chosen.tokens.clone();
    other[1] = (other[1] + 1) % 199;
    let scored = score(&engine, &prompt, &other);
    assert_eq!(scored.tokens, other);
    // Both texts share their first token, and what the model expected in place of the second.
    assert_eq!(scored.bits()[0], chosen.bits()[0]);
    assert_eq!(scored.bits()[1].1[1..], chosen.bits()[1].1[1..]);
    let logprob = |answer: &Answer| answer.logprobs[1].as_ref().unwrap().chosen.logprob;
    assert!(logprob(&scored) < logprob(&chosen));
    assert_ne!(scored.bits()[2], chosen.bits()[2]);
}

#[test]
fn nothing_to_score_is_refused() {
    let model = random_model(small_config(), BlockFormat::BF16, SEED);
    let engine = Setup::new(&model).start();
    let sink = Listener::default().sink();
    let refused = engine
        .handle
        .score(ClientId(1), vec![1, 2], vec![], 3, sink);
    assert!(
        matches!(refused, Err(SubmitError::BadPrompt(_))),
        "{refused:?}"
    );
    let sink = Listener::default().sink();
    let refused = engine
        .handle
        .score(ClientId(1), vec![1, 2], vec![199], 3, sink);
    assert!(
        matches!(refused, Err(SubmitError::BadPrompt(_))),
        "{refused:?}"
    );
}
