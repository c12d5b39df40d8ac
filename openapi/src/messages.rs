//! `POST /v1/messages`: Anthropic's API.

use crate::SamplingFields;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

/// A request to continue a conversation, in Anthropic's words.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, ToSchema)]
pub struct MessagesRequest {
    /// Which model; the served one when absent.
    pub model: Option<String>,
    /// The conversation so far; the last message is the user's.
    #[schema(min_items = 1, max_items = 4096)]
    pub messages: Vec<MessageParam>,
    /// At most this many new tokens; what the context leaves when absent.
    #[schema(minimum = 1)]
    pub max_tokens: Option<u32>,
    /// What comes before the conversation: a text or blocks of text.
    #[schema(value_type = Option<MessageContent>)]
    pub system: Option<Value>,
    /// At most 16 strings of at most 256 bytes; the answer ends before the first of them.
    pub stop_sequences: Option<Vec<String>>,
    /// Whether to send the answer as it is made.
    pub stream: Option<bool>,
    /// Tools that the model may call, each with `name`, `description` and `input_schema`. Those that Anthropic's servers
    /// would run are skipped.
    #[schema(value_type = Option<Vec<Object>>)]
    pub tools: Option<Vec<Value>>,
    /// `{"type": "auto"}`, `any`, `none`, or `tool` with a `name`.
    #[schema(value_type = Option<Object>)]
    pub tool_choice: Option<Value>,
    /// `{"type": "disabled"}` turns thinking off; with other types, or without it, the model does as it does.
    #[schema(value_type = Option<Object>)]
    pub thinking: Option<Value>,
    /// How much to think, and the form of the answer.
    pub output_config: Option<OutputConfig>,
    /// Variables of the model's template, such as `enable_thinking`. Not in Anthropic's API.
    #[schema(value_type = Option<Object>)]
    pub chat_template_kwargs: Option<Map<String, Value>>,
    /// How tokens are chosen. `stop` has another name here, and `n` is always 1.
    #[serde(flatten, skip_deserializing)]
    pub sampling: SamplingFields,
}

/// One message.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, ToSchema)]
pub struct MessageParam {
    /// `user` or `assistant`.
    pub role: String,
    /// A text or blocks: text, thinking, calls of tools and their results.
    #[schema(value_type = MessageContent)]
    pub content: Value,
}

/// A message's content. Only for the document: the server reads it piece by piece.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, ToSchema)]
#[serde(untagged)]
pub enum MessageContent {
    /// In one piece.
    Text(String),
    /// In blocks.
    #[schema(value_type = Vec<Object>)]
    Blocks(Vec<Value>),
}

/// How much to think, and the form of the answer.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, ToSchema)]
pub struct OutputConfig {
    /// `low`, `medium`, `high`, `xhigh` or `max`.
    pub effort: Option<String>,
    /// `{"type": "json_schema", "schema": …}`.
    #[schema(value_type = Option<Object>)]
    pub format: Option<Value>,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, ToSchema)]
pub struct MessageObject {
    /// `msg_…`.
    pub id: String,
    /// Always `message`.
    #[serde(rename = "type")]
    #[schema(example = "message")]
    pub kind: String,
    /// Always `assistant`.
    pub role: String,
    /// The model that answered.
    pub model: String,
    /// What it says, in order.
    pub content: Vec<ContentBlock>,
    /// Why it ended; null while it is made.
    pub stop_reason: Option<StopReason>,
    /// Which of `stop_sequences` ended it.
    pub stop_sequence: Option<String>,
    /// Token counts.
    pub usage: MessageUsage,
}

/// A part of an answer.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ContentBlock {
    /// What the model says.
    Text {
        /// The text.
        text: String,
    },
    /// What it thought.
    Thinking {
        /// The text.
        thinking: String,
        /// Always empty: thoughts are not signed.
        signature: String,
    },
    /// A tool that it calls.
    ToolUse {
        /// What the tool's result names.
        id: String,
        /// Which tool.
        name: String,
        /// An object, where the model kept to its format; else its text.
        #[schema(value_type = Object)]
        input: Value,
    },
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum StopReason {
    /// The model's own end.
    EndTurn,
    /// `max_tokens`, or the context is full.
    MaxTokens,
    /// One of `stop_sequences`.
    StopSequence,
    /// The model called tools.
    ToolUse,
}

/// Token counts of an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
pub struct MessageUsage {
    /// Of the conversation, without those that had been computed before; all of them where a stream begins, which is
    /// before that is known.
    pub input_tokens: u64,
    /// Of the answer.
    pub output_tokens: u64,
    /// Always 0: what is remembered costs nothing.
    pub cache_creation_input_tokens: u64,
    /// Those of the conversation that had been computed before.
    pub cache_read_input_tokens: u64,
}

/// `POST /v1/messages/count_tokens`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
pub struct MessageTokens {
    /// Of the conversation.
    pub input_tokens: u64,
}

/// One event of a streamed answer. The stream ends after `message_stop` or `error`.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum MessageEvent {
    /// The answer begins.
    MessageStart {
        /// Without content.
        message: MessageObject,
    },
    /// A block begins.
    ContentBlockStart {
        /// Which.
        index: u32,
        /// Empty.
        content_block: ContentBlock,
    },
    /// More of a block.
    ContentBlockDelta {
        /// Which.
        index: u32,
        /// What is added.
        delta: ContentDelta,
    },
    /// A block is whole.
    ContentBlockStop {
        /// Which.
        index: u32,
    },
    /// How the answer ended.
    MessageDelta {
        /// Why.
        delta: MessageEnd,
        /// Token counts, in all.
        usage: MessageUsage,
    },
    /// Nothing follows.
    MessageStop,
    /// The answer could not be finished; nothing follows.
    Error {
        /// Why.
        error: MessageFailure,
    },
}

impl MessageEvent {
    /// The event's name, which its `type` repeats.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::MessageStart { .. } => "message_start",
            Self::ContentBlockStart { .. } => "content_block_start",
            Self::ContentBlockDelta { .. } => "content_block_delta",
            Self::ContentBlockStop { .. } => "content_block_stop",
            Self::MessageDelta { .. } => "message_delta",
            Self::MessageStop => "message_stop",
            Self::Error { .. } => "error",
        }
    }
}

/// What is added to a block.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ContentDelta {
    /// To a text.
    TextDelta {
        /// What.
        text: String,
    },
    /// To a thought.
    ThinkingDelta {
        /// What.
        thinking: String,
    },
    /// To a tool's input.
    InputJsonDelta {
        /// All pieces, joined, are the text of the input.
        partial_json: String,
    },
}

/// How an answer ended.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
pub struct MessageEnd {
    /// Why.
    pub stop_reason: Option<StopReason>,
    /// Which of `stop_sequences` ended it.
    pub stop_sequence: Option<String>,
}

/// Every error body of these endpoints.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
pub struct MessageErrorResponse {
    /// Always `error`.
    #[serde(rename = "type")]
    #[schema(example = "error")]
    pub kind: String,
    /// The error.
    pub error: MessageFailure,
    /// As in the header `request-id`.
    pub request_id: String,
}

/// What went wrong.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
pub struct MessageFailure {
    /// The class, such as `invalid_request_error`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The field at fault, if there is one, what happened and what to do about it.
    pub message: String,
}
