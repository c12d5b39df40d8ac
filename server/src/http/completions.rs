//! `POST /v1/completions`.

use super::Limits;
use super::answer::{Piece, TokenScore};
use super::app::App;
use super::body::{self, Body};
use super::constraint;
use super::error::ApiError;
use super::generation::Generation;
use super::job::{self, Delivery, Job, Sampling};
use super::record::Record;
use super::respond::{Dialect, End, ResponseHead, WholeAnswer, respond};
use crate::state::ServedModel;
use axum::Extension;
use axum::extract::{Request, State};
use axum::response::Response;
use odmoe_openapi::{
    Completion, CompletionChoice, CompletionLogprobs, CompletionRequest, ErrorResponse,
    FinishReason, Prompt, Usage,
};
use odmoe_text::Tokenizer;
use odmoe_text::grammar::AnswerGrammar;
use odmoe_text::output::OutputFormat;
use std::fmt::Write;
use std::sync::Arc;

/// What OpenAI's API gives a request without `max_tokens`.
const DEFAULT_MAX_TOKENS: u32 = 16;

/// Continues text.
#[utoipa::path(
    post,
    path = "/v1/completions",
    tag = "completions",
    request_body = CompletionRequest,
    responses(
        (status = 200, description = "The answer; with `stream`, server-sent events of pieces, ended by `[DONE]`",
            content((Completion = "application/json"), (Completion = "text/event-stream"))),
        (status = 400, description = "A field is not allowed, or the prompt is too long", body = ErrorResponse),
        (status = 404, description = "Another model is served", body = ErrorResponse),
        (status = 413, description = "The body is too large", body = ErrorResponse),
        (status = 415, description = "The body is not JSON", body = ErrorResponse),
        (status = 429, description = "The queue is full; see `Retry-After`", body = ErrorResponse),
        (status = 500, description = "A part of the model could not be read, or a bug", body = ErrorResponse),
        (status = 503, description = "Loading or shutting down; see `Retry-After`", body = ErrorResponse),
    )
)]
pub(crate) async fn completions(
    State(app): State<Arc<App>>,
    Extension(record): Extension<Arc<Record>>,
    request: Request,
) -> Result<Response, ApiError> {
    let admitted = app.admit()?;
    let body = body::receive(&app, request).await?;
    let (model, shared) = (Arc::clone(&admitted.model), Arc::clone(&app));
    let (job, dialect) = app.blocking(move || prepare(&shared, model, &body)).await?;
    let generation = Generation::start(&app, admitted, &job, record)?;
    respond(generation, dialect, job.delivery, app.config.keep_alive).await
}

fn prepare(
    app: &App,
    model: Arc<ServedModel>,
    body: &Body,
) -> Result<(Job, CompletionDialect), ApiError> {
    let limits = &app.config.limits;
    body.check_values(limits, "prompt")?;
    let request: CompletionRequest = body.parse()?;
    job::check_model(request.model.as_deref(), &model, &app.config.model_aliases)?;
    let sampling = Sampling::new(body.parse()?, &model, limits)?;
    let delivery = Delivery::new(request.stream, request.stream_options.as_ref())?;
    let logprobs = request
        .logprobs
        .map(|top| job::top_logprobs("logprobs", top, limits))
        .transpose()?;
    let max_new_tokens = job::max_new_tokens(
        "max_tokens",
        request.max_tokens.or(Some(DEFAULT_MAX_TOKENS)),
    )?;
    check_supported(&request, sampling.n)?;
    let prompts = prompts(request.prompt, &model, max_new_tokens, limits)?;
    let bound = constraint::bound(request.response_format.as_ref(), &body.parse()?)?;
    let answers = prompts.len() * sampling.n as usize;
    if answers > limits.answers {
        let most = limits.answers;
        let message = format!("prompts times n are {answers} answers; at most {most} fit");
        return Err(ApiError::invalid("n", message));
    }
    job::check_capacity(prompts.len(), sampling.n, &model)?;
    let rules = bound.map(|bound| {
        let grammar = AnswerGrammar::new(bound.body, OutputFormat::default(), &model.tokenizer);
        constraint::rules(grammar, bound.param, &model, app.config.retry_after)
    });
    let job = Job {
        prompts,
        prompt_param: "prompt",
        sampling,
        max_new_tokens,
        logprobs,
        rules: rules.transpose()?,
        output: OutputFormat::default(),
        delivery,
    };
    let dialect = CompletionDialect {
        head: ResponseHead::new("cmpl", &model.name),
        tokenizer: model.tokenizer.clone(),
        with_logprobs: logprobs.is_some(),
    };
    Ok((job, dialect))
}

fn check_supported(request: &CompletionRequest, n: u32) -> Result<(), ApiError> {
    if request.echo == Some(true) {
        return Err(ApiError::unsupported("echo", "echo is not supported"));
    }
    if request
        .suffix
        .as_ref()
        .is_some_and(|suffix| !suffix.is_empty())
    {
        return Err(ApiError::unsupported("suffix", "suffix is not supported"));
    }
    match request.best_of {
        Some(best_of) if best_of < n => {
            let message = format!("best_of is {best_of}; it must not be below n, {n}");
            Err(ApiError::invalid("best_of", message))
        }
        Some(best_of) if best_of > n => Err(ApiError::unsupported(
            "best_of",
            "best_of above n is not supported",
        )),
        _ => Ok(()),
    }
}

/// Token ids of each prompt.
fn prompts(
    given: Option<Prompt>,
    model: &ServedModel,
    max_new_tokens: Option<u32>,
    limits: &Limits,
) -> Result<Vec<Vec<u32>>, ApiError> {
    let refuse = |message: String| ApiError::invalid("prompt", message);
    let encode = |text: &String| job::encode(model, text, true, "prompt", max_new_tokens);
    if given
        .as_ref()
        .is_some_and(|given| given.prompts() > limits.prompts)
    {
        let most = limits.prompts;
        return Err(refuse(format!(
            "prompt has more than {most} entries; at most {most} fit"
        )));
    }
    let prompts = match given {
        None => return Err(refuse("prompt is missing".into())),
        Some(Prompt::Text(text)) => vec![encode(&text)?],
        Some(Prompt::Tokens(tokens)) => vec![tokens],
        Some(Prompt::Texts(texts)) => texts.iter().map(encode).collect::<Result<_, _>>()?,
        Some(Prompt::TokenLists(lists)) => lists,
    };
    if prompts.iter().any(Vec::is_empty) {
        return Err(refuse(
            "a prompt is empty; it must have at least one token".into(),
        ));
    }
    job::check_token_ids("prompt", prompts.iter().flatten(), model)?;
    Ok(prompts)
}

struct CompletionDialect {
    head: ResponseHead,
    tokenizer: Tokenizer,
    with_logprobs: bool,
}

impl CompletionDialect {
    fn completion(&self, choices: Vec<CompletionChoice>, usage: Option<Usage>) -> Completion {
        Completion {
            id: self.head.id.clone(),
            object: "text_completion".into(),
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
        text: String,
        scores: &[TokenScore],
        finish_reason: Option<FinishReason>,
    ) -> CompletionChoice {
        let logprobs = self.with_logprobs.then(|| self.logprobs(scores));
        CompletionChoice {
            index,
            text,
            logprobs,
            finish_reason,
        }
    }

    fn logprobs(&self, scores: &[TokenScore]) -> CompletionLogprobs {
        let mut lists = CompletionLogprobs::default();
        for score in scores {
            let chosen = score.logprobs.chosen;
            lists.tokens.push(self.token(chosen.token));
            lists.token_logprobs.push(job::finite(chosen.logprob));
            let top = score.logprobs.top.iter().chain([&chosen]);
            lists.top_logprobs.push(
                top.map(|scored| (self.token(scored.token), job::finite(scored.logprob)))
                    .collect(),
            );
            lists.text_offset.push(score.start_chars as u64);
        }
        lists
    }

    /// A token's text; bytes in hexadecimal where it is a part of a character, so that no two look the same.
    fn token(&self, id: u32) -> String {
        String::from_utf8(self.tokenizer.token_bytes(id)).unwrap_or_else(|error| {
            let mut text = String::from("bytes:");
            for byte in error.as_bytes() {
                write!(text, "\\x{byte:02x}").expect("a String takes all");
            }
            text
        })
    }
}

impl Dialect for CompletionDialect {
    type Chunk = Completion;
    type Whole = Completion;

    fn opening(&mut self, _index: u32) -> Vec<Completion> {
        Vec::new()
    }

    fn piece(&mut self, index: u32, mut piece: Piece) -> Vec<Completion> {
        let scores = std::mem::take(&mut piece.scores);
        let choice = self.choice(index, piece.into_content(), &scores, None);
        vec![self.completion(vec![choice], None)]
    }

    fn ending(&mut self, index: u32, scores: Vec<TokenScore>, end: End) -> Vec<Completion> {
        let mut choice = self.choice(index, String::new(), &scores, Some(end.reason));
        choice.logprobs = choice
            .logprobs
            .filter(|logprobs| !logprobs.tokens.is_empty());
        vec![self.completion(vec![choice], None)]
    }

    fn usage(&mut self, usage: Usage) -> Vec<Completion> {
        vec![self.completion(Vec::new(), Some(usage))]
    }

    fn whole(self, answers: Vec<WholeAnswer>, usage: Usage) -> Completion {
        let choice = |(index, answer): (usize, WholeAnswer)| {
            let WholeAnswer {
                message,
                scores,
                end,
            } = answer;
            self.choice(index as u32, message.content, &scores, Some(end.reason))
        };
        self.completion(
            answers.into_iter().enumerate().map(choice).collect(),
            Some(usage),
        )
    }
}
