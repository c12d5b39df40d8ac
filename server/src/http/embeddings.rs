//! `POST /v1/embeddings`.

use super::app::{Admitted, App};
use super::batch::{Batch, Outcome, Reply};
use super::body::{self, Body};
use super::error::ApiError;
use super::job::Delivery;
use super::record::Record;
use super::respond::json_in_pieces;
use super::{held, job};
use crate::state::ServedModel;
use axum::Extension;
use axum::extract::{Request, State};
use axum::response::Response;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use odmoe_engine::{EmbeddingEnd, EmbeddingRequest, EmbeddingSink, Pooling, SubmitError};
use odmoe_openapi::{
    Embedding, EmbeddingInput, EmbeddingList, EmbeddingPooling, EmbeddingUsage, EmbeddingVector,
    EmbeddingsRequest, EncodingFormat, ErrorResponse, Prompt,
};
use odmoe_text::TokenizerError;
use std::sync::Arc;
use tokio::sync::OwnedSemaphorePermit;

/// What is asked for, checked.
struct Wanted {
    texts: Vec<Vec<u32>>,
    pooling: Pooling,
    format: EncodingFormat,
    normalizes: bool,
    /// The share of what all vectors may hold.
    share: OwnedSemaphorePermit,
}

/// Turns texts into vectors.
#[utoipa::path(
    post,
    path = "/v1/embeddings",
    tag = "embeddings",
    request_body = EmbeddingsRequest,
    responses(
        (status = 200, description = "One vector for each text", body = EmbeddingList),
        (status = 400, description = "A field is not allowed, or a text is too long", body = ErrorResponse),
        (status = 404, description = "Another model is served", body = ErrorResponse),
        (status = 413, description = "The body is too large", body = ErrorResponse),
        (status = 415, description = "The body is not JSON", body = ErrorResponse),
        (status = 429, description = "The queue is full; see `Retry-After`", body = ErrorResponse),
        (status = 500, description = "A part of the model could not be read, or a bug", body = ErrorResponse),
        (status = 503, description = "Loading or shutting down; see `Retry-After`", body = ErrorResponse),
    )
)]
pub(crate) async fn embeddings(
    State(app): State<Arc<App>>,
    Extension(record): Extension<Arc<Record>>,
    request: Request,
) -> Result<Response, ApiError> {
    let Admitted { model, in_flight } = app.admit()?;
    let body = body::receive(&app, request).await?;
    let (shared, served) = (Arc::clone(&app), Arc::clone(&model));
    let wanted = app
        .blocking(move || prepare(&shared, &served, &body))
        .await?;
    let tokens: usize = wanted.texts.iter().map(Vec::len).sum();
    let vectors = embed(&app, &model, &wanted, &record).await;
    let outcome = vectors.as_ref().map_or_else(ApiError::code, |_| "stop");
    record.set_outcome(outcome);
    let vectors = vectors?;
    record.set_tokens(tokens as u64, 0);
    let list = EmbeddingList {
        object: "list".into(),
        model: model.name.clone(),
        usage: EmbeddingUsage {
            prompt_tokens: tokens as u64,
            total_tokens: tokens as u64,
        },
        data: Vec::new(),
    };
    let (format, normalizes) = (wanted.format, wanted.normalizes);
    let entries = vectors.into_iter().zip(0..);
    let entries = entries.map(move |(values, index)| Embedding {
        object: "embedding".into(),
        index,
        embedding: write(values, normalizes, format),
    });
    let response = json_in_pieces(&list, entries);
    Ok(held::until_sent(response, (in_flight, wanted.share)))
}

/// The vectors, in the order of the texts.
async fn embed(
    app: &App,
    model: &Arc<ServedModel>,
    wanted: &Wanted,
    record: &Record,
) -> Result<Vec<Vec<f32>>, ApiError> {
    let metrics = app.metrics.model(&model.name);
    let submit = |model: &ServedModel, place: usize, reply| {
        let request = EmbeddingRequest {
            client: record.client(),
            tokens: wanted.texts[place].clone(),
            pooling: wanted.pooling,
        };
        let id = model.engine.embed(request, Box::new(OneEnd(reply)))?;
        metrics.record_text(wanted.texts[place].len());
        Ok(id)
    };
    let refuse = |error| match error {
        SubmitError::TooLong { prompt, limit, .. } => ApiError::text_too_long(prompt, limit),
        other => ApiError::submit(other, "input", app.config.retry_after),
    };
    let mut batch = Batch::new(app, Arc::clone(model), record, Delivery::Whole);
    let vectors = batch.run(wanted.texts.len(), submit, refuse).await?;
    match vectors.iter().flatten().all(|value| value.is_finite()) {
        true => Ok(vectors),
        false => Err(ApiError::internal("the model's numbers are not finite")),
    }
}

/// Carries one end from the engine's thread.
struct OneEnd(Reply<Vec<f32>>);

impl EmbeddingSink for OneEnd {
    fn end(self: Box<Self>, end: EmbeddingEnd) {
        self.0.send(match end {
            EmbeddingEnd::Done { values, .. } => Outcome::Done(values),
            EmbeddingEnd::Cancelled => Outcome::Cancelled,
            EmbeddingEnd::Failed(error) => Outcome::Failed(error),
        });
    }

    fn is_closed(&self) -> bool {
        self.0.is_closed()
    }
}

fn prepare(app: &App, model: &ServedModel, body: &Body) -> Result<Wanted, ApiError> {
    body.check_values(&app.config.limits, "input")?;
    let request: EmbeddingsRequest = body.parse()?;
    job::check_model(request.model.as_deref(), model, &app.config.model_aliases)?;
    let width = model.embedding_width;
    if request
        .dimensions
        .is_some_and(|asked| asked as usize != width)
    {
        let message = format!(
            "this model's vectors have {width} dimensions and cannot be shortened; leave dimensions out"
        );
        return Err(ApiError::unsupported("dimensions", message));
    }
    let texts = token_lists(request.input, app, model)?;
    let share = reserve(app, texts.len(), width)?;
    Ok(Wanted {
        texts,
        pooling: match request.pooling.unwrap_or_default() {
            EmbeddingPooling::Mean => Pooling::Mean,
            EmbeddingPooling::Last => Pooling::Last,
        },
        format: request.encoding_format.unwrap_or_default(),
        normalizes: request.normalize.unwrap_or(true),
        share,
    })
}

/// Token ids of each text.
fn token_lists(
    input: Option<EmbeddingInput>,
    app: &App,
    model: &ServedModel,
) -> Result<Vec<Vec<u32>>, ApiError> {
    let refuse = |message: String| ApiError::invalid("input", message);
    let encode = |text: &String| encode(text, model);
    let Some(EmbeddingInput(input)) = input else {
        return Err(refuse("input is missing; send a text".into()));
    };
    let most = app.config.limits.embedding_inputs;
    if input.prompts() > most {
        return Err(refuse(format!(
            "input has more than {most} texts; at most {most} fit"
        )));
    }
    let texts = match input {
        Prompt::Text(text) => vec![encode(&text)?],
        Prompt::Tokens(tokens) => vec![tokens],
        Prompt::Texts(texts) => texts.iter().map(encode).collect::<Result<_, _>>()?,
        Prompt::TokenLists(lists) => lists,
    };
    if texts.iter().any(Vec::is_empty) {
        return Err(refuse(
            "a text is empty; it must have at least one token".into(),
        ));
    }
    job::check_token_ids("input", texts.iter().flatten(), model)?;
    Ok(texts)
}

fn encode(text: &str, model: &ServedModel) -> Result<Vec<u32>, ApiError> {
    let tokens = model
        .tokenizer
        .encode_within(text, true, model.context_tokens);
    tokens.map_err(|error| match error {
        TokenizerError::TooMany { at_least, limit } => ApiError::text_too_long(at_least, limit),
        other => ApiError::invalid("input", other.to_string()),
    })
}

/// Takes a share of what all vectors may hold until it is sent.
fn reserve(app: &App, texts: usize, width: usize) -> Result<OwnedSemaphorePermit, ApiError> {
    let vector_bytes = width * size_of::<f32>();
    let most = app.config.limits.embeddings_total_bytes / vector_bytes;
    if texts > most.max(1) {
        let message = format!(
            "input has {texts} texts, but vectors of {width} dimensions fit for {most} at once; send fewer"
        );
        return Err(ApiError::invalid("input", message));
    }
    let kibibytes = (texts * vector_bytes).div_ceil(1024);
    app.take_for_vectors(kibibytes)
        .ok_or_else(|| ApiError::vectors_exhausted(app.config.retry_after))
}

fn write(mut values: Vec<f32>, normalizes: bool, format: EncodingFormat) -> EmbeddingVector {
    if normalizes {
        normalize(&mut values);
    }
    match format {
        EncodingFormat::Float => EmbeddingVector::Numbers(values),
        EncodingFormat::Base64 => {
            let bytes: Vec<u8> = values
                .iter()
                .flat_map(|value| value.to_le_bytes())
                .collect();
            EmbeddingVector::Base64(BASE64_STANDARD.encode(bytes))
        }
    }
}

/// To length 1; zeros stay.
fn normalize(values: &mut [f32]) {
    let squares: f64 = values.iter().map(|value| f64::from(*value).powi(2)).sum();
    if squares > 0.0 {
        let scale = squares.sqrt().recip();
        for value in values {
            *value = (f64::from(*value) * scale) as f32;
        }
    }
}
