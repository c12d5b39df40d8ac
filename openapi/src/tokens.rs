//! `POST /tokenize`, `/detokenize` and `/apply-template`: a model's text and tokens without an answer.

use crate::ChatMessage;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

/// A text, or a conversation, whose tokens are wanted. One of `prompt` (or `content`, its other name) and `messages`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, ToSchema)]
pub struct TokenizeRequest {
    /// Which model; the served one when absent.
    pub model: Option<String>,
    /// A text.
    pub prompt: Option<String>,
    /// The same, as llama.cpp calls it.
    pub content: Option<String>,
    /// Whether the model's own tokens are put around the text. Without it, as a completion of the text would have them:
    /// true for `prompt`, false for `content` and `messages`.
    pub add_special_tokens: Option<bool>,
    /// The same, as llama.cpp calls it.
    pub add_special: Option<bool>,
    /// Whether the tokens' texts are wanted too.
    pub return_token_strs: Option<bool>,
    /// A conversation.
    #[serde(flatten, skip_deserializing)]
    pub conversation: ConversationFields,
}

/// A conversation whose text is wanted.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, ToSchema)]
pub struct ApplyTemplateRequest {
    /// Which model; the served one when absent.
    pub model: Option<String>,
    /// The conversation.
    #[serde(flatten, skip_deserializing)]
    pub conversation: ConversationFields,
}

/// What a chat template sees, by the names that chat completions have for it.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, ToSchema)]
pub struct ConversationFields {
    /// The conversation.
    #[schema(max_items = 4096)]
    pub messages: Option<Vec<ChatMessage>>,
    /// Whether the text ends with the opening of the assistant's turn; true when absent.
    pub add_generation_prompt: Option<bool>,
    /// Shown to the model by its template.
    #[schema(value_type = Option<Vec<Object>>)]
    pub tools: Option<Vec<Value>>,
    /// Variables of the model's template.
    #[schema(value_type = Option<Object>)]
    pub chat_template_kwargs: Option<Map<String, Value>>,
}

/// The tokens of a text.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
pub struct Tokenized {
    /// How many.
    pub count: u64,
    /// How many fit into the model's context, prompt and answer together.
    pub max_model_len: u64,
    /// Their ids.
    pub tokens: Vec<u32>,
    /// Their texts, if asked for, with U+FFFD where a token is a part of a character.
    pub token_strs: Option<Vec<String>>,
}

/// Tokens whose text is wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
pub struct DetokenizeRequest {
    /// Which model; the served one when absent.
    pub model: Option<String>,
    /// Their ids.
    pub tokens: Vec<u32>,
}

/// The text of tokens, special ones included.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
pub struct Detokenized {
    /// The text, with U+FFFD for what is not UTF-8.
    pub prompt: String,
    /// The same, as llama.cpp calls it.
    pub content: String,
}

/// A conversation as the model's template words it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
pub struct RenderedTemplate {
    /// The text.
    pub prompt: String,
}
