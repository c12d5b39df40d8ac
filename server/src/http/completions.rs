//! `POST /v1/completions`.

mod echo;

use super::Limits;
use super::answer::{Piece, TokenScore};
use super::app::App;
use super::body::{self, Body};
use super::constraint;
use super::error::ApiError;
use super::generation::Generation;
use super::job::{self, Delivery, Job, Sampling};
use super::record::Record;
use super::respond::{self, Dialect, End, ResponseHead, WholeAnswer, respond};
use crate::state::ServedModel;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use echo::EchoedPrompt;
use odmoe_engine::PositionLogprobs;
use odmoe_openapi::{
    Completion, CompletionChoice, CompletionLogprobs, CompletionRequest, ErrorResponse,
    FinishReason, Prompt, Usage,
};
use odmoe_text::Tokenizer;
use odmoe_text::grammar::AnswerGrammar;
use odmoe_text::output::{OutputFormat, OutputMessage};
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
    let (job, mut dialect) = app.blocking(move || prepare(&shared, model, &body)).await?;
    if let Some(top) = job.logprobs {
        let echoed = &mut dialect.echoed;
        echo::score(&app, &admitted.model, &job, (&record, top), echoed).await?;
    }
    if job.max_new_tokens == Some(0) {
        return Ok(without_answers(&job, dialect, &record));
    }
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
    let echoes = request.echo == Some(true);
    let max_new_tokens = match request.max_tokens.unwrap_or(DEFAULT_MAX_TOKENS) {
        0 if echoes => Some(0),
        max => job::max_new_tokens("max_tokens", Some(max))?,
    };
    check_supported(&request, sampling.n)?;
    let given = request.prompt.clone();
    let prompts = prompts(request.prompt, &model, max_new_tokens, limits)?;
    let echoed = match given.filter(|_| echoes) {
        Some(given) => echo::echoed(&given, &prompts, &model.tokenizer),
        None => Vec::new(),
    };
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
        answers_a_prompt: job.sampling.n,
        echoed,
    };
    Ok((job, dialect))
}

fn check_supported(request: &CompletionRequest, n: u32) -> Result<(), ApiError> {
    if request
        .suffix
        .as_ref()
        .is_some_and(|suffix| !suffix.is_empty())
    {
        let message = "suffix is not supported: answers are written from left to right; put what must follow into the \
                       prompt";
        return Err(ApiError::unsupported("suffix", message));
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

/// The prompts alone, where no token is to be made.
fn without_answers(job: &Job, mut dialect: CompletionDialect, record: &Record) -> Response {
    let prompt_tokens: usize = job.prompts.iter().map(Vec::len).sum();
    let usage = Usage::new(prompt_tokens as u64, 0, 0);
    record.set_tokens(usage.prompt_tokens, 0);
    record.set_outcome("length");
    let answers = job.prompts.len() as u32 * job.sampling.n;
    let end = || End {
        reason: FinishReason::Length,
        stop: None,
    };
    let Delivery::Streamed { with_usage } = job.delivery else {
        let answer = |_| WholeAnswer {
            message: OutputMessage::default(),
            scores: Vec::new(),
            end: end(),
        };
        return Json(dialect.whole((0..answers).map(answer).collect(), usage)).into_response();
    };
    let mut chunks: Vec<Completion> = (0..answers).flat_map(|i| dialect.opening(i)).collect();
    chunks.extend((0..answers).flat_map(|i| dialect.ending(i, Vec::new(), end())));
    if with_usage {
        chunks.extend(dialect.usage(usage));
    }
    respond::all_at_once(&dialect, chunks)
}

struct CompletionDialect {
    head: ResponseHead,
    tokenizer: Tokenizer,
    with_logprobs: bool,
    answers_a_prompt: u32,
    /// What each answer begins with; empty without `echo`.
    echoed: Vec<EchoedPrompt>,
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
        let logprobs = self.with_logprobs.then(|| self.logprobs(index, scores));
        CompletionChoice {
            index,
            text,
            logprobs,
            finish_reason,
        }
    }

    fn logprobs(&self, index: u32, scores: &[TokenScore]) -> CompletionLogprobs {
        let before = self.echo(index).map_or(0, |echo| echo.text.chars().count());
        let mut lists = CompletionLogprobs::default();
        for score in scores {
            let token = score.logprobs.chosen.token;
            self.list(
                &mut lists,
                token,
                Some(&score.logprobs),
                before + score.start_chars,
            );
        }
        lists
    }

    fn list(
        &self,
        lists: &mut CompletionLogprobs,
        token: u32,
        scored: Option<&PositionLogprobs>,
        offset: usize,
    ) {
        lists.tokens.push(self.token(token));
        let chosen = scored.map(|scored| job::finite(scored.chosen.logprob));
        lists.token_logprobs.push(chosen);
        lists.top_logprobs.push(scored.map(|scored| {
            let all = scored.top.iter().chain([&scored.chosen]);
            all.map(|one| (self.token(one.token), job::finite(one.logprob)))
                .collect()
        }));
        lists.text_offset.push(offset as u64);
    }

    /// The prompt that an answer begins with.
    fn echo(&self, index: u32) -> Option<&EchoedPrompt> {
        self.echoed.get((index / self.answers_a_prompt) as usize)
    }

    /// A choice that is the prompt alone.
    fn echoed_choice(&self, index: u32, echo: &EchoedPrompt) -> CompletionChoice {
        let mut choice = self.choice(index, echo.text.clone(), &[], None);
        if let Some(lists) = &mut choice.logprobs {
            let scores = std::iter::once(None).chain(echo.scores.iter().map(Some));
            let tokens = echo.tokens().iter().zip(echo.offsets(&self.tokenizer));
            for ((token, offset), scored) in tokens.zip(scores) {
                self.list(lists, *token, scored, offset);
            }
        }
        choice
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

    fn opening(&mut self, index: u32) -> Vec<Completion> {
        let echo = self.echo(index);
        let choice = echo.map(|echo| self.echoed_choice(index, echo));
        choice
            .map(|choice| self.completion(vec![choice], None))
            .into_iter()
            .collect()
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
            let index = index as u32;
            let choice = self.choice(index, message.content, &scores, Some(end.reason));
            match self.echo(index) {
                Some(echo) => join(self.echoed_choice(index, echo), choice),
                None => choice,
            }
        };
        self.completion(
            answers.into_iter().enumerate().map(choice).collect(),
            Some(usage),
        )
    }
}

/// An answer after its prompt.
fn join(echo: CompletionChoice, answer: CompletionChoice) -> CompletionChoice {
    let logprobs = echo.logprobs.zip(answer.logprobs);
    CompletionChoice {
        text: echo.text + &answer.text,
        logprobs: logprobs.map(|(mut lists, more)| {
            lists.tokens.extend(more.tokens);
            lists.token_logprobs.extend(more.token_logprobs);
            lists.top_logprobs.extend(more.top_logprobs);
            lists.text_offset.extend(more.text_offset);
            lists
        }),
        ..answer
    }
}
