//! `POST /v1/chat/completions`.

mod messages;
pub(crate) mod prepare;
mod tools;

use super::answer::{Piece, TokenScore};
use super::app::App;
use super::body::{self, Body};
use super::error::ApiError;
use super::generation::Generation;
use super::job::{self, Job};
use super::record::Record;
use super::respond::{Dialect, End, ResponseHead, WholeAnswer, respond};
use crate::state::ServedModel;
use axum::Extension;
use axum::extract::{Request, State};
use axum::response::Response;
use odmoe_engine::TokenLogprob;
use odmoe_openapi::{
    AssistantMessage, ChatChoice, ChatChunkChoice, ChatCompletion, ChatCompletionChunk,
    ChatCompletionRequest, ChatDelta, ChatLogprobs, ChatTokenLogprob, ChatTopLogprob,
    ErrorResponse, FinishReason, FunctionCall, FunctionCallDelta, ToolCall, ToolCallDelta, Usage,
};
use odmoe_text::Tokenizer;
use odmoe_text::output::{OutputCall, OutputMessage, OutputPart};
use std::sync::Arc;

/// Continues a conversation.
#[utoipa::path(
    post,
    path = "/v1/chat/completions",
    tag = "completions",
    request_body = ChatCompletionRequest,
    responses(
        (status = 200, description = "The answer; with `stream`, server-sent events of chunks, ended by `[DONE]`",
            content((ChatCompletion = "application/json"), (ChatCompletionChunk = "text/event-stream"))),
        (status = 400, description = "A field is not allowed, or the conversation is too long", body = ErrorResponse),
        (status = 404, description = "Another model is served", body = ErrorResponse),
        (status = 413, description = "The body is too large", body = ErrorResponse),
        (status = 415, description = "The body is not JSON", body = ErrorResponse),
        (status = 429, description = "The queue is full; see `Retry-After`", body = ErrorResponse),
        (status = 500, description = "A part of the model could not be read, or a bug", body = ErrorResponse),
        (status = 503, description = "Loading or shutting down; see `Retry-After`", body = ErrorResponse),
    )
)]
pub(crate) async fn chat_completions(
    State(app): State<Arc<App>>,
    Extension(record): Extension<Arc<Record>>,
    request: Request,
) -> Result<Response, ApiError> {
    let admitted = app.admit()?;
    let body = body::receive(&app, request).await?;
    let (model, shared) = (Arc::clone(&admitted.model), Arc::clone(&app));
    let (job, dialect) = app
        .blocking(move || prepare(&shared, &model, &body))
        .await?;
    let generation = Generation::start(&app, admitted, &job, record)?;
    respond(generation, dialect, job.delivery, app.config.keep_alive).await
}

fn prepare(app: &App, model: &ServedModel, body: &Body) -> Result<(Job, ChatDialect), ApiError> {
    body.check_values(&app.config.limits, "")?;
    let request = ChatCompletionRequest {
        structured: body.parse()?,
        ..body.parse()?
    };
    let job = prepare::job(app, model, request, body.parse()?)?;
    let dialect = ChatDialect {
        head: ResponseHead::new("chatcmpl", &model.name),
        tokenizer: model.tokenizer.clone(),
        with_logprobs: job.logprobs.is_some(),
    };
    Ok((job, dialect))
}

struct ChatDialect {
    head: ResponseHead,
    tokenizer: Tokenizer,
    with_logprobs: bool,
}

impl ChatDialect {
    fn chunk(&self, choices: Vec<ChatChunkChoice>, usage: Option<Usage>) -> ChatCompletionChunk {
        ChatCompletionChunk {
            id: self.head.id.clone(),
            object: "chat.completion.chunk".into(),
            created: self.head.created,
            model: self.head.model.clone(),
            system_fingerprint: self.head.system_fingerprint.clone(),
            choices,
            usage,
        }
    }

    fn choice(
        &self,
        index: u32,
        delta: ChatDelta,
        scores: &[TokenScore],
        finish_reason: Option<FinishReason>,
    ) -> ChatCompletionChunk {
        let logprobs = (!scores.is_empty()).then(|| self.logprobs(scores));
        self.chunk(
            vec![ChatChunkChoice {
                index,
                delta,
                logprobs,
                finish_reason,
            }],
            None,
        )
    }

    fn logprobs(&self, scores: &[TokenScore]) -> ChatLogprobs {
        ChatLogprobs {
            content: token_logprobs(&self.tokenizer, scores),
        }
    }
}

/// Scores with the text of their tokens.
pub(crate) fn token_logprobs(
    tokenizer: &Tokenizer,
    scores: &[TokenScore],
) -> Vec<ChatTokenLogprob> {
    let token = |scored: &TokenLogprob| {
        let bytes = tokenizer.token_bytes(scored.token);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        (text, job::finite(scored.logprob), bytes)
    };
    let top = |scored: &TokenLogprob| {
        let (token, logprob, bytes) = token(scored);
        ChatTopLogprob {
            token,
            logprob,
            bytes,
        }
    };
    let one = |score: &TokenScore| {
        let (token, logprob, bytes) = token(&score.logprobs.chosen);
        ChatTokenLogprob {
            token,
            logprob,
            bytes,
            top_logprobs: score.logprobs.top.iter().map(top).collect(),
        }
    };
    scores.iter().map(one).collect()
}

fn delta(part: OutputPart) -> ChatDelta {
    let mut delta = ChatDelta::default();
    match part {
        OutputPart::Content(text) => delta.content = Some(text),
        OutputPart::Reasoning(text) => delta.reasoning_content = Some(text),
        OutputPart::ToolCall { index, id, name } => delta.tool_calls.push(ToolCallDelta {
            index,
            id: Some(id),
            kind: Some("function".into()),
            function: FunctionCallDelta {
                name: Some(name),
                arguments: String::new(),
            },
        }),
        OutputPart::Arguments { index, text } => delta.tool_calls.push(ToolCallDelta {
            index,
            function: FunctionCallDelta {
                name: None,
                arguments: text,
            },
            ..ToolCallDelta::default()
        }),
    }
    delta
}

fn message(message: OutputMessage) -> AssistantMessage {
    let call = |call: OutputCall| ToolCall {
        id: call.id,
        kind: "function".into(),
        function: FunctionCall {
            name: call.name,
            arguments: call.arguments,
        },
    };
    let is_silent = message.content.is_empty() && !message.tool_calls.is_empty();
    AssistantMessage {
        role: "assistant".into(),
        content: (!is_silent).then_some(message.content),
        reasoning_content: (!message.reasoning.is_empty()).then_some(message.reasoning),
        tool_calls: message.tool_calls.into_iter().map(call).collect(),
        refusal: None,
    }
}

impl Dialect for ChatDialect {
    type Chunk = ChatCompletionChunk;
    type Whole = ChatCompletion;

    fn opening(&mut self, index: u32) -> Vec<ChatCompletionChunk> {
        let delta = ChatDelta {
            role: Some("assistant".into()),
            content: Some(String::new()),
            ..ChatDelta::default()
        };
        vec![self.choice(index, delta, &[], None)]
    }

    /// One chunk a part; scores come with the first.
    fn piece(&mut self, index: u32, piece: Piece) -> Vec<ChatCompletionChunk> {
        let mut scores = piece.scores;
        let chunk = |part| {
            let scores = std::mem::take(&mut scores);
            self.choice(index, delta(part), &scores, None)
        };
        piece.parts.into_iter().map(chunk).collect()
    }

    fn ending(
        &mut self,
        index: u32,
        scores: Vec<TokenScore>,
        end: End,
    ) -> Vec<ChatCompletionChunk> {
        vec![self.choice(index, ChatDelta::default(), &scores, Some(end.reason))]
    }

    fn usage(&mut self, usage: Usage) -> Vec<ChatCompletionChunk> {
        vec![self.chunk(Vec::new(), Some(usage))]
    }

    fn whole(self, answers: Vec<WholeAnswer>, usage: Usage) -> ChatCompletion {
        let choice = |(index, answer): (usize, WholeAnswer)| ChatChoice {
            index: index as u32,
            logprobs: self.with_logprobs.then(|| self.logprobs(&answer.scores)),
            message: message(answer.message),
            finish_reason: answer.end.reason,
        };
        ChatCompletion {
            id: self.head.id.clone(),
            object: "chat.completion".into(),
            created: self.head.created,
            model: self.head.model.clone(),
            system_fingerprint: self.head.system_fingerprint.clone(),
            choices: answers.into_iter().enumerate().map(choice).collect(),
            usage,
        }
    }
}
