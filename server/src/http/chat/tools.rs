//! The tools of a request, and how far the model may choose among them.

use super::super::Limits;
use super::super::error::ApiError;
use odmoe_openapi::ChatCompletionRequest;
use odmoe_text::output::ToolSpec;
use serde_json::{Value, json};

/// A function's name may have so many bytes.
const LONGEST_NAME_BYTES: usize = 256;

/// What a request says of tools.
#[derive(Debug, Default)]
pub(super) struct Tools {
    /// What the template shows; none where the model is not to know of tools.
    pub(super) shown: Option<Value>,
    /// What the answer is read and bounded by; empty where no call may come.
    pub(super) specs: Vec<ToolSpec>,
    pub(super) choice: ToolChoice,
    /// Whether one answer may have several calls.
    pub(super) is_parallel: bool,
}

/// As `tool_choice` says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum ToolChoice {
    #[default]
    Auto,
    None,
    /// One of `specs`, which holds only the named one where one was named.
    Required,
}

impl Tools {
    pub(super) fn new(
        request: &mut ChatCompletionRequest,
        limits: &Limits,
    ) -> Result<Self, ApiError> {
        let tools = request.tools.take().unwrap_or_default();
        if tools.len() > limits.tools {
            let (count, most) = (tools.len(), limits.tools);
            let message = format!("tools has {count} entries; at most {most} fit");
            return Err(ApiError::invalid("tools", message));
        }
        let specs = tools.iter().enumerate().map(|(at, tool)| spec(at, tool));
        let mut specs: Vec<ToolSpec> = specs.collect::<Result<_, _>>()?;
        let (choice, named) = choice(request.tool_choice.as_ref())?;
        if let Some(name) = named {
            specs.retain(|spec| spec.name == name);
            if specs.is_empty() {
                let message = "tool_choice names a function that is not in tools; add it there, or name another";
                return Err(ApiError::invalid("tool_choice", message));
            }
        }
        if choice == ToolChoice::Required && specs.is_empty() {
            let message = "tool_choice asks for a call, but tools is empty; send at least one tool";
            return Err(ApiError::invalid("tool_choice", message));
        }
        let is_hidden = tools.is_empty() || choice == ToolChoice::None;
        if choice == ToolChoice::None {
            specs.clear();
        }
        Ok(Self {
            shown: (!is_hidden).then_some(Value::Array(tools)),
            specs,
            choice,
            is_parallel: request.parallel_tool_calls.unwrap_or(true),
        })
    }
}

fn spec(at: usize, tool: &Value) -> Result<ToolSpec, ApiError> {
    let at = |member: &str| format!("tools[{at}].{member}");
    if tool.get("type").is_some_and(|kind| kind != "function") {
        let message = "only tools of type \"function\" are supported";
        return Err(ApiError::unsupported(at("type"), message));
    }
    let function = tool.get("function");
    let name = function.and_then(|function| function.get("name")?.as_str());
    let name = name.filter(|name| (1..=LONGEST_NAME_BYTES).contains(&name.len()));
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | ':' | '/');
    let Some(name) = name.filter(|name| name.chars().all(is_plain)) else {
        let message = format!(
            "a function must have a name of 1 to {LONGEST_NAME_BYTES} letters, digits, '_', '-', '.', ':' or '/'"
        );
        return Err(ApiError::invalid(at("function.name"), message));
    };
    let parameters = function.and_then(|function| function.get("parameters"));
    let parameters = match parameters {
        None | Some(Value::Null) => json!({"type": "object", "properties": {}}),
        Some(schema @ Value::Object(_)) => schema.clone(),
        Some(_) => {
            let message = "parameters must be a JSON schema, an object";
            return Err(ApiError::invalid(at("function.parameters"), message));
        }
    };
    Ok(ToolSpec {
        name: name.to_owned(),
        parameters,
    })
}

/// The choice, and the function that it names.
fn choice(given: Option<&Value>) -> Result<(ToolChoice, Option<&str>), ApiError> {
    let Some(given) = given else {
        return Ok((ToolChoice::Auto, None));
    };
    match given.as_str() {
        Some("auto") => return Ok((ToolChoice::Auto, None)),
        Some("none") => return Ok((ToolChoice::None, None)),
        Some("required") => return Ok((ToolChoice::Required, None)),
        _ => {}
    }
    let name = match given.get("type").and_then(Value::as_str) {
        Some("function") => given.pointer("/function/name").and_then(Value::as_str),
        _ => None,
    };
    match name {
        Some(name) => Ok((ToolChoice::Required, Some(name))),
        None => Err(ApiError::invalid(
            "tool_choice",
            "tool_choice must be \"auto\", \"none\", \"required\" or {\"type\": \"function\", \"function\": {\"name\": …}}",
        )),
    }
}
