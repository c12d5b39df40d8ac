//! `POST /tokenize`, `/detokenize` and `/apply-template`: the text side of the model alone.

use super::app::App;
use super::body::{self, Body};
use super::error::ApiError;
use super::{chat, job};
use crate::state::ServedModel;
use axum::Json;
use axum::extract::{Request, State};
use odmoe_openapi::{
    ApplyTemplateRequest, ChatCompletionRequest, ConversationFields, DetokenizeRequest,
    Detokenized, ErrorResponse, RenderedTemplate, TokenizeRequest, Tokenized,
};
use std::sync::Arc;

/// Tells the tokens of a text or a conversation.
#[utoipa::path(
    post,
    path = "/v1/tokenize",
    tag = "tokens",
    request_body = TokenizeRequest,
    responses(
        (status = 200, description = "The tokens", body = Tokenized),
        (status = "4XX", description = "A field is not allowed, or the text has more tokens than the context", body = ErrorResponse),
        (status = 503, description = "Loading or shutting down; see `Retry-After`", body = ErrorResponse),
    )
)]
pub(crate) async fn tokenize(
    State(app): State<Arc<App>>,
    request: Request,
) -> Result<Json<Tokenized>, ApiError> {
    answer(app, request, tokens_of).await
}

/// Tells the text of tokens.
#[utoipa::path(
    post,
    path = "/v1/detokenize",
    tag = "tokens",
    request_body = DetokenizeRequest,
    responses(
        (status = 200, description = "The text", body = Detokenized),
        (status = "4XX", description = "A field is not allowed, or there are more tokens than the context has", body = ErrorResponse),
        (status = 503, description = "Loading or shutting down; see `Retry-After`", body = ErrorResponse),
    )
)]
pub(crate) async fn detokenize(
    State(app): State<Arc<App>>,
    request: Request,
) -> Result<Json<Detokenized>, ApiError> {
    answer(app, request, text_of).await
}

/// Shows a conversation as the model's template words it.
#[utoipa::path(
    post,
    path = "/v1/apply-template",
    tag = "tokens",
    request_body = ApplyTemplateRequest,
    responses(
        (status = 200, description = "The text", body = RenderedTemplate),
        (status = "4XX", description = "A field is not allowed, or the template refuses the conversation", body = ErrorResponse),
        (status = 503, description = "Loading or shutting down; see `Retry-After`", body = ErrorResponse),
    )
)]
pub(crate) async fn apply_template(
    State(app): State<Arc<App>>,
    request: Request,
) -> Result<Json<RenderedTemplate>, ApiError> {
    answer(app, request, rendered).await
}

/// Receives the body and does the work off the async threads.
async fn answer<T: Send + 'static>(
    app: Arc<App>,
    request: Request,
    work: fn(&App, &ServedModel, &Body) -> Result<T, ApiError>,
) -> Result<Json<T>, ApiError> {
    let admitted = app.admit()?;
    let body = body::receive(&app, request).await?;
    let (model, shared) = (Arc::clone(&admitted.model), Arc::clone(&app));
    app.blocking(move || work(&shared, &model, &body))
        .await
        .map(Json)
}

fn tokens_of(app: &App, model: &ServedModel, body: &Body) -> Result<Tokenized, ApiError> {
    body.check_values(&app.config.limits, "")?;
    let request: TokenizeRequest = body.parse()?;
    let conversation: ConversationFields = body.parse()?;
    job::check_model(request.model.as_deref(), model, &app.config.model_aliases)?;
    let adds_special = request.add_special_tokens.or(request.add_special);
    let tokens = match (request.prompt, request.content, &conversation.messages) {
        (Some(text), None, None) => {
            job::encode(model, &text, adds_special.unwrap_or(true), "prompt", None)?
        }
        (None, Some(text), None) => {
            job::encode(model, &text, adds_special.unwrap_or(false), "content", None)?
        }
        (None, None, Some(_)) => {
            let text = render(app, model, conversation)?;
            job::encode(
                model,
                &text,
                adds_special.unwrap_or(false),
                "messages",
                None,
            )?
        }
        _ => {
            let message = "send either prompt, a text, or messages, a conversation";
            return Err(ApiError::invalid("prompt", message));
        }
    };
    let text = |id: &u32| String::from_utf8_lossy(&model.tokenizer.token_bytes(*id)).into_owned();
    Ok(Tokenized {
        count: tokens.len() as u64,
        max_model_len: model.context_tokens as u64,
        token_strs: (request.return_token_strs == Some(true))
            .then(|| tokens.iter().map(text).collect()),
        tokens,
    })
}

fn text_of(app: &App, model: &ServedModel, body: &Body) -> Result<Detokenized, ApiError> {
    body.check_values(&app.config.limits, "tokens")?;
    let request: DetokenizeRequest = body.parse()?;
    job::check_model(request.model.as_deref(), model, &app.config.model_aliases)?;
    let (count, most) = (request.tokens.len(), model.context_tokens);
    if count > most {
        let message = format!("tokens has {count} ids; at most {most}, the context, are taken");
        return Err(ApiError::invalid("tokens", message));
    }
    job::check_token_ids("tokens", &request.tokens, model)?;
    let text = model.tokenizer.decode(&request.tokens, false);
    Ok(Detokenized {
        prompt: text.clone(),
        content: text,
    })
}

fn rendered(app: &App, model: &ServedModel, body: &Body) -> Result<RenderedTemplate, ApiError> {
    body.check_values(&app.config.limits, "")?;
    let request: ApplyTemplateRequest = body.parse()?;
    job::check_model(request.model.as_deref(), model, &app.config.model_aliases)?;
    let prompt = render(app, model, body.parse()?)?;
    Ok(RenderedTemplate { prompt })
}

fn render(
    app: &App,
    model: &ServedModel,
    conversation: ConversationFields,
) -> Result<String, ApiError> {
    let opens_turn = conversation.add_generation_prompt.unwrap_or(true);
    let request = ChatCompletionRequest {
        messages: conversation.messages.unwrap_or_default(),
        tools: conversation.tools,
        chat_template_kwargs: conversation.chat_template_kwargs,
        ..ChatCompletionRequest::default()
    };
    chat::prepare::prompt(model, request, &app.config.limits, opens_turn)
}
