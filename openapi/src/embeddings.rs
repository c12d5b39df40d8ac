//! `POST /v1/embeddings`.

use crate::prompt::{Prompt, PromptVisitor};
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

/// The most texts that one request may have.
pub const EMBEDDING_INPUTS_MAX: usize = 2048;

/// Texts to turn into vectors.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, ToSchema)]
pub struct EmbeddingsRequest {
    /// Which model; the served one when absent.
    pub model: Option<String>,
    /// One text or a list of at most 2048, each as a string or as token ids.
    #[schema(value_type = Option<Prompt>)]
    pub input: Option<EmbeddingInput>,
    /// How vectors are written; `float` when absent.
    pub encoding_format: Option<EncodingFormat>,
    /// Only the model's own number of dimensions is possible: this kind of model is not trained for fewer.
    #[schema(minimum = 1)]
    pub dimensions: Option<u32>,
    /// What becomes of the tokens' vectors; `mean` when absent. Not in OpenAI's API.
    pub pooling: Option<EmbeddingPooling>,
    /// Whether vectors have length 1; true when absent. Not in OpenAI's API.
    pub normalize: Option<bool>,
}

/// As [`Prompt`], but with room for more texts.
///
/// Reading one keeps at most one text more than [`EMBEDDING_INPUTS_MAX`], by which a longer list is known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EmbeddingInput(pub Prompt);

impl<'de> Deserialize<'de> for EmbeddingInput {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let visitor = PromptVisitor {
            most: EMBEDDING_INPUTS_MAX,
        };
        deserializer.deserialize_any(visitor).map(Self)
    }
}

/// How vectors are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum EncodingFormat {
    /// As lists of numbers.
    #[default]
    Float,
    /// As base64 of little-endian 32-bit floats.
    Base64,
}

/// How the vectors of a text's tokens become one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum EmbeddingPooling {
    /// Their mean.
    #[default]
    Mean,
    /// The last token's, which alone has seen the whole text.
    Last,
}

/// Vectors.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, ToSchema)]
pub struct EmbeddingList {
    /// Always `list`.
    #[schema(example = "list")]
    pub object: String,
    /// The model that made them.
    pub model: String,
    /// Token counts.
    pub usage: EmbeddingUsage,
    /// One for each text, in the order of the request.
    pub data: Vec<Embedding>,
}

/// One vector.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, ToSchema)]
pub struct Embedding {
    /// Always `embedding`.
    #[schema(example = "embedding")]
    pub object: String,
    /// Which text.
    pub index: u32,
    /// Its vector.
    pub embedding: EmbeddingVector,
}

/// A vector as `encoding_format` says.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, ToSchema)]
#[serde(untagged)]
pub enum EmbeddingVector {
    /// `float`.
    Numbers(Vec<f32>),
    /// `base64`.
    Base64(String),
}

/// Token counts of embeddings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
pub struct EmbeddingUsage {
    /// Of all texts.
    pub prompt_tokens: u64,
    /// The same.
    pub total_tokens: u64,
}
