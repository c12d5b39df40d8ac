//! What both completion endpoints share.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// One value or a list of them.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(untagged, expecting = "a string or a list of strings")]
pub enum OneOrMany {
    /// One.
    One(String),
    /// Several.
    Many(Vec<String>),
}

impl OneOrMany {
    /// As a list.
    pub fn into_vec(self) -> Vec<String> {
        match self {
            Self::One(one) => vec![one],
            Self::Many(many) => many,
        }
    }
}

/// What a stream carries besides the answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
pub struct StreamOptions {
    /// Whether a last chunk, with empty `choices`, reports token counts.
    pub include_usage: Option<bool>,
}

/// Settings of generation that both endpoints take, by the same names.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, ToSchema)]
pub struct SamplingFields {
    /// 0 takes the most likely token; at most 2.
    #[schema(minimum = 0, maximum = 2)]
    pub temperature: Option<f32>,
    /// Nucleus sampling, above 0 and at most 1.
    #[schema(exclusive_minimum = 0, maximum = 1)]
    pub top_p: Option<f32>,
    /// Keeps the k most likely tokens; 0 or -1 keeps all. Not in OpenAI's API.
    #[schema(minimum = -1)]
    pub top_k: Option<i64>,
    /// Keeps tokens at least this fraction as likely as the most likely, 0 to 1. Not in OpenAI's API.
    #[schema(minimum = 0, maximum = 1)]
    pub min_p: Option<f32>,
    /// Above 1 discourages every token of prompt and answer. Not in OpenAI's API.
    #[schema(exclusive_minimum = 0, maximum = 100)]
    pub repetition_penalty: Option<f32>,
    /// -2 to 2.
    #[schema(minimum = -2, maximum = 2)]
    pub presence_penalty: Option<f32>,
    /// -2 to 2.
    #[schema(minimum = -2, maximum = 2)]
    pub frequency_penalty: Option<f32>,
    /// The same seed, prompt and settings give the same answer. Any 64-bit integer.
    pub seed: Option<i64>,
    /// How many answers, 1 to 16.
    #[schema(minimum = 1, maximum = 16)]
    pub n: Option<u32>,
    /// At most 16 strings of at most 256 bytes; the answer ends before the first of them.
    pub stop: Option<OneOrMany>,
    /// Token ids that end the answer, besides the model's own. Not in OpenAI's API.
    #[schema(max_items = 128)]
    pub stop_token_ids: Option<Vec<u32>>,
    /// Whether to go on past the model's own end. Not in OpenAI's API.
    pub ignore_eos: Option<bool>,
    /// From token id to a number from -100 to 100 that is added to its logit; at most 1024 entries.
    pub logit_bias: Option<BTreeMap<String, f32>>,
}

/// What the answer must be, by the names that other servers have for it; `response_format` says it as OpenAI does. At most
/// one of them all. A schema or grammar may have 65536 bytes and 32 levels.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, ToSchema)]
pub struct StructuredFields {
    /// An object with one of `json`, `regex`, `choice`, `grammar`, `json_object`, as vLLM has it. Not in OpenAI's API.
    #[schema(value_type = Option<Object>)]
    pub structured_outputs: Option<Value>,
    /// A JSON schema. Not in OpenAI's API.
    #[schema(value_type = Option<Object>)]
    pub guided_json: Option<Value>,
    /// A regular expression for the whole answer. Not in OpenAI's API.
    pub guided_regex: Option<String>,
    /// Texts of which the answer is one. Not in OpenAI's API.
    pub guided_choice: Option<Vec<String>>,
    /// A grammar in llguidance's variant of Lark. Not in OpenAI's API.
    pub guided_grammar: Option<String>,
    /// The same, or `{"type": "lark", "regex" or "json_schema", "value": …}`. Not in OpenAI's API.
    #[schema(value_type = Option<Object>)]
    pub grammar: Option<Value>,
    /// As `guided_regex`. Not in OpenAI's API.
    pub regex: Option<String>,
}

/// Token counts of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
pub struct Usage {
    /// Of the prompt, counted once however many answers it has.
    pub prompt_tokens: u64,
    /// Of all answers, each with its end token.
    pub completion_tokens: u64,
    /// Both.
    pub total_tokens: u64,
    /// What became of the prompt's tokens.
    pub prompt_tokens_details: PromptTokenDetails,
}

/// What became of a prompt's tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
pub struct PromptTokenDetails {
    /// Those that had been computed before, for a request that begins alike.
    pub cached_tokens: u64,
}

impl Usage {
    /// With the sum filled in.
    pub fn new(prompt_tokens: u64, cached_tokens: u64, completion_tokens: u64) -> Self {
        Self {
            prompt_tokens,
            completion_tokens,
            total_tokens: prompt_tokens + completion_tokens,
            prompt_tokens_details: PromptTokenDetails { cached_tokens },
        }
    }
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// The model's end, a stop string or a stop token.
    Stop,
    /// `max_tokens`, or the context is full.
    Length,
    /// The model called tools.
    ToolCalls,
}
