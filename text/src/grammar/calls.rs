//! Tool calls as rules, in each family's words.

use super::GrammarError;
use super::source::{AnswerGrammar, prepared, quoted};
use crate::output::{CallFormat, ToolSpec};
use serde_json::Value;
use std::fmt::Write;

/// Adds the rules of one call or several to `rules`; returns what stands for them.
pub(super) fn rules(answer: &AnswerGrammar, rules: &mut String) -> Result<String, GrammarError> {
    let Some(format) = answer.format.calls else {
        let message =
            "this model's chat template shows no format of tool calls, so none can be forced";
        return Err(GrammarError::Refused(message.into()));
    };
    let mut names = Vec::new();
    for (number, tool) in answer.format.tools.iter().enumerate() {
        let name = format!("call_{number}");
        let body = match format {
            CallFormat::Hermes => object(tool, "arguments", "<tool_call>\n", "\n</tool_call>")?,
            CallFormat::Llama3 => object(tool, "parameters", "", "")?,
            CallFormat::Mistral { by_name: false } => object(tool, "arguments", "", "")?,
            CallFormat::Mistral { by_name: true } => {
                let (mark, arguments) = (answer.mark("[TOOL_CALLS]"), answer.mark("[ARGS]"));
                let name = quoted(&tool.name);
                format!("{mark} {name} {arguments} {}", json(&tool.parameters)?)
            }
            CallFormat::Channels => {
                let header = answer.channel(&format!("commentary to=functions.{} json", tool.name));
                format!(
                    "{header} {} {}",
                    json(&tool.parameters)?,
                    answer.mark("<|call|>")
                )
            }
            CallFormat::Xml => xml(tool, &name, rules)?,
            CallFormat::Pythonic | CallFormat::TaggedPythonic { .. } => python(tool, &name, rules)?,
        };
        writeln!(rules, "{name}: {body}").expect("a String");
        names.push(name);
    }
    writeln!(rules, "call: {}", names.join(" | ")).expect("a String");
    Ok(sequence(answer, format))
}

/// One call or several, with what stands around them.
fn sequence(answer: &AnswerGrammar, format: CallFormat) -> String {
    let (open, between, close) = match format {
        CallFormat::Hermes | CallFormat::Xml => (String::new(), "\n", String::new()),
        CallFormat::Mistral { by_name: true } => (String::new(), "", String::new()),
        CallFormat::Mistral { by_name: false } => {
            let open = format!("{} {}", answer.mark("[TOOL_CALLS]"), quoted("["));
            (open, ", ", quoted("]"))
        }
        CallFormat::Llama3 => (String::new(), "; ", String::new()),
        CallFormat::Pythonic => (quoted("["), ", ", quoted("]")),
        CallFormat::TaggedPythonic { open, close } => {
            let open = format!("{} {}", answer.mark(open), quoted("["));
            (
                open,
                ", ",
                format!("{} {}", quoted("]"), answer.mark(close)),
            )
        }
        // A message ends with its call.
        CallFormat::Channels => return "call".into(),
    };
    let more = match (answer.several_calls, between) {
        (false, _) => String::new(),
        (true, "") => "call*".into(),
        (true, between) => format!("({} call)*", quoted(between)),
    };
    format!("{open} call {more} {close}")
}

/// `{"name": …, "arguments": {…}}` between texts.
fn object(tool: &ToolSpec, key: &str, open: &str, close: &str) -> Result<String, GrammarError> {
    let name = Value::from(tool.name.as_str());
    let before = format!("{open}{{\"name\": {name}, \"{key}\": ");
    let after = format!("}}{close}");
    Ok(format!(
        "{} {} {}",
        quoted(&before),
        json(&tool.parameters)?,
        quoted(&after)
    ))
}

fn json(schema: &Value) -> Result<String, GrammarError> {
    Ok(format!("%json {}", prepared(schema)?))
}

/// The members of an object's schema: name, schema, and whether it must be there; those that must come first.
fn members(tool: &ToolSpec) -> Result<Vec<(&str, &Value, bool)>, GrammarError> {
    let required = tool.parameters.get("required").and_then(Value::as_array);
    let is_required = |name: &str| required.is_some_and(|names| names.iter().any(|n| n == name));
    let properties = tool.parameters.get("properties").and_then(Value::as_object);
    let all = properties.into_iter().flatten();
    let mut all: Vec<_> = all
        .map(|(name, s)| (name.as_str(), s, is_required(name)))
        .collect();
    all.sort_by_key(|(_, _, is_required)| !is_required);
    if let Some((name, _, _)) = all.iter().find(|(_, schema, _)| has_reference(schema)) {
        let message = format!("{name}: in this model's format of calls, $ref cannot be enforced");
        return Err(GrammarError::Refused(message));
    }
    Ok(all)
}

fn has_reference(schema: &Value) -> bool {
    match schema {
        Value::Array(items) => items.iter().any(has_reference),
        Value::Object(members) => {
            members.contains_key("$ref") || members.values().any(has_reference)
        }
        _ => false,
    }
}

/// `<function=NAME>` with a line or more for each argument.
fn xml(tool: &ToolSpec, rule: &str, rules: &mut String) -> Result<String, GrammarError> {
    let mut body = quoted(&format!("<tool_call>\n<function={}>\n", tool.name));
    for (number, (name, schema, is_required)) in members(tool)?.into_iter().enumerate() {
        let argument = format!("{rule}_{number}");
        let open = quoted(&format!("<parameter={name}>\n"));
        let close = "\n</parameter>\n";
        let is_open_text = schema.get("type").is_none_or(|kind| kind == "string")
            && schema.get("enum").is_none()
            && schema.get("const").is_none();
        if is_open_text {
            let close = quoted(close);
            writeln!(rules, "{argument}: {open} {argument}_text").expect("a String");
            writeln!(rules, "{argument}_text[suffix={close}]: /(.|\\n)*/").expect("a String");
        } else {
            let value = texts(schema).map_or_else(|| json(schema), Ok)?;
            writeln!(rules, "{argument}: {open} ({value}) {}", quoted(close)).expect("a String");
        }
        write!(body, " {argument}{}", if is_required { "" } else { "?" }).expect("a String");
    }
    write!(body, " {}", quoted("</function>\n</tool_call>")).expect("a String");
    Ok(body)
}

/// The texts of an `enum`, which XML calls write without quotes.
fn texts(schema: &Value) -> Option<String> {
    let values = schema.get("enum")?.as_array()?;
    let texts = values.iter().map(|value| Some(quoted(value.as_str()?)));
    Some(texts.collect::<Option<Vec<String>>>()?.join(" | "))
}

/// `NAME(KEY=VALUE, …)`, with values as JSON writes them.
fn python(tool: &ToolSpec, rule: &str, rules: &mut String) -> Result<String, GrammarError> {
    let members = members(tool)?;
    let (required, optional): (Vec<_>, Vec<_>) = members.into_iter().partition(|member| member.2);
    let argument = |(name, schema, _): &(&str, &Value, bool)| {
        Ok::<_, GrammarError>(format!("{} {}", quoted(&format!("{name}=")), json(schema)?))
    };
    let comma = quoted(", ");
    let first: Result<Vec<String>, _> = required.iter().map(argument).collect();
    let mut inside = first?.join(&format!(" {comma} "));
    for (number, member) in optional.iter().enumerate() {
        let (name, next) = (format!("{rule}_{number}"), format!("{rule}_{}", number + 1));
        let argument = argument(member)?;
        let is_last = number + 1 == optional.len();
        // Any of those from here on, at least one.
        let body = if is_last {
            argument
        } else {
            format!("{argument} ({comma} {next})? | {next}")
        };
        writeln!(rules, "{name}: {body}").expect("a String");
    }
    if !optional.is_empty() {
        let first = format!("{rule}_0");
        inside = if inside.is_empty() {
            format!("{first}?")
        } else {
            format!("{inside} ({comma} {first})?")
        };
    }
    Ok(format!(
        "{} {inside} {}",
        quoted(&format!("{}(", tool.name)),
        quoted(")")
    ))
}
