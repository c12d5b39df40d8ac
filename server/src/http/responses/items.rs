//! The input of a stored response as items, page by page.

use super::super::error::ApiError;
use super::store::Kept;
use axum::extract::Query;
use axum::extract::rejection::QueryRejection;
use odmoe_openapi::{ChatMessage, Content, InputItems};
use serde::Deserialize;
use serde_json::{Value, json};

const LIMIT: usize = 20;
const LIMIT_MAX: usize = 100;

/// Which page.
#[derive(Debug, Deserialize)]
pub(crate) struct Page {
    limit: Option<usize>,
    order: Option<Order>,
    after: Option<String>,
}

/// In which order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Order {
    Asc,
    Desc,
}

/// The query of a request, with the field that is wrong where one is.
pub(super) fn query<T>(query: Result<Query<T>, QueryRejection>) -> Result<T, ApiError> {
    match query {
        Ok(Query(query)) => Ok(query),
        Err(error) => {
            let text = format!("the query cannot be read: {}", error.body_text());
            Err(ApiError::invalid("query", text))
        }
    }
}

/// A page of a response's input: the whole conversation before it, the last item first unless told otherwise.
pub(super) fn page(kept: &Kept, page: &Page) -> Result<InputItems, ApiError> {
    let limit = page.limit.unwrap_or(LIMIT);
    if !(1..=LIMIT_MAX).contains(&limit) {
        let text = format!("limit is {limit}; it must be from 1 to {LIMIT_MAX}");
        return Err(ApiError::invalid("limit", text));
    }
    let input = kept
        .messages
        .split_last()
        .map_or(&[][..], |(_, input)| input);
    let mut items = Numbered::new(&kept.object.id);
    input.iter().for_each(|message| items.add(message));
    let mut items = items.items;
    if page.order != Some(Order::Asc) {
        items.reverse();
    }
    let first = match &page.after {
        None => 0,
        Some(after) => {
            let place = items.iter().position(|item| item["id"] == after.as_str());
            let place = place.ok_or_else(|| {
                ApiError::invalid("after", "no item of this response has this id")
            })?;
            place + 1
        }
    };
    let has_more = items.len() - first > limit;
    let data: Vec<Value> = items.into_iter().skip(first).take(limit).collect();
    let id = |item: Option<&Value>| item.and_then(|item| item["id"].as_str()).map(str::to_owned);
    Ok(InputItems {
        object: "list".into(),
        first_id: id(data.first()),
        last_id: id(data.last()),
        has_more,
        data,
    })
}

/// Items with ids that are the same whenever they are asked for.
struct Numbered<'a> {
    response: &'a str,
    items: Vec<Value>,
}

impl<'a> Numbered<'a> {
    fn new(response_id: &'a str) -> Self {
        Self {
            response: response_id.strip_prefix("resp_").unwrap_or(response_id),
            items: Vec::new(),
        }
    }

    fn push(&mut self, prefix: &str, mut item: Value) {
        let id = format!("{prefix}_{}_{}", self.response, self.items.len());
        item["id"] = id.into();
        item["status"] = "completed".into();
        self.items.push(item);
    }

    /// What the assistant thought comes before what it said and called.
    fn add(&mut self, message: &ChatMessage) {
        let text = message.content.as_ref().map(text_of);
        match message.role.as_str() {
            "tool" => {
                let item = json!({
                    "type": "function_call_output",
                    "call_id": message.tool_call_id,
                    "output": text.unwrap_or_default(),
                });
                self.push("fco", item);
            }
            "assistant" => self.add_assistant(message, text),
            role => {
                let part = json!({"type": "input_text", "text": text.unwrap_or_default()});
                self.push(
                    "msg",
                    json!({"type": "message", "role": role, "content": [part]}),
                );
            }
        }
    }

    fn add_assistant(&mut self, message: &ChatMessage, text: Option<String>) {
        if let Some(thoughts) = &message.reasoning_content {
            let part = json!({"type": "reasoning_text", "text": thoughts});
            self.push(
                "rs",
                json!({"type": "reasoning", "summary": [], "content": [part]}),
            );
        }
        if let Some(text) = text {
            let part = json!({"type": "output_text", "text": text, "annotations": []});
            self.push(
                "msg",
                json!({"type": "message", "role": "assistant", "content": [part]}),
            );
        }
        for call in message.tool_calls.iter().flatten() {
            let function = &call["function"];
            let item = json!({
                "type": "function_call",
                "call_id": call["id"],
                "name": function["name"],
                "arguments": function["arguments"],
            });
            self.push("fc", item);
        }
    }
}

fn text_of(content: &Content) -> String {
    match content {
        Content::Text(text) => text.clone(),
        Content::Parts(parts) => {
            let texts = parts.iter().filter_map(|part| part.text.as_deref());
            texts.collect::<Vec<_>>().join("\n")
        }
    }
}
