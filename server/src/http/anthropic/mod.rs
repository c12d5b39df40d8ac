//! `/v1/messages`: Anthropic's API.

mod errors;
mod input;
mod message;

use super::app::App;
use super::body::{self, Body};
use super::chat::prepare;
use super::error::ApiError;
use super::generation::Generation;
use super::job::{self, Job};
use super::record::Record;
use super::respond::respond;
use crate::state::ServedModel;
use axum::extract::{Request, State};
use axum::response::Response;
use axum::{Extension, Json};
use message::Message;
use odmoe_openapi::{
    ChatCompletionRequest, MessageErrorResponse, MessageEvent, MessageObject, MessageTokens,
    MessagesRequest, OneOrMany, SamplingFields, StreamOptions,
};
use serde_json::{Value, json};
use std::sync::Arc;

pub(crate) use errors::shape;

/// How fields of a chat are called here.
const FIELDS: [(&str, &str); 4] = [
    ("messages", "messages"),
    ("stop", "stop_sequences"),
    ("response_format", "output_config.format"),
    ("reasoning_effort", "output_config.effort"),
];

/// Continues a conversation, in Anthropic's words.
#[utoipa::path(
    post,
    path = "/v1/messages",
    tag = "anthropic",
    request_body = MessagesRequest,
    responses(
        (status = 200, description = "The answer; with `stream`, server-sent events",
            content((MessageObject = "application/json"), (MessageEvent = "text/event-stream"))),
        (status = 400, description = "A field is not allowed, or the conversation is too long", body = MessageErrorResponse),
        (status = 404, description = "Another model is served", body = MessageErrorResponse),
        (status = 413, description = "The body is too large", body = MessageErrorResponse),
        (status = 415, description = "The body is not JSON", body = MessageErrorResponse),
        (status = 429, description = "The queue is full; see `Retry-After`", body = MessageErrorResponse),
        (status = 500, description = "A part of the model could not be read, or a bug", body = MessageErrorResponse),
        (status = 503, description = "Loading or shutting down; see `Retry-After`", body = MessageErrorResponse),
    )
)]
pub(crate) async fn messages(
    State(app): State<Arc<App>>,
    Extension(record): Extension<Arc<Record>>,
    request: Request,
) -> Result<Response, ApiError> {
    let admitted = app.admit()?;
    let body = body::receive(&app, request).await?;
    let (model, shared) = (Arc::clone(&admitted.model), Arc::clone(&app));
    let (job, message) = app
        .blocking(move || prepare(&shared, &model, &body))
        .await?;
    let generation = Generation::start(&app, admitted, &job, record)?;
    respond(generation, message, job.delivery, app.config.keep_alive).await
}

/// Counts the tokens of a conversation as `/v1/messages` would be asked with it.
#[utoipa::path(
    post,
    path = "/v1/messages/count_tokens",
    tag = "anthropic",
    request_body = MessagesRequest,
    responses(
        (status = 200, description = "How many", body = MessageTokens),
        (status = "4XX", description = "A field is not allowed, or there are more tokens than the context has", body = MessageErrorResponse),
        (status = 503, description = "Loading or shutting down; see `Retry-After`", body = MessageErrorResponse),
    )
)]
pub(crate) async fn count_tokens(
    State(app): State<Arc<App>>,
    request: Request,
) -> Result<Json<MessageTokens>, ApiError> {
    let admitted = app.admit()?;
    let body = body::receive(&app, request).await?;
    let (model, shared) = (Arc::clone(&admitted.model), Arc::clone(&app));
    app.blocking(move || count(&shared, &model, &body))
        .await
        .map(Json)
}

fn prepare(app: &App, model: &ServedModel, body: &Body) -> Result<(Job, Message), ApiError> {
    let (request, mut sampling) = read(app, body)?;
    if sampling.n.is_some_and(|n| n != 1) {
        return Err(ApiError::invalid("n", "there is one answer; leave n out"));
    }
    sampling.stop = request.stop_sequences.clone().map(OneOrMany::Many);
    let chat = chat(&request, app)?;
    let job = prepare::job(app, model, chat, sampling).map_err(|error| error.renamed(&FIELDS))?;
    let input_tokens = job.prompts.iter().map(Vec::len).sum::<usize>();
    let message = Message::new(model.name.clone(), input_tokens as u64);
    Ok((job, message))
}

fn count(app: &App, model: &ServedModel, body: &Body) -> Result<MessageTokens, ApiError> {
    let (request, _) = read(app, body)?;
    job::check_model(request.model.as_deref(), model, &app.config.model_aliases)?;
    let prompt = prepare::prompt(model, chat(&request, app)?, &app.config.limits, true);
    let prompt = prompt.map_err(|error| error.renamed(&FIELDS))?;
    let tokens = job::encode(model, &prompt, false, "messages", None)?;
    Ok(MessageTokens {
        input_tokens: tokens.len() as u64,
    })
}

fn read(app: &App, body: &Body) -> Result<(MessagesRequest, SamplingFields), ApiError> {
    body.check_values(&app.config.limits, "")?;
    Ok((body.parse()?, body.parse()?))
}

fn chat(request: &MessagesRequest, app: &App) -> Result<ChatCompletionRequest, ApiError> {
    let limits = &app.config.limits;
    let (tool_choice, parallel_tool_calls) = tool_choice(request.tool_choice.as_ref())?;
    let format = request
        .output_config
        .as_ref()
        .and_then(|config| config.format.as_ref());
    Ok(ChatCompletionRequest {
        model: request.model.clone(),
        messages: input::messages(request.system.as_ref(), &request.messages, limits)?,
        max_tokens: request.max_tokens,
        // The end of a stream tells what it took.
        stream: request.stream,
        stream_options: (request.stream == Some(true)).then_some(StreamOptions {
            include_usage: Some(true),
        }),
        tools: request.tools.as_deref().map(tools),
        tool_choice,
        parallel_tool_calls,
        reasoning_effort: effort(request)?,
        response_format: format.map(response_format),
        chat_template_kwargs: request.chat_template_kwargs.clone(),
        ..ChatCompletionRequest::default()
    })
}

/// The tools that the client itself runs.
fn tools(tools: &[Value]) -> Vec<Value> {
    let is_own = |tool: &&Value| matches!(tool["type"].as_str(), None | Some("custom"));
    let as_chat = |tool: &Value| {
        let mut function = json!({"name": tool["name"], "parameters": tool["input_schema"]});
        if tool["description"].is_string() {
            function["description"] = tool["description"].clone();
        }
        json!({"type": "function", "function": function})
    };
    tools.iter().filter(is_own).map(as_chat).collect()
}

/// A chat's `tool_choice` and `parallel_tool_calls`.
fn tool_choice(given: Option<&Value>) -> Result<(Option<Value>, Option<bool>), ApiError> {
    let Some(given) = given else {
        return Ok((None, None));
    };
    let choice = match given["type"].as_str() {
        Some("auto") => json!("auto"),
        Some("any") => json!("required"),
        Some("none") => json!("none"),
        Some("tool") => json!({"type": "function", "function": {"name": given["name"]}}),
        _ => {
            let message = "tool_choice must have the type \"auto\", \"any\", \"none\" or \"tool\"";
            return Err(ApiError::invalid("tool_choice.type", message));
        }
    };
    let is_single = given["disable_parallel_tool_use"] == true;
    Ok((Some(choice), is_single.then_some(false)))
}

/// A chat's `reasoning_effort`.
fn effort(request: &MessagesRequest) -> Result<Option<String>, ApiError> {
    let thinking = request.thinking.as_ref();
    match thinking.map(|thinking| thinking["type"].as_str()) {
        Some(Some("disabled")) => return Ok(Some("none".into())),
        None | Some(Some("enabled" | "adaptive")) => {}
        Some(_) => {
            let message = "thinking must have the type \"enabled\", \"adaptive\" or \"disabled\"";
            return Err(ApiError::invalid("thinking.type", message));
        }
    }
    let effort = request
        .output_config
        .as_ref()
        .and_then(|config| config.effort.as_deref());
    let told = effort.map(|effort| if effort == "max" { "xhigh" } else { effort });
    Ok(told.map(str::to_owned))
}

/// A chat's `response_format`.
fn response_format(format: &Value) -> Value {
    if format["type"] != "json_schema" {
        return format.clone();
    }
    let schema = json!({"name": "output", "schema": format["schema"], "strict": true});
    json!({"type": "json_schema", "json_schema": schema})
}
