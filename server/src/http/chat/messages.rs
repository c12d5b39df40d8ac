//! Messages as clients send them, to messages as templates expect them.

use super::super::Limits;
use super::super::error::ApiError;
use odmoe_openapi::{ChatMessage, Content, ContentPart};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";

/// The conversation as the template's `messages`.
pub(super) fn for_template(messages: Vec<ChatMessage>, limits: &Limits) -> Result<Value, ApiError> {
    if messages.is_empty() {
        return Err(ApiError::invalid(
            "messages",
            "messages is empty; send at least one",
        ));
    }
    if messages.len() > limits.messages {
        let (count, most) = (messages.len(), limits.messages);
        let message = format!("messages has {count} entries; at most {most} fit");
        return Err(ApiError::invalid("messages", message));
    }
    let converted = messages
        .into_iter()
        .enumerate()
        .map(|(place, message)| convert(&format!("messages[{place}]"), message, limits));
    Ok(Value::Array(converted.collect::<Result<_, _>>()?))
}

fn convert(at: &str, message: ChatMessage, limits: &Limits) -> Result<Value, ApiError> {
    let role = match message.role.as_str() {
        "developer" => "system",
        "system" | "user" | "assistant" | "tool" => &message.role,
        _ => {
            let text = "role must be system, developer, user, assistant or tool";
            return Err(ApiError::invalid(format!("{at}.role"), text));
        }
    };
    let mut converted = Map::new();
    converted.insert("role".into(), role.into());
    let content = match message.content {
        Some(Content::Text(text)) => text,
        Some(Content::Parts(parts)) => join(at, parts, limits)?,
        None if role == "assistant" => String::new(),
        None => {
            let text = "content is missing; only the assistant's may be null";
            return Err(ApiError::invalid(format!("{at}.content"), text));
        }
    };
    converted.insert("content".into(), content.into());
    let texts = [
        ("name", message.name),
        ("reasoning_content", message.reasoning_content),
        ("tool_call_id", message.tool_call_id),
    ];
    for (key, text) in texts {
        if let Some(text) = text {
            converted.insert(key.into(), text.into());
        }
    }
    if let Some(calls) = message.tool_calls.filter(|calls| !calls.is_empty()) {
        if calls.len() > limits.tools {
            let text = format!(
                "tool_calls has {} entries; at most {} fit",
                calls.len(),
                limits.tools
            );
            return Err(ApiError::invalid(format!("{at}.tool_calls"), text));
        }
        let calls = calls.into_iter().map(with_arguments_as_object).collect();
        converted.insert("tool_calls".into(), Value::Array(calls));
    }
    Ok(Value::Object(converted))
}

/// Mistral's templates take ids of calls only if they have 9 letters and digits: others become such, the same for the same.
pub(super) fn shorten_ids(messages: &mut Value) {
    for message in messages.as_array_mut().into_iter().flatten() {
        if let Some(id) = message.get_mut("tool_call_id") {
            shorten(id);
        }
        let calls = message.get_mut("tool_calls").and_then(Value::as_array_mut);
        for call in calls.into_iter().flatten() {
            if let Some(id) = call.get_mut("id") {
                shorten(id);
            }
        }
    }
}

fn shorten(id: &mut Value) {
    let Some(text) = id.as_str() else { return };
    if text.len() == 9 && text.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return;
    }
    let digest = Sha256::digest(text.as_bytes());
    let digits = digest
        .iter()
        .take(9)
        .map(|byte| DIGITS[usize::from(*byte) % DIGITS.len()]);
    *id = digits.map(char::from).collect::<String>().into();
}

fn join(at: &str, parts: Vec<ContentPart>, limits: &Limits) -> Result<String, ApiError> {
    if parts.len() > limits.content_parts {
        let (count, most) = (parts.len(), limits.content_parts);
        let text = format!("content has {count} parts; at most {most} fit");
        return Err(ApiError::invalid(format!("{at}.content"), text));
    }
    let mut texts = Vec::with_capacity(parts.len());
    for (place, part) in parts.into_iter().enumerate() {
        match (part.kind.as_str(), part.text) {
            ("text", Some(text)) => texts.push(text),
            ("text", None) => {
                let at = format!("{at}.content[{place}].text");
                return Err(ApiError::invalid(at, "a text part must have text"));
            }
            _ => {
                let at = format!("{at}.content[{place}].type");
                return Err(ApiError::unsupported(
                    at,
                    "only parts of type \"text\" are supported",
                ));
            }
        }
    }
    Ok(texts.join("\n"))
}

/// OpenAI sends a call's arguments as JSON in a string; templates print an object.
fn with_arguments_as_object(mut call: Value) -> Value {
    if let Some(arguments) = call.pointer_mut("/function/arguments") {
        let parsed = arguments
            .as_str()
            .and_then(|text| serde_json::from_str::<Value>(text).ok());
        if let Some(object @ Value::Object(_)) = parsed {
            *arguments = object;
        }
    }
    call
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(given: Value, expected: Result<Value, &str>) {
        let messages: Vec<ChatMessage> = serde_json::from_value(given).unwrap();
        match (for_template(messages, &Limits::default()), expected) {
            (Ok(got), Ok(expected)) => assert_eq!(got, expected),
            (Err(got), Err(param)) => {
                assert_eq!(got.to_body().error.param.as_deref(), Some(param));
            }
            (got, expected) => panic!("{got:?} where {expected:?} was expected"),
        }
    }

    #[test]
    fn text_and_parts_become_text() {
        check(
            json!([
                {"role": "developer", "content": "be brief"},
                {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
                {"role": "assistant", "content": null, "reasoning_content": "hm"},
            ]),
            Ok(json!([
                {"role": "system", "content": "be brief"},
                {"role": "user", "content": "a\nb"},
                {"role": "assistant", "content": "", "reasoning_content": "hm"},
            ])),
        );
    }

    #[test]
    fn arguments_of_calls_become_objects_where_they_are() {
        let call = |arguments: Value| json!({"id": "1", "function": {"name": "f", "arguments": arguments}});
        let message = |arguments| json!([{"role": "assistant", "tool_calls": [call(arguments)]}]);
        let expected = |arguments| json!([{"role": "assistant", "content": "", "tool_calls": [call(arguments)]}]);
        check(message(json!("{\"x\": 1}")), Ok(expected(json!({"x": 1}))));
        check(message(json!("{broken")), Ok(expected(json!("{broken"))));
    }

    #[test]
    fn ids_that_mistral_refuses_are_shortened_alike() {
        let call = |id: &str| json!({"role": "assistant", "tool_calls": [{"id": id, "function": {"name": "f"}}]});
        let mut messages = json!([
            call("call_0123456789"),
            {"role": "tool", "tool_call_id": "call_0123456789", "content": "x"},
            call("abcDEF123"),
        ]);
        shorten_ids(&mut messages);
        let short = messages[0]["tool_calls"][0]["id"].as_str().unwrap();
        assert!(short.len() == 9 && short.bytes().all(|b| b.is_ascii_alphanumeric()));
        assert_eq!(messages[1]["tool_call_id"], short);
        assert_eq!(messages[2]["tool_calls"][0]["id"], "abcDEF123");
    }

    #[test]
    fn what_no_template_could_show_is_refused_by_its_place() {
        check(json!([]), Err("messages"));
        check(
            json!([{"role": "user", "content": "a"}, {"role": "wizard", "content": "b"}]),
            Err("messages[1].role"),
        );
        check(json!([{"role": "user"}]), Err("messages[0].content"));
        check(
            json!([{"role": "user", "content": [{"type": "text"}]}]),
            Err("messages[0].content[0].text"),
        );
        check(
            json!([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]}]),
            Err("messages[0].content[0].type"),
        );
    }
}
