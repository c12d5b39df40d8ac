//! `POST /v1/chat/completions`.

use crate::{FinishReason, SamplingFields, StreamOptions, StructuredFields, Usage};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

/// A request to continue a conversation.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, ToSchema)]
pub struct ChatCompletionRequest {
    /// Which model; the served one when absent.
    pub model: Option<String>,
    /// The conversation so far, at least one message.
    #[schema(min_items = 1, max_items = 4096)]
    pub messages: Vec<ChatMessage>,
    /// At most this many new tokens for each answer; what the context leaves when absent.
    #[schema(minimum = 1)]
    pub max_completion_tokens: Option<u32>,
    /// The older name of `max_completion_tokens`, which wins over it.
    #[schema(minimum = 1)]
    pub max_tokens: Option<u32>,
    /// Whether to send the answer as it is made.
    pub stream: Option<bool>,
    /// Only with `stream`.
    pub stream_options: Option<StreamOptions>,
    /// Whether to report logprobs of the chosen tokens.
    pub logprobs: Option<bool>,
    /// And of this many of the most likely ones, 0 to 20. Only with `logprobs`.
    #[schema(maximum = 20)]
    pub top_logprobs: Option<u32>,
    /// `{"type": "text"}`, `{"type": "json_object"}`, or `{"type": "json_schema", "json_schema": {"schema": …}}`, which is
    /// always strict. A model that thinks does so before.
    #[schema(value_type = Option<Object>)]
    pub response_format: Option<Value>,
    /// Functions that the model may call, at most 256. Its template shows them to it.
    #[schema(value_type = Option<Vec<Object>>)]
    pub tools: Option<Vec<Value>>,
    /// `auto`, `none`, `required`, or `{"type": "function", "function": {"name": …}}`.
    #[schema(value_type = Option<ToolChoiceSchema>)]
    pub tool_choice: Option<Value>,
    /// Whether one answer may call several functions; true when absent.
    pub parallel_tool_calls: Option<bool>,
    /// How much to think: `none`, `minimal`, `low`, `medium`, `high` or `xhigh`; templates that know no degrees can only
    /// turn thinking off.
    pub reasoning_effort: Option<String>,
    /// Only `text` is supported.
    pub modalities: Option<Vec<String>>,
    /// Variables of the model's template, such as `enable_thinking`. Not in OpenAI's API.
    #[schema(value_type = Option<Object>)]
    pub chat_template_kwargs: Option<Map<String, Value>>,
    /// How tokens are chosen.
    #[serde(flatten, skip_deserializing)]
    pub sampling: SamplingFields,
    /// What the answer must be.
    #[serde(flatten, skip_deserializing)]
    pub structured: StructuredFields,
}

/// How far the model may choose among tools. Only for the document: the server reads it leniently.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, ToSchema)]
#[serde(untagged)]
pub enum ToolChoiceSchema {
    /// `auto`, `none` or `required`.
    Mode(String),
    /// One function.
    #[schema(value_type = Object)]
    Function(Value),
}

/// One message of a conversation.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, ToSchema)]
pub struct ChatMessage {
    /// `system`, `developer` (read as `system`), `user`, `assistant` or `tool`.
    pub role: String,
    /// May be null only where the assistant speaks.
    pub content: Option<Content>,
    /// Who speaks.
    pub name: Option<String>,
    /// What the assistant thought; templates may show it.
    pub reasoning_content: Option<String>,
    /// What the assistant called.
    #[schema(value_type = Option<Vec<Object>>)]
    pub tool_calls: Option<Vec<Value>>,
    /// Which call a tool message answers.
    pub tool_call_id: Option<String>,
}

/// A message's text.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(untagged, expecting = "a string or a list of parts")]
pub enum Content {
    /// In one piece.
    Text(String),
    /// In parts, joined by line breaks.
    Parts(Vec<ContentPart>),
}

/// A part of a message. Only `text` is supported.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
pub struct ContentPart {
    /// `text`; any other kind is refused.
    #[serde(rename = "type")]
    pub kind: String,
    /// The text.
    pub text: Option<String>,
}

/// A whole answer.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, ToSchema)]
pub struct ChatCompletion {
    /// `chatcmpl-…`.
    pub id: String,
    /// Always `chat.completion`.
    #[schema(example = "chat.completion")]
    pub object: String,
    /// Seconds since 1970.
    pub created: u64,
    /// The model that answered.
    pub model: String,
    /// The build that answered.
    pub system_fingerprint: String,
    /// The answers, by index.
    pub choices: Vec<ChatChoice>,
    /// Token counts.
    pub usage: Usage,
}

/// One answer.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, ToSchema)]
pub struct ChatChoice {
    /// Which.
    pub index: u32,
    /// What the assistant says.
    pub message: AssistantMessage,
    /// If asked for.
    pub logprobs: Option<ChatLogprobs>,
    /// Why it ended.
    pub finish_reason: FinishReason,
}

/// What the assistant says.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
pub struct AssistantMessage {
    /// Always `assistant`.
    #[schema(example = "assistant")]
    pub role: String,
    /// The text; null where the assistant only calls tools.
    pub content: Option<String>,
    /// What the assistant thought, where the model shows it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning_content: Option<String>,
    /// What the assistant calls.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCall>,
    /// Always null.
    pub refusal: Option<String>,
}

/// A call of a tool.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
pub struct ToolCall {
    /// `call_…`; the tool's answer names it.
    pub id: String,
    /// Always `function`.
    #[serde(rename = "type")]
    #[schema(example = "function")]
    pub kind: String,
    /// Which function, and with what.
    pub function: FunctionCall,
}

/// A function with its arguments.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
pub struct FunctionCall {
    /// Its name.
    pub name: String,
    /// The text of a JSON object.
    pub arguments: String,
}

/// What a chunk adds to one call.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
pub struct ToolCallDelta {
    /// Which call, from 0.
    pub index: u32,
    /// In the first piece only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// `function`, in the first piece only.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Which function, and with what.
    pub function: FunctionCallDelta,
}

/// A function, and more of its arguments.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
pub struct FunctionCallDelta {
    /// In the first piece only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// All pieces, joined, are the text of a JSON object.
    pub arguments: String,
}

/// A piece of a streamed answer.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, ToSchema)]
pub struct ChatCompletionChunk {
    /// `chatcmpl-…`, the same on every chunk.
    pub id: String,
    /// Always `chat.completion.chunk`.
    #[schema(example = "chat.completion.chunk")]
    pub object: String,
    /// Seconds since 1970, the same on every chunk.
    pub created: u64,
    /// The model that answers.
    pub model: String,
    /// The build that answers.
    pub system_fingerprint: String,
    /// One choice; none in the usage chunk.
    pub choices: Vec<ChatChunkChoice>,
    /// In the last chunk of a stream that asked for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
}

/// What a chunk adds to one answer.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, ToSchema)]
pub struct ChatChunkChoice {
    /// Which answer.
    pub index: u32,
    /// What is added; empty in the last piece.
    pub delta: ChatDelta,
    /// If asked for.
    pub logprobs: Option<ChatLogprobs>,
    /// In the last piece.
    pub finish_reason: Option<FinishReason>,
}

/// What is added to an answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
pub struct ChatDelta {
    /// `assistant`, in the first piece only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// Text; empty in the first piece only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
    /// What the assistant thinks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning_content: Option<String>,
    /// What the assistant calls.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCallDelta>,
}

/// Logprobs of an answer or a piece of it.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, ToSchema)]
pub struct ChatLogprobs {
    /// One entry a token.
    pub content: Vec<ChatTokenLogprob>,
}

/// Logprobs of one token.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, ToSchema)]
pub struct ChatTokenLogprob {
    /// Its text, with U+FFFD where it is a part of a character.
    pub token: String,
    /// Its natural-log probability.
    pub logprob: f32,
    /// Its exact bytes.
    pub bytes: Vec<u8>,
    /// The most likely tokens at this place, descending.
    pub top_logprobs: Vec<ChatTopLogprob>,
}

/// One of the most likely tokens.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, ToSchema)]
pub struct ChatTopLogprob {
    /// Its text, with U+FFFD where it is a part of a character.
    pub token: String,
    /// Its natural-log probability.
    pub logprob: f32,
    /// Its exact bytes.
    pub bytes: Vec<u8>,
}
