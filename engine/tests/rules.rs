//! Answers that keep to rules, beside others that have none.

mod support;

use odmoe_engine::{
    ConstraintError, FinishReason, Request, RequestError, TokenConstraint, TokenMask, TokenRules,
};
use odmoe_formats::BlockFormat;
use std::sync::Arc;
use support::engine::{Setup, greedy, setups};
use support::model::{Random, random_model, small_config};

const SEED: u64 = 17;

/// Allows the tokens of one line of a table at each place; an empty line is a fault, the table's end the answer's.
#[derive(Clone, Debug)]
struct Table(Vec<Vec<u32>>);

struct Follower {
    table: Vec<Vec<u32>>,
    place: usize,
}

impl TokenRules for Table {
    fn begin(&self) -> Box<dyn TokenConstraint> {
        let table = self.0.clone();
        Box::new(Follower { table, place: 0 })
    }
}

impl TokenConstraint for Follower {
    fn allow(&mut self, mask: &mut TokenMask) -> Result<(), ConstraintError> {
        assert!(mask.is_empty(), "the mask comes empty");
        for &token in &self.table[self.place] {
            mask.allow(token);
        }
        Ok(())
    }

    fn accept(&mut self, token: u32) -> Result<bool, ConstraintError> {
        assert!(
            self.table[self.place].contains(&token),
            "only what is allowed"
        );
        self.place += 1;
        if token == 13 {
            return Err(ConstraintError("thirteen".into()));
        }
        Ok(self.place == self.table.len())
    }
}

fn bound(table: Vec<Vec<u32>>, prompt: &[u32]) -> Request {
    Request {
        rules: Some(Arc::new(Table(table))),
        stop_token_ids: vec![0],
        ..greedy(prompt.to_vec(), 12)
    }
}

#[test]
fn tokens_keep_to_the_rules_and_others_do_not_notice() {
    let model = random_model(small_config(), BlockFormat::BF16, SEED);
    for setup in setups(&model, SEED) {
        let engine = setup.start();
        let prompt = Random(SEED).tokens(30, 199);
        let free = engine.answer(greedy(prompt.clone(), 12));
        let table = vec![vec![5], vec![7, 8, 9], vec![31, 32, 64], vec![198]];
        let requests = [
            greedy(prompt.clone(), 12),
            bound(table.clone(), &prompt),
            bound(table.clone(), &prompt),
            greedy(prompt.clone(), 12),
        ];
        let answers = engine.answers(&requests);
        for plain in [&answers[0], &answers[3]] {
            assert_eq!(plain.bits(), free.bits());
        }
        assert_eq!(answers[1].bits(), answers[2].bits());
        let tokens = &answers[1].tokens;
        assert_eq!(
            tokens.len(),
            table.len(),
            "it ends where nothing may follow"
        );
        assert_eq!(answers[1].finish_reason(), Some(FinishReason::Stop));
        for (token, allowed) in tokens.iter().zip(&table) {
            assert!(allowed.contains(token), "{tokens:?}");
        }
        // Logprobs are of what is allowed: a lone token is certain, and the rest of the vocabulary is nothing.
        let first = answers[1].logprobs[0].as_ref().unwrap();
        assert_eq!((first.chosen.token, first.chosen.logprob), (5, 0.0));
        let second = answers[1].logprobs[1].as_ref().unwrap();
        let sum: f32 = second.top.iter().map(|t| t.logprob.exp()).sum();
        assert!((sum - 1.0).abs() < 1e-6, "{second:?}");
        engine.wait_for_rest();
    }
}

#[test]
fn drawn_tokens_keep_to_the_rules_whatever_the_settings() {
    let model = random_model(small_config(), BlockFormat::BF16, SEED);
    let engine = Setup::new(&model).start();
    let allowed = vec![3, 33, 63, 95, 96, 127, 128, 160, 198];
    for (seed, top_k, min_p) in [(1, 0, 0.0), (2, 5, 0.0), (3, 0, 0.2), (4, 40, 0.05)] {
        let mut request = bound(vec![allowed.clone(); 40], &[1, 2, 3]);
        request.sampling.temperature = 2.0;
        request.sampling.seed = seed;
        request.sampling.top_k = top_k;
        request.sampling.min_p = min_p;
        request.sampling.repetition_penalty = 1.3;
        request.sampling.logit_bias = vec![(33, -100.0), (50, 100.0)];
        let answer = engine.answer(request);
        assert_eq!(answer.tokens.len(), 12);
        assert!(
            answer.tokens.iter().all(|t| allowed.contains(t)),
            "{answer:?}"
        );
    }
}

#[test]
fn rules_that_cannot_be_followed_end_their_request_alone() {
    let model = random_model(small_config(), BlockFormat::BF16, SEED);
    let engine = Setup::new(&model).start();
    let prompt = Random(SEED).tokens(30, 199);
    let free = engine.answer(greedy(prompt.clone(), 12));
    let tables = [
        vec![vec![5], vec![]],
        vec![vec![5], vec![13], vec![14]],
        vec![vec![100_000]],
    ];
    let mut requests = vec![greedy(prompt.clone(), 12)];
    requests.extend(tables.map(|table| bound(table, &prompt)));
    let answers = engine.answers(&requests);
    assert_eq!(answers[0].bits(), free.bits());
    for answer in &answers[1..] {
        let error = answer.error();
        assert!(
            matches!(error, Some(RequestError::Constraint(_))),
            "{answer:?}"
        );
    }
    assert_eq!(answers[1].tokens, [5]);
    engine.wait_for_rest();
}

#[test]
fn a_stop_token_ends_the_answer_without_being_followed() {
    let model = random_model(small_config(), BlockFormat::BF16, SEED);
    let engine = Setup::new(&model).start();
    let answer = engine.answer(bound(vec![vec![5], vec![0], vec![6]], &[1, 2]));
    assert_eq!(answer.tokens, [5, 0]);
    assert_eq!(answer.finish_reason(), Some(FinishReason::Stop));
}
