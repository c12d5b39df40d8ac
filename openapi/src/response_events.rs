//! What a streamed response consists of.

use crate::{ChatTokenLogprob, OutputItem, OutputText, ReasoningText, ResponseObject};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// One event of a streamed response. The stream ends after `response.completed`, `response.incomplete` or
/// `response.failed`.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, ToSchema)]
pub struct ResponseEvent {
    /// Which event of the stream, from 0.
    pub sequence_number: u64,
    /// What happened.
    #[serde(flatten)]
    pub body: ResponseEventBody,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, ToSchema)]
#[serde(tag = "type")]
pub enum ResponseEventBody {
    /// The response was accepted.
    #[serde(rename = "response.created")]
    Created {
        /// As it is now.
        response: Box<ResponseObject>,
    },
    /// It is being made.
    #[serde(rename = "response.in_progress")]
    InProgress {
        /// As it is now.
        response: Box<ResponseObject>,
    },
    /// It is whole.
    #[serde(rename = "response.completed")]
    Completed {
        /// As it is.
        response: Box<ResponseObject>,
    },
    /// It was cut by `max_output_tokens` or by the context.
    #[serde(rename = "response.incomplete")]
    Incomplete {
        /// As far as it came.
        response: Box<ResponseObject>,
    },
    /// It could not be made.
    #[serde(rename = "response.failed")]
    Failed {
        /// As far as it came, with the reason.
        response: Box<ResponseObject>,
    },
    /// An item begins.
    #[serde(rename = "response.output_item.added")]
    ItemAdded {
        /// Which.
        output_index: u32,
        /// Empty.
        item: OutputItem,
    },
    /// An item is whole.
    #[serde(rename = "response.output_item.done")]
    ItemDone {
        /// Which.
        output_index: u32,
        /// All of it.
        item: OutputItem,
    },
    /// A text begins.
    #[serde(rename = "response.content_part.added")]
    PartAdded {
        /// Of which item.
        item_id: String,
        /// Which.
        output_index: u32,
        /// Which text of it.
        content_index: u32,
        /// Empty.
        part: ResponsePart,
    },
    /// A text is whole.
    #[serde(rename = "response.content_part.done")]
    PartDone {
        /// Of which item.
        item_id: String,
        /// Which.
        output_index: u32,
        /// Which text of it.
        content_index: u32,
        /// All of it.
        part: ResponsePart,
    },
    /// More of a message.
    #[serde(rename = "response.output_text.delta")]
    TextDelta {
        /// Of which item.
        item_id: String,
        /// Which.
        output_index: u32,
        /// Which text of it.
        content_index: u32,
        /// What is added.
        delta: String,
        /// If asked for.
        logprobs: Vec<ChatTokenLogprob>,
    },
    /// All of a message.
    #[serde(rename = "response.output_text.done")]
    TextDone {
        /// Of which item.
        item_id: String,
        /// Which.
        output_index: u32,
        /// Which text of it.
        content_index: u32,
        /// The text.
        text: String,
        /// If asked for.
        logprobs: Vec<ChatTokenLogprob>,
    },
    /// More reasoning.
    #[serde(rename = "response.reasoning_text.delta")]
    ReasoningDelta {
        /// Of which item.
        item_id: String,
        /// Which.
        output_index: u32,
        /// Which text of it.
        content_index: u32,
        /// What is added.
        delta: String,
    },
    /// All of the reasoning.
    #[serde(rename = "response.reasoning_text.done")]
    ReasoningDone {
        /// Of which item.
        item_id: String,
        /// Which.
        output_index: u32,
        /// Which text of it.
        content_index: u32,
        /// The text.
        text: String,
    },
    /// More of a call's arguments.
    #[serde(rename = "response.function_call_arguments.delta")]
    ArgumentsDelta {
        /// Of which item.
        item_id: String,
        /// Which.
        output_index: u32,
        /// What is added.
        delta: String,
    },
    /// All of a call's arguments.
    #[serde(rename = "response.function_call_arguments.done")]
    ArgumentsDone {
        /// Of which item.
        item_id: String,
        /// Which.
        output_index: u32,
        /// Of which function.
        name: String,
        /// The text of a JSON object.
        arguments: String,
    },
}

impl ResponseEventBody {
    /// The event's name, which its `type` repeats.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Created { .. } => "response.created",
            Self::InProgress { .. } => "response.in_progress",
            Self::Completed { .. } => "response.completed",
            Self::Incomplete { .. } => "response.incomplete",
            Self::Failed { .. } => "response.failed",
            Self::ItemAdded { .. } => "response.output_item.added",
            Self::ItemDone { .. } => "response.output_item.done",
            Self::PartAdded { .. } => "response.content_part.added",
            Self::PartDone { .. } => "response.content_part.done",
            Self::TextDelta { .. } => "response.output_text.delta",
            Self::TextDone { .. } => "response.output_text.done",
            Self::ReasoningDelta { .. } => "response.reasoning_text.delta",
            Self::ReasoningDone { .. } => "response.reasoning_text.done",
            Self::ArgumentsDelta { .. } => "response.function_call_arguments.delta",
            Self::ArgumentsDone { .. } => "response.function_call_arguments.done",
        }
    }
}

/// A text of an item.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, ToSchema)]
#[serde(untagged)]
pub enum ResponsePart {
    /// Of a message.
    Text(OutputText),
    /// Of reasoning.
    Reasoning(ReasoningText),
}
