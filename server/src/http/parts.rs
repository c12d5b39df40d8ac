//! Reading the loose shapes in which other APIs hold conversations; what does not fit is refused by its place.

use super::Limits;
use super::error::ApiError;
use odmoe_openapi::{ChatMessage, Content};
use serde_json::Value;

/// A member that must be a string. `at` is where the item stands.
pub(crate) fn required<'a>(item: &'a Value, member: &str, at: &str) -> Result<&'a str, ApiError> {
    item[member].as_str().ok_or_else(|| {
        let text = format!("{member} is missing; it must be a string");
        ApiError::invalid(format!("{at}.{member}"), text)
    })
}

/// A text, or the texts of a list of parts, joined by line breaks. `member` tells which member of a part of some type is
/// its text; parts of other types are refused.
pub(crate) fn text(
    content: &Value,
    at: &str,
    limits: &Limits,
    member: impl Fn(&str) -> Option<&'static str>,
) -> Result<String, ApiError> {
    let parts = match content {
        Value::Null => return Ok(String::new()),
        Value::String(text) => return Ok(text.clone()),
        Value::Array(parts) => parts,
        _ => return Err(ApiError::invalid(at, "must be a string or a list of parts")),
    };
    check_count(parts.len(), at, limits)?;
    let texts = parts.iter().enumerate().map(|(place, part)| {
        let at = format!("{at}[{place}]");
        match part["type"].as_str().and_then(&member) {
            Some(member) => required(part, member, &at),
            None => Err(ApiError::unsupported(
                format!("{at}.type"),
                "only parts of text are supported here",
            )),
        }
    });
    Ok(texts.collect::<Result<Vec<_>, _>>()?.join("\n"))
}

/// Refuses a message of too many parts.
pub(crate) fn check_count(count: usize, at: &str, limits: &Limits) -> Result<(), ApiError> {
    let most = limits.content_parts;
    if count <= most {
        return Ok(());
    }
    let text = format!("there are {count} parts; at most {most} fit");
    Err(ApiError::invalid(at, text))
}

/// A message of text.
pub(crate) fn message(role: &str, content: String) -> ChatMessage {
    ChatMessage {
        role: role.into(),
        content: Some(Content::Text(content)),
        ..ChatMessage::default()
    }
}
