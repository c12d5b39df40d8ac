//! `POST /v1/completions`.

use crate::{FinishReason, Prompt, SamplingFields, StreamOptions, StructuredFields, Usage};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// A request to continue text.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, ToSchema)]
pub struct CompletionRequest {
    /// Which model; the served one when absent.
    pub model: Option<String>,
    /// What to continue.
    pub prompt: Option<Prompt>,
    /// At most this many new tokens for each answer; 16 when absent. 0 only with `echo`.
    #[schema(minimum = 0)]
    pub max_tokens: Option<u32>,
    /// Whether to send the answer as it is made.
    pub stream: Option<bool>,
    /// Only with `stream`.
    pub stream_options: Option<StreamOptions>,
    /// Logprobs of the chosen tokens, and of this many of the most likely ones, 0 to 20.
    #[schema(maximum = 20)]
    pub logprobs: Option<u32>,
    /// Whether the answer begins with the prompt; with `logprobs`, the prompt's tokens are scored too, one after another.
    pub echo: Option<bool>,
    /// Not supported when above `n`.
    #[schema(minimum = 1)]
    pub best_of: Option<u32>,
    /// Not supported unless empty.
    pub suffix: Option<String>,
    /// As in a chat.
    #[schema(value_type = Option<Object>)]
    pub response_format: Option<Value>,
    /// How tokens are chosen.
    #[serde(flatten, skip_deserializing)]
    pub sampling: SamplingFields,
    /// What the answer must be.
    #[serde(flatten, skip_deserializing)]
    pub structured: StructuredFields,
}

/// A whole answer, or a piece of one when streamed.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, ToSchema)]
pub struct Completion {
    /// `cmpl-…`, the same on every chunk.
    pub id: String,
    /// Always `text_completion`.
    #[schema(example = "text_completion")]
    pub object: String,
    /// Seconds since 1970.
    pub created: u64,
    /// The model that answered.
    pub model: String,
    /// The build that answered.
    pub system_fingerprint: String,
    /// The answers; empty in a usage chunk.
    pub choices: Vec<CompletionChoice>,
    /// Token counts: always in a whole answer, in the last chunk of a stream that asked for them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
}

/// One answer, or a piece of it.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, ToSchema)]
pub struct CompletionChoice {
    /// Which prompt and answer: `prompt × n + answer`.
    pub index: u32,
    /// The text.
    pub text: String,
    /// If asked for.
    pub logprobs: Option<CompletionLogprobs>,
    /// In the last piece.
    pub finish_reason: Option<FinishReason>,
}

/// Four lists of equal length, one entry a token.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, ToSchema)]
pub struct CompletionLogprobs {
    /// The tokens' text; `bytes:\x..` where a token is a part of a character.
    pub tokens: Vec<String>,
    /// Their logprobs; null for the first token of a prompt.
    pub token_logprobs: Vec<Option<f32>>,
    /// From text to logprob, of the most likely tokens and the chosen one; null for the first token of a prompt.
    pub top_logprobs: Vec<Option<BTreeMap<String, f32>>>,
    /// Where each token begins in the answer, in characters.
    pub text_offset: Vec<u64>,
}
