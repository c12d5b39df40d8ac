//! Anthropic's messages, to the messages of a chat.

use super::super::Limits;
use super::super::error::ApiError;
use super::super::parts::{self, message, required};
use odmoe_openapi::{ChatMessage, Content, MessageParam};
use serde_json::{Value, json};

/// The conversation, with `system` before it.
pub(super) fn messages(
    system: Option<&Value>,
    given: &[MessageParam],
    limits: &Limits,
) -> Result<Vec<ChatMessage>, ApiError> {
    if given.len() > limits.messages {
        let (count, most) = (given.len(), limits.messages);
        let text = format!("messages has {count} entries; at most {most} fit");
        return Err(ApiError::invalid("messages", text));
    }
    if given.last().is_some_and(|last| last.role == "assistant") {
        let text = "the last message is the assistant's, but an answer cannot be begun for it; end with a user's";
        return Err(ApiError::unsupported("messages", text));
    }
    let mut messages = Vec::new();
    let system = system
        .map(|system| text(system, "system", limits))
        .transpose()?;
    if let Some(system) = system.filter(|system| !system.is_empty()) {
        messages.push(message("system", system));
    }
    for (place, given) in given.iter().enumerate() {
        let at = format!("messages[{place}].content");
        match given.role.as_str() {
            "user" => add_user(&mut messages, &given.content, &at, limits)?,
            "assistant" => messages.push(assistant(&given.content, &at, limits)?),
            _ => {
                let text = "role must be user or assistant; a system text goes into system";
                return Err(ApiError::invalid(format!("messages[{place}].role"), text));
            }
        }
    }
    Ok(messages)
}

/// The blocks of a content; None if it is one text.
fn blocks<'a>(
    content: &'a Value,
    at: &str,
    limits: &Limits,
) -> Result<Option<&'a [Value]>, ApiError> {
    match content {
        Value::String(_) => Ok(None),
        Value::Array(blocks) => {
            parts::check_count(blocks.len(), at, limits)?;
            Ok(Some(blocks))
        }
        _ => Err(ApiError::invalid(
            at,
            "content must be a string or a list of blocks",
        )),
    }
}

fn text(content: &Value, at: &str, limits: &Limits) -> Result<String, ApiError> {
    parts::text(content, at, limits, |kind| {
        (kind == "text").then_some("text")
    })
}

/// What a user says, and the results of tools, in the order of the blocks.
fn add_user(
    messages: &mut Vec<ChatMessage>,
    content: &Value,
    at: &str,
    limits: &Limits,
) -> Result<(), ApiError> {
    let Some(blocks) = blocks(content, at, limits)? else {
        messages.push(message("user", text(content, at, limits)?));
        return Ok(());
    };
    let mut said: Vec<&str> = Vec::new();
    for (place, block) in blocks.iter().enumerate() {
        let at = format!("{at}[{place}]");
        match block["type"].as_str() {
            Some("text") => said.push(required(block, "text", &at)?),
            Some("tool_result") => {
                if !said.is_empty() {
                    messages.push(message("user", said.join("\n")));
                    said.clear();
                }
                let result = text(&block["content"], &format!("{at}.content"), limits)?;
                messages.push(ChatMessage {
                    tool_call_id: Some(required(block, "tool_use_id", &at)?.to_owned()),
                    ..message("tool", result)
                });
            }
            _ => return Err(unsupported(&at)),
        }
    }
    if !said.is_empty() || blocks.is_empty() {
        messages.push(message("user", said.join("\n")));
    }
    Ok(())
}

/// What the assistant thought, said and called.
fn assistant(content: &Value, at: &str, limits: &Limits) -> Result<ChatMessage, ApiError> {
    let Some(blocks) = blocks(content, at, limits)? else {
        return Ok(message("assistant", text(content, at, limits)?));
    };
    let (mut said, mut thoughts, mut calls) = (Vec::new(), Vec::new(), Vec::new());
    for (place, block) in blocks.iter().enumerate() {
        let at = format!("{at}[{place}]");
        match block["type"].as_str() {
            Some("text") => said.push(required(block, "text", &at)?),
            Some("thinking") => thoughts.push(required(block, "thinking", &at)?),
            // Only its own makers can read it.
            Some("redacted_thinking") => {}
            Some("tool_use") => calls.push(json!({
                "id": required(block, "id", &at)?,
                "type": "function",
                "function": {
                    "name": required(block, "name", &at)?,
                    "arguments": block["input"].to_string(),
                },
            })),
            _ => return Err(unsupported(&at)),
        }
    }
    Ok(ChatMessage {
        role: "assistant".into(),
        content: (!said.is_empty()).then(|| Content::Text(said.join("\n"))),
        reasoning_content: (!thoughts.is_empty()).then(|| thoughts.join("\n")),
        tool_calls: (!calls.is_empty()).then_some(calls),
        ..ChatMessage::default()
    })
}

fn unsupported(at: &str) -> ApiError {
    let text =
        "blocks must be text, thinking, tool_use (the assistant's) or tool_result (the user's)";
    ApiError::unsupported(format!("{at}.type"), text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(system: Value, given: Value) -> Result<Vec<Value>, ApiError> {
        let given: Vec<MessageParam> = serde_json::from_value(given).unwrap();
        let system = Some(system).filter(|system| !system.is_null());
        let messages = messages(system.as_ref(), &given, &Limits::default())?;
        let without_nulls = |message: &ChatMessage| {
            let mut message = serde_json::to_value(message).unwrap();
            message
                .as_object_mut()
                .unwrap()
                .retain(|_, value| !value.is_null());
            message
        };
        Ok(messages.iter().map(without_nulls).collect())
    }

    #[test]
    fn blocks_become_messages_in_their_order() {
        let system = json!([{"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}, {"type": "text", "text": "b"}]);
        let given = json!([
            {"role": "user", "content": "hi"},
            {"role": "assistant", "content": [
                {"type": "thinking", "thinking": "hm", "signature": ""},
                {"type": "redacted_thinking", "data": "x"},
                {"type": "text", "text": "I look."},
                {"type": "tool_use", "id": "1", "name": "f", "input": {"x": 1}},
                {"type": "tool_use", "id": "2", "name": "g", "input": {}},
            ]},
            {"role": "user", "content": [
                {"type": "tool_result", "tool_use_id": "1", "content": "one"},
                {"type": "tool_result", "tool_use_id": "2", "content": [{"type": "text", "text": "two"}]},
                {"type": "text", "text": "go"}, {"type": "text", "text": "on"},
            ]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "3"}]},
        ]);
        let call = |id: &str, name: &str, arguments: &str| json!({"id": id, "type": "function", "function": {"name": name, "arguments": arguments}});
        let expected = json!([
            {"role": "system", "content": "a\nb"},
            {"role": "user", "content": "hi"},
            {"role": "assistant", "content": "I look.", "reasoning_content": "hm",
             "tool_calls": [call("1", "f", "{\"x\":1}"), call("2", "g", "{}")]},
            {"role": "tool", "content": "one", "tool_call_id": "1"},
            {"role": "tool", "content": "two", "tool_call_id": "2"},
            {"role": "user", "content": "go\non"},
            {"role": "tool", "content": "", "tool_call_id": "3"},
        ]);
        assert_eq!(json!(read(system, given).unwrap()), expected);
    }

    #[test]
    fn what_cannot_be_read_is_refused_by_its_place() {
        let user = |content: Value| json!([{"role": "user", "content": content}]);
        let cases = [
            (json!(5), user(json!("a")), "system"),
            (
                json!([{"type": "image"}]),
                user(json!("a")),
                "system[0].type",
            ),
            (
                json!(null),
                json!([{"role": "system", "content": "a"}]),
                "messages[0].role",
            ),
            (json!(null), user(json!(null)), "messages[0].content"),
            (
                json!(null),
                user(json!([{"type": "image"}])),
                "messages[0].content[0].type",
            ),
            (
                json!(null),
                user(json!([{"type": "text"}])),
                "messages[0].content[0].text",
            ),
            (
                json!(null),
                user(json!([{"type": "tool_use"}])),
                "messages[0].content[0].type",
            ),
            (
                json!(null),
                user(json!([{"type": "tool_result"}])),
                "messages[0].content[0].tool_use_id",
            ),
            (
                json!(null),
                json!([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]),
                "messages",
            ),
            (
                json!(null),
                json!([{"role": "assistant", "content": [{"type": "tool_use", "id": "1"}]}, {"role": "user", "content": "a"}]),
                "messages[0].content[0].name",
            ),
        ];
        for (system, given, param) in cases {
            let error = read(system, given.clone()).unwrap_err();
            assert_eq!(
                error.to_body().error.param.as_deref(),
                Some(param),
                "{given}"
            );
        }
    }
}
