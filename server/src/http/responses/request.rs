//! From a response that is asked for to a chat, and to the response as it begins.

use super::super::app::App;
use super::super::body::Body;
use super::super::chat::prepare;
use super::super::error::ApiError;
use super::super::job::Job;
use super::super::respond::ResponseHead;
use super::input;
use super::store::Owner;
use super::turn::{Keeper, Turn};
use crate::state::ServedModel;
use odmoe_openapi::{
    ChatCompletionRequest, ChatMessage, Content, ResponseObject, ResponseStatus, ResponsesRequest,
    SamplingFields, StreamOptions,
};
use serde_json::{Value, json};
use std::sync::Arc;

/// What is asked for, checked.
pub(super) struct Asked {
    pub(super) job: Job,
    pub(super) turn: Turn,
    pub(super) in_background: bool,
}

/// How fields of a chat are called here.
const FIELDS: [(&str, &str); 5] = [
    ("messages", "input"),
    ("max_completion_tokens", "max_output_tokens"),
    ("response_format", "text.format"),
    ("reasoning_effort", "reasoning.effort"),
    ("stream_options", "stream"),
];

pub(super) fn read(
    app: &Arc<App>,
    model: &ServedModel,
    body: &Body,
    owner: Owner,
) -> Result<Asked, ApiError> {
    let limits = &app.config.limits;
    body.check_values(limits, "")?;
    let mut request: ResponsesRequest = body.parse()?;
    let sampling: SamplingFields = body.parse()?;
    check_supported(&request, &sampling)?;
    let mut messages = previous(app, owner, request.previous_response_id.as_deref())?;
    let Some(given) = request.input.take() else {
        return Err(ApiError::invalid(
            "input",
            "input is missing; send a text or items",
        ));
    };
    messages.extend(input::messages(given, limits)?);
    request.tools = Some(functions(request.tools.take().unwrap_or_default()));
    let chat = chat(&request, &messages)?;
    let with_logprobs = chat.logprobs == Some(true);
    let job = prepare::job(app, model, chat, sampling).map_err(|error| error.renamed(&FIELDS))?;
    let in_background = request.background == Some(true);
    let keeper = Keeper {
        app: Arc::clone(app),
        owner,
        is_kept: request.store != Some(false),
        messages,
        log: None,
    };
    let object = object(request, model, &job);
    let turn = Turn::new(object, model.tokenizer.clone(), with_logprobs, keeper);
    Ok(Asked {
        job,
        turn,
        in_background,
    })
}

fn check_supported(request: &ResponsesRequest, sampling: &SamplingFields) -> Result<(), ApiError> {
    if sampling.n.is_some_and(|n| n != 1) {
        return Err(ApiError::invalid(
            "n",
            "a response has one answer; leave n out",
        ));
    }
    let unsupported = [
        (
            "conversation",
            request.conversation.is_some(),
            "send previous_response_id or the items themselves",
        ),
        (
            "prompt",
            request.prompt.is_some(),
            "send its text as instructions or input",
        ),
    ];
    for (param, is_given, instead) in unsupported {
        if is_given {
            let message = format!("{param} is not supported; {instead}");
            return Err(ApiError::unsupported(param, message));
        }
    }
    if request.background == Some(true) && request.store == Some(false) {
        let message =
            "a response in the background must be stored to be retrieved; leave store out";
        return Err(ApiError::invalid("store", message));
    }
    Ok(())
}

/// The conversation that a stored response ends.
fn previous(app: &App, owner: Owner, id: Option<&str>) -> Result<Vec<ChatMessage>, ApiError> {
    let Some(id) = id else { return Ok(Vec::new()) };
    let kept = app.responses.get(owner, id);
    let kept = kept.ok_or_else(|| ApiError::unknown_previous_response(id))?;
    if kept.object.status == ResponseStatus::InProgress {
        let message = "the previous response is still being made; wait until it is whole";
        return Err(ApiError::invalid("previous_response_id", message));
    }
    Ok(kept.messages.to_vec())
}

/// The tools that are functions, as they came.
fn functions(tools: Vec<Value>) -> Vec<Value> {
    let is_function = |tool: &Value| tool["type"] == "function";
    tools.into_iter().filter(is_function).collect()
}

fn chat(
    request: &ResponsesRequest,
    messages: &[ChatMessage],
) -> Result<ChatCompletionRequest, ApiError> {
    let allowed = allowed_tools(request.tool_choice.as_ref())?;
    let tools = request.tools.iter().flatten();
    let tools = tools.filter(|tool| {
        allowed
            .as_ref()
            .is_none_or(|names| names.contains(&tool["name"]))
    });
    let with_logprobs = request.include.iter().flatten();
    let with_logprobs = with_logprobs
        .into_iter()
        .any(|what| what == "message.output_text.logprobs");
    Ok(ChatCompletionRequest {
        model: request.model.clone(),
        messages: with_instructions(request.instructions.as_deref(), messages),
        max_completion_tokens: request.max_output_tokens,
        // The end of a stream tells what it took.
        stream: request.stream,
        stream_options: (request.stream == Some(true)).then_some(StreamOptions {
            include_usage: Some(true),
        }),
        logprobs: with_logprobs.then_some(true),
        top_logprobs: with_logprobs.then_some(request.top_logprobs).flatten(),
        tools: Some(tools.map(as_chat_tool).collect()),
        tool_choice: request.tool_choice.as_ref().map(as_chat_choice),
        parallel_tool_calls: request.parallel_tool_calls,
        reasoning_effort: request.reasoning.as_ref().and_then(|r| r.effort.clone()),
        response_format: request
            .text
            .as_ref()
            .and_then(|t| t.format.as_ref())
            .map(as_chat_format),
        chat_template_kwargs: request.chat_template_kwargs.clone(),
        ..ChatCompletionRequest::default()
    })
}

/// Instructions come first, in one message with a system message that comes first.
fn with_instructions(instructions: Option<&str>, messages: &[ChatMessage]) -> Vec<ChatMessage> {
    let Some(instructions) = instructions else {
        return messages.to_vec();
    };
    let system = |content: String| ChatMessage {
        role: "system".into(),
        content: Some(Content::Text(content)),
        ..ChatMessage::default()
    };
    let (first, rest) = match messages {
        [
            ChatMessage {
                role,
                content: Some(Content::Text(text)),
                ..
            },
            rest @ ..,
        ] if role == "system" => (system(format!("{instructions}\n\n{text}")), rest),
        all => (system(instructions.to_owned()), all),
    };
    std::iter::once(first).chain(rest.iter().cloned()).collect()
}

fn as_chat_tool(tool: &Value) -> Value {
    let mut function = tool.clone();
    if let Some(members) = function.as_object_mut() {
        members.retain(|_, value| !value.is_null());
        members.shift_remove("type");
    }
    json!({"type": "function", "function": function})
}

/// The names that `allowed_tools` leaves.
fn allowed_tools(choice: Option<&Value>) -> Result<Option<Vec<Value>>, ApiError> {
    let Some(choice) = choice.filter(|choice| choice["type"] == "allowed_tools") else {
        return Ok(None);
    };
    let Some(tools) = choice["tools"].as_array() else {
        let message = "allowed_tools must list tools";
        return Err(ApiError::invalid("tool_choice.tools", message));
    };
    Ok(Some(
        tools.iter().map(|tool| tool["name"].clone()).collect(),
    ))
}

fn as_chat_choice(choice: &Value) -> Value {
    match choice["type"].as_str() {
        Some("function") => json!({"type": "function", "function": {"name": choice["name"]}}),
        Some("allowed_tools") => choice["mode"].clone(),
        _ => choice.clone(),
    }
}

/// Chats hold the schema one level deeper.
fn as_chat_format(format: &Value) -> Value {
    if format["type"] != "json_schema" {
        return format.clone();
    }
    let mut schema = format.clone();
    if let Some(members) = schema.as_object_mut() {
        members.shift_remove("type");
    }
    json!({"type": "json_schema", "json_schema": schema})
}

/// The response as it begins.
fn object(request: ResponsesRequest, model: &ServedModel, job: &Job) -> ResponseObject {
    let head = ResponseHead::new("resp", &model.name);
    let mut text = request.text.unwrap_or_default();
    text.format.get_or_insert_with(|| json!({"type": "text"}));
    ResponseObject {
        id: head.id.replacen('-', "_", 1),
        object: "response".into(),
        created_at: head.created,
        status: ResponseStatus::InProgress,
        background: request.background.unwrap_or(false),
        error: None,
        incomplete_details: None,
        instructions: request.instructions,
        max_output_tokens: request.max_output_tokens,
        model: head.model,
        output: Vec::new(),
        parallel_tool_calls: request.parallel_tool_calls.unwrap_or(true),
        previous_response_id: request.previous_response_id,
        reasoning: request.reasoning.unwrap_or_default(),
        store: request.store.unwrap_or(true),
        temperature: job.sampling.params.temperature,
        text,
        tool_choice: request.tool_choice.unwrap_or_else(|| "auto".into()),
        tools: request.tools.unwrap_or_default(),
        top_logprobs: request.top_logprobs.unwrap_or(0),
        top_p: job.sampling.params.top_p,
        truncation: "disabled".into(),
        usage: None,
        user: request.user,
        metadata: request.metadata.unwrap_or_default(),
    }
}
