//! One response while it is made: parts of the answer in, items and events out.

use super::super::answer::{Piece, TokenScore};
use super::super::app::App;
use super::super::chat::token_logprobs;
use super::super::error::ApiError;
use super::super::respond::{Dialect, End, WholeAnswer, named_event};
use super::log::EventLog;
use super::output::{
    as_message, new_id, new_message, parts, reasoning_done, reasoning_text, text_done,
};
use super::store::{Kept, Owner};
use odmoe_openapi::{
    ChatMessage, FinishReason, IncompleteDetails, InputTokenDetails, OutputItem,
    OutputTokenDetails, ResponseEvent, ResponseEventBody, ResponseFailure, ResponseObject,
    ResponsePart, ResponseStatus, ResponseUsage, Usage,
};
use odmoe_text::Tokenizer;
use odmoe_text::output::OutputPart;
use std::sync::Arc;

/// Keeps the response when it is over.
pub(super) struct Keeper {
    pub(super) app: Arc<App>,
    pub(super) owner: Owner,
    pub(super) is_kept: bool,
    /// The conversation up to the response, without instructions.
    pub(super) messages: Vec<ChatMessage>,
    /// Where its events go, if others than who asked may follow them.
    pub(super) log: Option<Arc<EventLog>>,
}

/// See the module.
pub(super) struct Turn {
    pub(super) object: ResponseObject,
    pub(super) keeper: Keeper,
    /// The item that is being made; it is not in the object yet.
    open: Option<OutputItem>,
    events: u64,
    tokenizer: Tokenizer,
    with_logprobs: bool,
}

impl Turn {
    pub(super) fn new(
        object: ResponseObject,
        tokenizer: Tokenizer,
        with_logprobs: bool,
        keeper: Keeper,
    ) -> Self {
        Self {
            object,
            keeper,
            open: None,
            events: 0,
            tokenizer,
            with_logprobs,
        }
    }

    /// The response and its conversation as they are now.
    pub(super) fn kept(&self) -> Kept {
        let mut messages = self.keeper.messages.clone();
        messages.push(as_message(&self.object.output));
        Kept {
            object: Arc::new(self.object.clone()),
            messages: Arc::new(messages),
            log: self.keeper.log.clone(),
        }
    }

    /// More of the answer.
    pub(super) fn take(&mut self, piece: Piece) -> Vec<ResponseEvent> {
        let mut scores = piece.scores;
        let mut bodies = Vec::new();
        for part in piece.parts {
            match part {
                OutputPart::Content(text) => {
                    let scores = std::mem::take(&mut scores);
                    self.add_text(text, &scores, &mut bodies);
                }
                OutputPart::Reasoning(text) => self.add_reasoning(text, &mut bodies),
                OutputPart::ToolCall { id, name, .. } => {
                    let item = OutputItem::FunctionCall {
                        id: new_id("fc"),
                        status: ResponseStatus::InProgress,
                        call_id: id,
                        name,
                        arguments: String::new(),
                    };
                    self.begin(item, &mut bodies);
                }
                OutputPart::Arguments { text, .. } => self.add_arguments(text, &mut bodies),
            }
        }
        self.number(bodies)
    }

    fn add_text(
        &mut self,
        delta: String,
        scores: &[TokenScore],
        bodies: &mut Vec<ResponseEventBody>,
    ) {
        if !matches!(self.open, Some(OutputItem::Message { .. })) {
            self.begin(new_message(), bodies);
        }
        let output_index = self.object.output.len() as u32;
        let added = match self.with_logprobs {
            true => token_logprobs(&self.tokenizer, scores),
            false => Vec::new(),
        };
        if let Some(OutputItem::Message { id, content, .. }) = &mut self.open {
            content[0].text.push_str(&delta);
            content[0].logprobs.extend(added.iter().cloned());
            bodies.push(ResponseEventBody::TextDelta {
                item_id: id.clone(),
                output_index,
                content_index: 0,
                delta,
                logprobs: added,
            });
        }
    }

    fn add_reasoning(&mut self, delta: String, bodies: &mut Vec<ResponseEventBody>) {
        if !matches!(self.open, Some(OutputItem::Reasoning { .. })) {
            let item = OutputItem::Reasoning {
                id: new_id("rs"),
                status: ResponseStatus::InProgress,
                summary: Vec::new(),
                content: vec![reasoning_text(String::new())],
            };
            self.begin(item, bodies);
        }
        let output_index = self.object.output.len() as u32;
        if let Some(OutputItem::Reasoning { id, content, .. }) = &mut self.open {
            content[0].text.push_str(&delta);
            bodies.push(ResponseEventBody::ReasoningDelta {
                item_id: id.clone(),
                output_index,
                content_index: 0,
                delta,
            });
        }
    }

    fn add_arguments(&mut self, delta: String, bodies: &mut Vec<ResponseEventBody>) {
        let output_index = self.object.output.len() as u32;
        if let Some(OutputItem::FunctionCall { id, arguments, .. }) = &mut self.open {
            arguments.push_str(&delta);
            bodies.push(ResponseEventBody::ArgumentsDelta {
                item_id: id.clone(),
                output_index,
                delta,
            });
        }
    }

    /// Begins an item; the one before it is whole. Texts of items are announced one by one.
    fn begin(&mut self, item: OutputItem, bodies: &mut Vec<ResponseEventBody>) {
        self.close(ResponseStatus::Completed, bodies);
        let output_index = self.object.output.len() as u32;
        let mut announced = item.clone();
        let part = match (&mut announced, &item) {
            (OutputItem::Message { content, .. }, OutputItem::Message { id, .. }) => {
                content.pop().map(|text| (id, ResponsePart::Text(text)))
            }
            (OutputItem::Reasoning { content, .. }, OutputItem::Reasoning { id, .. }) => content
                .pop()
                .map(|text| (id, ResponsePart::Reasoning(text))),
            _ => None,
        };
        bodies.push(ResponseEventBody::ItemAdded {
            output_index,
            item: announced,
        });
        if let Some((id, part)) = part {
            bodies.push(ResponseEventBody::PartAdded {
                item_id: id.clone(),
                output_index,
                content_index: 0,
                part,
            });
        }
        self.open = Some(item);
    }

    /// Ends the item that is being made, if there is one.
    fn close(&mut self, end: ResponseStatus, bodies: &mut Vec<ResponseEventBody>) {
        let Some(mut item) = self.open.take() else {
            return;
        };
        let output_index = self.object.output.len() as u32;
        match &mut item {
            OutputItem::Message {
                id,
                status,
                content,
                ..
            } => {
                *status = end;
                bodies.extend(text_done(id, output_index, &content[0]));
            }
            OutputItem::Reasoning {
                id,
                status,
                content,
                ..
            } => {
                *status = end;
                bodies.extend(reasoning_done(id, output_index, &content[0]));
            }
            OutputItem::FunctionCall {
                id,
                status,
                name,
                arguments,
                ..
            } => {
                *status = end;
                bodies.push(ResponseEventBody::ArgumentsDone {
                    item_id: id.clone(),
                    output_index,
                    name: name.clone(),
                    arguments: arguments.clone(),
                });
            }
        }
        bodies.push(ResponseEventBody::ItemDone {
            output_index,
            item: item.clone(),
        });
        self.object.output.push(item);
    }

    /// The answer has ended.
    pub(super) fn end(&mut self, reason: FinishReason) -> Vec<ResponseEvent> {
        let mut bodies = Vec::new();
        if self.open.is_none() && self.object.output.is_empty() {
            self.begin(new_message(), &mut bodies);
        }
        self.object.status = match reason {
            FinishReason::Length => {
                self.object.incomplete_details = Some(IncompleteDetails {
                    reason: "max_output_tokens".into(),
                });
                ResponseStatus::Incomplete
            }
            _ => ResponseStatus::Completed,
        };
        self.close(self.object.status, &mut bodies);
        self.number(bodies)
    }

    /// The response is over.
    fn finish(&mut self, usage: Usage) {
        self.count(usage);
        self.keep();
    }

    /// The same, but it is not kept yet; its last event.
    pub(super) fn last(&mut self, usage: Usage) -> Vec<ResponseEvent> {
        self.count(usage);
        let response = self.as_it_is();
        self.number(vec![match response.status {
            ResponseStatus::Incomplete => ResponseEventBody::Incomplete { response },
            _ => ResponseEventBody::Completed { response },
        }])
    }

    fn count(&mut self, usage: Usage) {
        self.object.usage = Some(ResponseUsage {
            input_tokens: usage.prompt_tokens,
            input_tokens_details: InputTokenDetails {
                cached_tokens: usage.prompt_tokens_details.cached_tokens,
                ..InputTokenDetails::default()
            },
            output_tokens: usage.completion_tokens,
            output_tokens_details: OutputTokenDetails::default(),
            total_tokens: usage.total_tokens,
        });
    }

    /// The response cannot be made.
    pub(super) fn fail(&mut self, error: &ApiError) -> Vec<ResponseEvent> {
        self.break_off(ResponseStatus::Failed, Some(failure(error)));
        let response = self.as_it_is();
        self.number(vec![ResponseEventBody::Failed { response }])
    }

    /// Nobody wants the response any more.
    pub(super) fn cancel(&mut self) {
        self.break_off(ResponseStatus::Cancelled, None);
    }

    fn break_off(&mut self, status: ResponseStatus, failure: Option<ResponseFailure>) {
        self.close(ResponseStatus::Incomplete, &mut Vec::new());
        self.object.status = status;
        self.object.error = failure;
    }

    pub(super) fn keep(&self) {
        let keeper = &self.keeper;
        if self.object.background {
            keeper.app.responses.finish(self.kept());
        } else if keeper.is_kept {
            keeper.app.responses.keep(keeper.owner, self.kept());
        }
    }

    fn number(&mut self, bodies: Vec<ResponseEventBody>) -> Vec<ResponseEvent> {
        let mut number = |body| {
            let sequence_number = self.events;
            self.events += 1;
            ResponseEvent {
                sequence_number,
                body,
            }
        };
        bodies.into_iter().map(&mut number).collect()
    }

    fn as_it_is(&self) -> Box<ResponseObject> {
        Box::new(self.object.clone())
    }
}

impl Dialect for Turn {
    type Chunk = ResponseEvent;
    type Whole = ResponseObject;

    fn opening(&mut self, _index: u32) -> Vec<ResponseEvent> {
        let (created, in_progress) = (self.as_it_is(), self.as_it_is());
        self.number(vec![
            ResponseEventBody::Created { response: created },
            ResponseEventBody::InProgress {
                response: in_progress,
            },
        ])
    }

    fn piece(&mut self, _index: u32, piece: Piece) -> Vec<ResponseEvent> {
        self.take(piece)
    }

    fn ending(&mut self, _index: u32, _scores: Vec<TokenScore>, end: End) -> Vec<ResponseEvent> {
        self.end(end.reason)
    }

    fn usage(&mut self, usage: Usage) -> Vec<ResponseEvent> {
        let last = self.last(usage);
        self.keep();
        last
    }

    /// Reasoning comes before content and content before calls, as models answer.
    fn whole(mut self, answers: Vec<WholeAnswer>, usage: Usage) -> ResponseObject {
        for answer in answers {
            self.take(Piece {
                parts: parts(answer.message),
                scores: answer.scores,
            });
            self.end(answer.end.reason);
        }
        self.finish(usage);
        self.object
    }

    fn name(chunk: &ResponseEvent) -> Option<&'static str> {
        Some(chunk.body.name())
    }

    fn failure(&mut self, error: &ApiError) -> String {
        let events = self.fail(error);
        self.keep();
        events.iter().map(named_event::<Self>).collect()
    }

    fn farewell(&self) -> &'static str {
        ""
    }
}

fn failure(error: &ApiError) -> ResponseFailure {
    let code = match error.status.as_u16() {
        429 => "rate_limit_exceeded",
        _ => "server_error",
    };
    ResponseFailure {
        code: code.into(),
        message: error.to_body().error.message,
    }
}
