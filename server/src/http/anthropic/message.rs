//! One answer in Anthropic's words: parts in, blocks and events out.

use super::super::answer::{Piece, TokenScore};
use super::super::error::ApiError;
use super::super::respond::{Dialect, End, WholeAnswer, event};
use super::errors;
use odmoe_openapi::{
    ContentBlock, ContentDelta, FinishReason, MessageEnd, MessageEvent, MessageObject,
    MessageUsage, StopReason, Usage,
};
use odmoe_text::output::{OutputMessage, OutputPart};
use serde_json::{Value, json};

/// Which block is being made.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Open {
    Text,
    Thinking,
    ToolUse,
}

/// See the module.
pub(super) struct Message {
    /// Without content.
    object: MessageObject,
    open: Option<Open>,
    blocks: u32,
}

impl Message {
    pub(super) fn new(model: String, input_tokens: u64) -> Self {
        Self {
            object: MessageObject {
                id: format!("msg_{}", uuid::Uuid::new_v4().simple()),
                kind: "message".into(),
                role: "assistant".into(),
                model,
                content: Vec::new(),
                stop_reason: None,
                stop_sequence: None,
                usage: MessageUsage {
                    input_tokens,
                    ..MessageUsage::default()
                },
            },
            open: None,
            blocks: 0,
        }
    }

    fn take(&mut self, part: OutputPart, events: &mut Vec<MessageEvent>) {
        let delta = match part {
            OutputPart::Content(text) => {
                if self.open != Some(Open::Text) {
                    let block = ContentBlock::Text {
                        text: String::new(),
                    };
                    self.begin(Open::Text, block, events);
                }
                ContentDelta::TextDelta { text }
            }
            OutputPart::Reasoning(thinking) => {
                if self.open != Some(Open::Thinking) {
                    self.begin(Open::Thinking, thought(String::new()), events);
                }
                ContentDelta::ThinkingDelta { thinking }
            }
            OutputPart::ToolCall { id, name, .. } => {
                let input = json!({});
                let block = ContentBlock::ToolUse { id, name, input };
                self.begin(Open::ToolUse, block, events);
                return;
            }
            OutputPart::Arguments { text, .. } => {
                ContentDelta::InputJsonDelta { partial_json: text }
            }
        };
        if self.open.is_some() {
            let index = self.blocks - 1;
            events.push(MessageEvent::ContentBlockDelta { index, delta });
        }
    }

    fn begin(&mut self, kind: Open, content_block: ContentBlock, events: &mut Vec<MessageEvent>) {
        self.close(events);
        events.push(MessageEvent::ContentBlockStart {
            index: self.blocks,
            content_block,
        });
        self.open = Some(kind);
        self.blocks += 1;
    }

    fn close(&mut self, events: &mut Vec<MessageEvent>) {
        if self.open.take().is_some() {
            let index = self.blocks - 1;
            events.push(MessageEvent::ContentBlockStop { index });
        }
    }

    fn end(&mut self, end: End) {
        self.object.stop_reason = Some(match (end.reason, &end.stop) {
            (FinishReason::ToolCalls, _) => StopReason::ToolUse,
            (FinishReason::Length, _) => StopReason::MaxTokens,
            (FinishReason::Stop, Some(_)) => StopReason::StopSequence,
            (FinishReason::Stop, None) => StopReason::EndTurn,
        });
        self.object.stop_sequence = match end.reason {
            FinishReason::Stop => end.stop,
            _ => None,
        };
    }

    fn count(&mut self, usage: Usage) {
        let cached = usage.prompt_tokens_details.cached_tokens;
        self.object.usage.input_tokens = usage.prompt_tokens - cached;
        self.object.usage.cache_read_input_tokens = cached;
        self.object.usage.output_tokens = usage.completion_tokens;
    }
}

impl Dialect for Message {
    type Chunk = MessageEvent;
    type Whole = MessageObject;

    fn opening(&mut self, _index: u32) -> Vec<MessageEvent> {
        vec![MessageEvent::MessageStart {
            message: self.object.clone(),
        }]
    }

    fn piece(&mut self, _index: u32, piece: Piece) -> Vec<MessageEvent> {
        let mut events = Vec::new();
        for part in piece.parts {
            self.take(part, &mut events);
        }
        events
    }

    fn ending(&mut self, _index: u32, _scores: Vec<TokenScore>, end: End) -> Vec<MessageEvent> {
        let mut events = Vec::new();
        self.close(&mut events);
        self.end(end);
        events
    }

    fn usage(&mut self, usage: Usage) -> Vec<MessageEvent> {
        self.count(usage);
        let delta = MessageEnd {
            stop_reason: self.object.stop_reason,
            stop_sequence: self.object.stop_sequence.clone(),
        };
        let usage = self.object.usage;
        vec![
            MessageEvent::MessageDelta { delta, usage },
            MessageEvent::MessageStop,
        ]
    }

    fn whole(mut self, answers: Vec<WholeAnswer>, usage: Usage) -> MessageObject {
        for answer in answers {
            self.object.content = blocks(answer.message);
            self.end(answer.end);
        }
        self.count(usage);
        self.object
    }

    fn name(chunk: &MessageEvent) -> Option<&'static str> {
        Some(chunk.name())
    }

    fn failure(&mut self, error: &ApiError) -> String {
        let failure = errors::failure(error.status, &error.to_body().error);
        let chunk = MessageEvent::Error { error: failure };
        format!("event: {}\n{}", chunk.name(), event(&chunk))
    }

    fn farewell(&self) -> &'static str {
        ""
    }
}

fn thought(thinking: String) -> ContentBlock {
    ContentBlock::Thinking {
        thinking,
        signature: String::new(),
    }
}

/// Thoughts come before text and text before calls, as models answer.
fn blocks(message: OutputMessage) -> Vec<ContentBlock> {
    let mut blocks = Vec::new();
    if !message.reasoning.is_empty() {
        blocks.push(thought(message.reasoning));
    }
    if !message.content.is_empty() {
        blocks.push(ContentBlock::Text {
            text: message.content,
        });
    }
    let calls = message.tool_calls.into_iter();
    blocks.extend(calls.map(|call| ContentBlock::ToolUse {
        input: input(call.arguments),
        id: call.id,
        name: call.name,
    }));
    blocks
}

/// A call's arguments: an object, unless the model broke its format.
fn input(arguments: String) -> Value {
    match serde_json::from_str(&arguments) {
        Ok(object @ Value::Object(_)) => object,
        _ if arguments.is_empty() => json!({}),
        _ => Value::String(arguments),
    }
}
