//! Items of a response's input, to the messages of a chat.

use super::super::Limits;
use super::super::error::ApiError;
use super::super::parts::{self, message, required};
use odmoe_openapi::{ChatMessage, Content, ResponsesInput};
use serde_json::{Value, json};

/// The messages of an input. What the assistant thought, said and called without anybody else between is one message.
pub(super) fn messages(
    input: ResponsesInput,
    limits: &Limits,
) -> Result<Vec<ChatMessage>, ApiError> {
    let items = match input {
        ResponsesInput::Text(text) => return Ok(vec![message("user", text)]),
        ResponsesInput::Items(items) => items,
    };
    if items.len() > limits.messages {
        let (count, most) = (items.len(), limits.messages);
        let text = format!("input has {count} items; at most {most} fit");
        return Err(ApiError::invalid("input", text));
    }
    let mut messages = Vec::new();
    for (place, item) in items.iter().enumerate() {
        let at = format!("input[{place}]");
        add(&mut messages, item, &at, limits)?;
    }
    Ok(messages)
}

fn add(
    messages: &mut Vec<ChatMessage>,
    item: &Value,
    at: &str,
    limits: &Limits,
) -> Result<(), ApiError> {
    match item["type"].as_str() {
        None | Some("message") => add_message(messages, item, at, limits)?,
        Some("reasoning") => {
            let thought = text(&item["content"], &format!("{at}.content"), limits)?;
            let message = assistant(messages, |message| {
                message.content.is_none() && message.tool_calls.is_none()
            });
            let thoughts = message.reasoning_content.get_or_insert_default();
            thoughts.push_str(&thought);
        }
        Some("function_call") => {
            let [id, name, arguments] = ["call_id", "name", "arguments"]
                .map(|member| required(item, member, at).map(str::to_owned));
            let call = json!({
                "id": id?, "type": "function", "function": {"name": name?, "arguments": arguments?},
            });
            let message = assistant(messages, |_| true);
            message.tool_calls.get_or_insert_default().push(call);
        }
        Some("function_call_output") => {
            let output = text(&item["output"], &format!("{at}.output"), limits)?;
            messages.push(ChatMessage {
                tool_call_id: Some(required(item, "call_id", at)?.to_owned()),
                ..message("tool", output)
            });
        }
        Some("item_reference") => {
            let text =
                "items are not kept by themselves; send the item, or use previous_response_id";
            return Err(ApiError::unsupported(format!("{at}.type"), text));
        }
        // What other tools left behind says nothing to this model.
        Some(_) => {}
    }
    Ok(())
}

fn add_message(
    messages: &mut Vec<ChatMessage>,
    item: &Value,
    at: &str,
    limits: &Limits,
) -> Result<(), ApiError> {
    let role = required(item, "role", at)?;
    if item["content"].is_null() {
        let text = "content is missing; send a text or a list of parts";
        return Err(ApiError::invalid(format!("{at}.content"), text));
    }
    let content = text(&item["content"], &format!("{at}.content"), limits)?;
    match role {
        "user" => messages.push(message("user", content)),
        "system" | "developer" => match messages.last_mut() {
            // Many templates know one system message alone, and only in front.
            Some(ChatMessage {
                role,
                content: Some(Content::Text(before)),
                ..
            }) if role == "system" => {
                before.push_str("\n\n");
                before.push_str(&content);
            }
            _ => messages.push(message("system", content)),
        },
        "assistant" => {
            let message = assistant(messages, |message| {
                message.content.is_none() && message.tool_calls.is_none()
            });
            message.content = Some(Content::Text(content));
        }
        _ => {
            let text = "role must be system, developer, user or assistant";
            return Err(ApiError::invalid(format!("{at}.role"), text));
        }
    }
    Ok(())
}

/// The assistant's last message if nobody spoke since and it has room for more, else a new one.
fn assistant(
    messages: &mut Vec<ChatMessage>,
    has_room: impl Fn(&ChatMessage) -> bool,
) -> &mut ChatMessage {
    let goes_on = messages
        .last()
        .is_some_and(|last| last.role == "assistant" && has_room(last));
    if !goes_on {
        messages.push(ChatMessage {
            role: "assistant".into(),
            ..ChatMessage::default()
        });
    }
    messages.last_mut().expect("one was just added")
}

/// A text, or parts of it joined.
fn text(content: &Value, at: &str, limits: &Limits) -> Result<String, ApiError> {
    parts::text(content, at, limits, |kind| match kind {
        "input_text" | "output_text" | "text" | "reasoning_text" | "summary_text" => Some("text"),
        "refusal" => Some("refusal"),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(items: Value, expected: Value) {
        let input = serde_json::from_value(items).unwrap();
        let messages = messages(input, &Limits::default()).unwrap();
        let without_nulls = |message: &ChatMessage| {
            let mut message = serde_json::to_value(message).unwrap();
            message
                .as_object_mut()
                .unwrap()
                .retain(|_, value| !value.is_null());
            message
        };
        let found: Vec<Value> = messages.iter().map(without_nulls).collect();
        assert_eq!(json!(found), expected);
    }

    #[test]
    fn a_text_is_a_users() {
        check(json!("hi"), json!([{"role": "user", "content": "hi"}]));
    }

    #[test]
    fn what_the_assistant_did_in_one_turn_is_one_message() {
        let call = |id: &str| json!({"type": "function_call", "call_id": id, "name": "f", "arguments": "{}"});
        let called = |id: &str| json!({"id": id, "type": "function", "function": {"name": "f", "arguments": "{}"}});
        check(
            json!([
                {"role": "user", "content": [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]},
                {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
                {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "well"}]},
                call("1"), call("2"),
                {"type": "function_call_output", "call_id": "1", "output": "one"},
                {"type": "function_call_output", "call_id": "2", "output": [{"type": "input_text", "text": "two"}]},
                {"type": "web_search_call", "id": "ws_1"},
                {"type": "reasoning", "id": "rs_2", "summary": [], "encrypted_content": "x"},
                {"role": "assistant", "content": "done"},
                {"role": "assistant", "content": "really"},
            ]),
            json!([
                {"role": "user", "content": "a\nb"},
                {"role": "assistant", "content": "well", "reasoning_content": "hm", "tool_calls": [called("1"), called("2")]},
                {"role": "tool", "content": "one", "tool_call_id": "1"},
                {"role": "tool", "content": "two", "tool_call_id": "2"},
                {"role": "assistant", "content": "done", "reasoning_content": ""},
                {"role": "assistant", "content": "really"},
            ]),
        );
    }

    #[test]
    fn system_messages_in_a_row_are_one() {
        check(
            json!([{"role": "system", "content": "a"}, {"role": "developer", "content": "b"}, {"role": "user", "content": "c"}]),
            json!([{"role": "system", "content": "a\n\nb"}, {"role": "user", "content": "c"}]),
        );
    }

    #[test]
    fn what_cannot_be_read_is_refused_by_its_place() {
        let cases = [
            (json!([{}]), "input[0].role"),
            (json!([5]), "input[0].role"),
            (json!([{"role": "user"}]), "input[0].content"),
            (json!([{"role": "wizard", "content": "a"}]), "input[0].role"),
            (json!([{"role": "user", "content": 5}]), "input[0].content"),
            (
                json!([{"role": "user", "content": "a"}, {"role": "user", "content": [{"type": "input_image"}]}]),
                "input[1].content[0].type",
            ),
            (
                json!([{"role": "user", "content": [{"type": "input_text"}]}]),
                "input[0].content[0].text",
            ),
            (
                json!([{"type": "function_call", "call_id": "1", "name": "f"}]),
                "input[0].arguments",
            ),
            (
                json!([{"type": "function_call_output", "output": "x"}]),
                "input[0].call_id",
            ),
            (
                json!([{"type": "item_reference", "id": "x"}]),
                "input[0].type",
            ),
        ];
        for (items, param) in cases {
            let input = serde_json::from_value(items.clone()).unwrap();
            let error = messages(input, &Limits::default()).unwrap_err();
            assert_eq!(
                error.to_body().error.param.as_deref(),
                Some(param),
                "{items}"
            );
        }
    }
}
