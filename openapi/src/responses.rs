//! `POST /v1/responses`: what is asked and what is answered.

use crate::{ChatTokenLogprob, SamplingFields};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

/// A request to answer a list of items.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, ToSchema)]
pub struct ResponsesRequest {
    /// Which model; the served one when absent.
    pub model: Option<String>,
    /// What to answer: a text, or items (messages, calls and their outputs, reasoning). Items of unknown types are skipped.
    pub input: Option<ResponsesInput>,
    /// A system message before all others. Not carried over to the next response.
    pub instructions: Option<String>,
    /// A stored response, whose conversation goes on.
    pub previous_response_id: Option<String>,
    /// Whether to keep the response for retrieval and for `previous_response_id`; true when absent. The oldest ones go
    /// when there are too many.
    pub store: Option<bool>,
    /// Whether to send the response as it is made.
    pub stream: Option<bool>,
    /// Whether to make the response whether or not anybody waits for it. With `stream` its events can be followed now and
    /// later, also by whoever lost the connection.
    pub background: Option<bool>,
    /// At most this many new tokens; what the context leaves when absent.
    #[schema(minimum = 1)]
    pub max_output_tokens: Option<u32>,
    /// Tools that the model may call. Those of other types than `function` are skipped.
    #[schema(value_type = Option<Vec<Object>>)]
    pub tools: Option<Vec<Value>>,
    /// `auto`, `none`, `required`, `{"type": "function", "name": …}` or `{"type": "allowed_tools", …}`.
    #[schema(value_type = Option<crate::ToolChoiceSchema>)]
    pub tool_choice: Option<Value>,
    /// Whether one response may call several tools; true when absent.
    pub parallel_tool_calls: Option<bool>,
    /// How much to think.
    pub reasoning: Option<ReasoningSettings>,
    /// The form of the text.
    pub text: Option<TextSettings>,
    /// `message.output_text.logprobs` reports logprobs; others are ignored.
    pub include: Option<Vec<String>>,
    /// How many of the most likely tokens are reported beside the chosen one, 0 to 20.
    #[schema(maximum = 20)]
    pub top_logprobs: Option<u32>,
    /// Sent back as it is.
    #[schema(value_type = Option<Object>)]
    pub metadata: Option<Map<String, Value>>,
    /// Sent back as it is.
    pub user: Option<String>,
    /// Not supported unless null: conversations are not stored, but responses are.
    #[schema(value_type = Option<Object>)]
    pub conversation: Option<Value>,
    /// Not supported unless null.
    #[schema(value_type = Option<Object>)]
    pub prompt: Option<Value>,
    /// Variables of the model's template, such as `enable_thinking`. Not in OpenAI's API.
    #[schema(value_type = Option<Object>)]
    pub chat_template_kwargs: Option<Map<String, Value>>,
    /// How tokens are chosen.
    #[serde(flatten, skip_deserializing)]
    pub sampling: SamplingFields,
}

/// What to answer.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, ToSchema)]
#[serde(untagged, expecting = "a string or a list of items")]
pub enum ResponsesInput {
    /// What a user says.
    Text(String),
    /// Items.
    #[schema(value_type = Vec<Object>)]
    Items(Vec<Value>),
}

/// How much to think.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
pub struct ReasoningSettings {
    /// `none`, `minimal`, `low`, `medium`, `high` or `xhigh`.
    pub effort: Option<String>,
    /// Sent back as it is: there are no summaries, but the reasoning itself.
    pub summary: Option<String>,
}

/// The form of the text.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, ToSchema)]
pub struct TextSettings {
    /// `{"type": "text"}`, `{"type": "json_object"}` or `{"type": "json_schema", "name": …, "schema": …}`.
    #[schema(value_type = Option<Object>)]
    pub format: Option<Value>,
    /// Sent back as it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verbosity: Option<String>,
}

/// A response.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, ToSchema)]
pub struct ResponseObject {
    /// `resp_…`.
    pub id: String,
    /// Always `response`.
    #[schema(example = "response")]
    pub object: String,
    /// Seconds since 1970.
    pub created_at: u64,
    /// How far it is.
    pub status: ResponseStatus,
    /// Whether it is made while nobody waits for it.
    pub background: bool,
    /// Why it failed, if it did.
    pub error: Option<ResponseFailure>,
    /// Why it is incomplete, if it is.
    pub incomplete_details: Option<IncompleteDetails>,
    /// As asked.
    pub instructions: Option<String>,
    /// As asked.
    pub max_output_tokens: Option<u32>,
    /// The model that answers.
    pub model: String,
    /// What came of it, in order.
    pub output: Vec<OutputItem>,
    /// As asked.
    pub parallel_tool_calls: bool,
    /// As asked.
    pub previous_response_id: Option<String>,
    /// As asked.
    pub reasoning: ReasoningSettings,
    /// Whether it is kept.
    pub store: bool,
    /// As chosen.
    pub temperature: f32,
    /// As asked.
    pub text: TextSettings,
    /// As asked.
    #[schema(value_type = crate::ToolChoiceSchema)]
    pub tool_choice: Value,
    /// As asked, without those that were skipped.
    #[schema(value_type = Vec<Object>)]
    pub tools: Vec<Value>,
    /// As asked.
    pub top_logprobs: u32,
    /// As chosen.
    pub top_p: f32,
    /// Always `disabled`: a conversation that is too long is refused.
    #[schema(example = "disabled")]
    pub truncation: String,
    /// Token counts, at the end.
    pub usage: Option<ResponseUsage>,
    /// As asked.
    pub user: Option<String>,
    /// As asked.
    #[schema(value_type = Object)]
    pub metadata: Map<String, Value>,
}

/// How far a response or an item is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ResponseStatus {
    /// It is being made.
    InProgress,
    /// It is whole.
    Completed,
    /// It was cut.
    Incomplete,
    /// It was cancelled.
    Cancelled,
    /// It could not be made.
    Failed,
}

/// Why a response failed.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
pub struct ResponseFailure {
    /// `server_error` or `rate_limit_exceeded`.
    pub code: String,
    /// What happened and what to do about it.
    pub message: String,
}

/// Why a response is incomplete.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
pub struct IncompleteDetails {
    /// Always `max_output_tokens`.
    pub reason: String,
}

/// A part of a response.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum OutputItem {
    /// What the model says.
    Message {
        /// `msg_…`.
        id: String,
        /// How far it is.
        status: ResponseStatus,
        /// Always `assistant`.
        role: String,
        /// One text.
        content: Vec<OutputText>,
    },
    /// What it thought.
    Reasoning {
        /// `rs_…`.
        id: String,
        /// How far it is.
        status: ResponseStatus,
        /// Always empty.
        #[schema(value_type = Vec<Object>)]
        summary: Vec<Value>,
        /// One text.
        content: Vec<ReasoningText>,
    },
    /// A tool that it calls.
    FunctionCall {
        /// `fc_…`.
        id: String,
        /// How far it is.
        status: ResponseStatus,
        /// What the call's output names.
        call_id: String,
        /// Which function.
        name: String,
        /// The text of a JSON object.
        arguments: String,
    },
}

/// A text of a message.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, ToSchema)]
pub struct OutputText {
    /// Always `output_text`.
    #[serde(rename = "type")]
    #[schema(example = "output_text")]
    pub kind: String,
    /// The text.
    pub text: String,
    /// Always empty.
    #[schema(value_type = Vec<Object>)]
    pub annotations: Vec<Value>,
    /// If asked for.
    pub logprobs: Vec<ChatTokenLogprob>,
}

/// A text of reasoning.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
pub struct ReasoningText {
    /// Always `reasoning_text`.
    #[serde(rename = "type")]
    #[schema(example = "reasoning_text")]
    pub kind: String,
    /// The text.
    pub text: String,
}

/// Token counts of a response.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
pub struct ResponseUsage {
    /// Of the whole conversation.
    pub input_tokens: u64,
    /// Of them.
    pub input_tokens_details: InputTokenDetails,
    /// Of the response.
    pub output_tokens: u64,
    /// Of them.
    pub output_tokens_details: OutputTokenDetails,
    /// Both.
    pub total_tokens: u64,
}

/// What became of a prompt's tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
pub struct InputTokenDetails {
    /// Those that had been computed before.
    pub cached_tokens: u64,
    /// Always 0.
    pub cache_write_tokens: u64,
}

/// What a response's tokens were for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
pub struct OutputTokenDetails {
    /// Always 0: reasoning is not counted apart.
    pub reasoning_tokens: u64,
}

/// `GET /v1/responses/{id}/input_items`.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, ToSchema)]
pub struct InputItems {
    /// Always `list`.
    #[schema(example = "list")]
    pub object: String,
    /// Messages, calls and their outputs, reasoning.
    #[schema(value_type = Vec<Object>)]
    pub data: Vec<Value>,
    /// The first item's id.
    pub first_id: Option<String>,
    /// The last item's.
    pub last_id: Option<String>,
    /// Whether items follow the last one.
    pub has_more: bool,
}

/// `DELETE /v1/responses/{id}`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
pub struct DeletedResponse {
    /// Which.
    pub id: String,
    /// Always `response`.
    #[schema(example = "response")]
    pub object: String,
    /// Always true.
    pub deleted: bool,
}
