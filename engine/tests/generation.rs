//! Requests from end to end on a random model.

mod support;

use odmoe_engine::{FinishReason, SubmitError};
use odmoe_formats::BlockFormat;
use support::engine::{Setup, greedy};
use support::model::{Random, random_model, small_config};

#[test]
fn a_greedy_answer_ends_at_its_length() {
    let model = random_model(small_config(), BlockFormat::BF16, 1);
    let engine = Setup::new(&model).start();
    let answer = engine.answer(greedy(vec![5, 17, 33], 12));
    assert_eq!(answer.tokens.len(), 12);
    assert_eq!(answer.finish_reason(), Some(FinishReason::Length));
    assert!(answer.tokens.iter().all(|&token| token < 199));
    engine.wait_for_rest();
}
