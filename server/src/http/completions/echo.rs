//! `echo`: the prompt before its answers, with the scores of its tokens where logprobs are asked for.

use super::super::app::App;
use super::super::batch::{Batch, Outcome, Reply};
use super::super::error::ApiError;
use super::super::job::Job;
use super::super::record::Record;
use crate::state::ServedModel;
use odmoe_engine::{FinishReason, PositionLogprobs, TokenEvent, TokenSink};
use odmoe_openapi::Prompt;
use odmoe_text::{IncrementalDetokenizer, Tokenizer};
use std::sync::Arc;

/// A prompt as it is sent back.
pub(super) struct EchoedPrompt {
    pub(super) text: String,
    tokens: Vec<u32>,
    /// Of all tokens but the first, which nothing comes before; empty where they are not asked for.
    pub(super) scores: Vec<PositionLogprobs>,
}

impl EchoedPrompt {
    /// Where each token begins in the text, in characters. Tokens that were put before a given text take no room in it.
    pub(super) fn offsets(&self, tokenizer: &Tokenizer) -> Vec<usize> {
        let mut detokenizer = IncrementalDetokenizer::new(tokenizer.clone(), false);
        let mut at = 0;
        let mut offsets = Vec::with_capacity(self.tokens.len());
        for token in &self.tokens {
            offsets.push(at);
            at += detokenizer.push(*token).chars().count();
        }
        let added = at.saturating_sub(self.text.chars().count());
        offsets
            .into_iter()
            .map(|at| at.saturating_sub(added))
            .collect()
    }

    pub(super) fn tokens(&self) -> &[u32] {
        &self.tokens
    }
}

/// The prompts with their texts: as they were given, or else as their tokens say.
pub(super) fn echoed(
    given: &Prompt,
    tokens: &[Vec<u32>],
    tokenizer: &Tokenizer,
) -> Vec<EchoedPrompt> {
    let text = |place: usize| match given {
        Prompt::Text(text) => text.clone(),
        Prompt::Texts(texts) => texts[place].clone(),
        Prompt::Tokens(_) | Prompt::TokenLists(_) => tokenizer.decode(&tokens[place], false),
    };
    let one = |(place, tokens): (usize, &Vec<u32>)| EchoedPrompt {
        text: text(place),
        tokens: tokens.clone(),
        scores: Vec::new(),
    };
    tokens.iter().enumerate().map(one).collect()
}

/// Scores the prompts, token after token: as if the model had been made to answer each first token by the others.
pub(super) async fn score(
    app: &App,
    model: &Arc<ServedModel>,
    job: &Job,
    (record, top): (&Record, u32),
    prompts: &mut [EchoedPrompt],
) -> Result<(), ApiError> {
    let scored: Vec<usize> = (0..prompts.len())
        .filter(|place| prompts[*place].tokens.len() > 1)
        .collect();
    let submit = |model: &ServedModel, place: usize, reply: Reply<Vec<PositionLogprobs>>| {
        let tokens = &prompts[scored[place]].tokens;
        let sink = Scores {
            reply,
            scores: Vec::new(),
        };
        let (first, rest) = tokens.split_at(1);
        model.engine.score(
            record.client(),
            first.to_vec(),
            rest.to_vec(),
            top,
            Box::new(sink),
        )
    };
    let refuse = |error| ApiError::submit(error, job.prompt_param, app.config.retry_after);
    let mut batch = Batch::new(app, Arc::clone(model), record, job.delivery);
    let scores = batch.run(scored.len(), submit, refuse).await?;
    for (place, scores) in scored.into_iter().zip(scores) {
        prompts[place].scores = scores;
    }
    Ok(())
}

/// Collects the scores of one prompt.
struct Scores {
    reply: Reply<Vec<PositionLogprobs>>,
    scores: Vec<PositionLogprobs>,
}

impl TokenSink for Scores {
    fn emit(&mut self, event: TokenEvent) {
        match event {
            TokenEvent::Prefilled { .. } => {}
            TokenEvent::Token { logprobs, .. } => {
                self.reply.moved();
                self.scores.extend(logprobs);
            }
            TokenEvent::Finished {
                reason: FinishReason::Cancelled,
                ..
            } => self.reply.send(Outcome::Cancelled),
            TokenEvent::Finished { .. } => {
                let scores = std::mem::take(&mut self.scores);
                self.reply.send(Outcome::Done(scores));
            }
            TokenEvent::Failed { error } => self.reply.send(Outcome::Failed(error)),
        }
    }

    fn is_closed(&self) -> bool {
        self.reply.is_closed()
    }
}
