//! The items of a response's output: how they begin, how their ends are told, and what they are as messages.

use odmoe_openapi::{
    ChatMessage, ChatTokenLogprob, Content, OutputItem, OutputText, ReasoningText,
    ResponseEventBody, ResponsePart, ResponseStatus,
};
use odmoe_text::output::{OutputCall, OutputMessage, OutputPart};
use serde_json::json;

pub(super) fn new_id(prefix: &str) -> String {
    format!("{prefix}_{}", uuid::Uuid::new_v4().simple())
}

pub(super) fn new_message() -> OutputItem {
    OutputItem::Message {
        id: new_id("msg"),
        status: ResponseStatus::InProgress,
        role: "assistant".into(),
        content: vec![OutputText {
            kind: "output_text".into(),
            ..OutputText::default()
        }],
    }
}

pub(super) fn reasoning_text(text: String) -> ReasoningText {
    ReasoningText {
        kind: "reasoning_text".into(),
        text,
    }
}

pub(super) fn text_done(id: &str, output_index: u32, text: &OutputText) -> [ResponseEventBody; 2] {
    let logprobs: Vec<ChatTokenLogprob> = text.logprobs.clone();
    [
        ResponseEventBody::TextDone {
            item_id: id.to_owned(),
            output_index,
            content_index: 0,
            text: text.text.clone(),
            logprobs,
        },
        ResponseEventBody::PartDone {
            item_id: id.to_owned(),
            output_index,
            content_index: 0,
            part: ResponsePart::Text(text.clone()),
        },
    ]
}

pub(super) fn reasoning_done(
    id: &str,
    output_index: u32,
    text: &ReasoningText,
) -> [ResponseEventBody; 2] {
    [
        ResponseEventBody::ReasoningDone {
            item_id: id.to_owned(),
            output_index,
            content_index: 0,
            text: text.text.clone(),
        },
        ResponseEventBody::PartDone {
            item_id: id.to_owned(),
            output_index,
            content_index: 0,
            part: ResponsePart::Reasoning(text.clone()),
        },
    ]
}

/// A whole answer as the parts that it was joined from.
pub(super) fn parts(message: OutputMessage) -> Vec<OutputPart> {
    let mut parts = Vec::new();
    if !message.reasoning.is_empty() {
        parts.push(OutputPart::Reasoning(message.reasoning));
    }
    if !message.content.is_empty() {
        parts.push(OutputPart::Content(message.content));
    }
    let calls = message.tool_calls.into_iter().zip(0..);
    parts.extend(calls.flat_map(|(call, index)| {
        let OutputCall {
            id,
            name,
            arguments: text,
        } = call;
        [
            OutputPart::ToolCall { index, id, name },
            OutputPart::Arguments { index, text },
        ]
    }));
    parts
}

/// What the response adds to its conversation.
pub(super) fn as_message(output: &[OutputItem]) -> ChatMessage {
    let mut message = ChatMessage {
        role: "assistant".into(),
        ..ChatMessage::default()
    };
    for item in output {
        match item {
            OutputItem::Message { content, .. } => {
                message.content = Some(Content::Text(content[0].text.clone()));
            }
            OutputItem::Reasoning { content, .. } => {
                let thoughts = message.reasoning_content.get_or_insert_default();
                thoughts.push_str(&content[0].text);
            }
            OutputItem::FunctionCall {
                call_id,
                name,
                arguments,
                ..
            } => message.tool_calls.get_or_insert_default().push(json!({
                "id": call_id, "type": "function", "function": {"name": name, "arguments": arguments},
            })),
        }
    }
    message
}
