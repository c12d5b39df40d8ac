//! What a request asks its answers to be: `response_format`, and the names that other servers have for grammars.

use super::error::ApiError;
use crate::grammars::ObtainError;
use crate::state::ServedModel;
use odmoe_engine::TokenRules;
use odmoe_openapi::StructuredFields;
use odmoe_text::grammar::{AnswerGrammar, GrammarBody};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

/// What binds an answer, and the field that says so.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Bound {
    pub(crate) body: GrammarBody,
    pub(crate) param: &'static str,
}

/// What binds the answer; at most one field may.
pub(crate) fn bound(
    response_format: Option<&Value>,
    fields: &StructuredFields,
) -> Result<Option<Bound>, ApiError> {
    let mut bodies = vec![
        (
            "response_format",
            response_format.map_or(Ok(None), of_format)?,
        ),
        (
            "structured_outputs",
            fields
                .structured_outputs
                .as_ref()
                .map_or(Ok(None), of_structured)?,
        ),
        (
            "grammar",
            fields.grammar.as_ref().map(of_grammar).transpose()?,
        ),
    ];
    let schema = |schema: &Value| schema_of("guided_json", schema).map(GrammarBody::JsonSchema);
    bodies.push((
        "guided_json",
        fields.guided_json.as_ref().map(schema).transpose()?,
    ));
    let choice = |choice: &Vec<String>| of_choice("guided_choice", choice);
    bodies.push((
        "guided_choice",
        fields.guided_choice.as_ref().map(choice).transpose()?,
    ));
    let regex = |regex: &String| GrammarBody::Regex(regex.clone());
    bodies.push(("guided_regex", fields.guided_regex.as_ref().map(regex)));
    bodies.push(("regex", fields.regex.as_ref().map(regex)));
    let lark = |text: &String| of_lark("guided_grammar", text);
    bodies.push((
        "guided_grammar",
        fields.guided_grammar.as_ref().map(lark).transpose()?,
    ));
    let mut bound = None;
    for (param, body) in bodies {
        match (body, &bound) {
            (None, _) => {}
            (Some(body), None) => bound = Some(Bound { body, param }),
            (Some(_), Some(Bound { param: first, .. })) => {
                let message = format!("{first} and {param} both bind the answer; send one of them");
                return Err(ApiError::invalid(param, message));
            }
        }
    }
    Ok(bound)
}

/// Compiles the grammar; its errors name the field.
pub(crate) fn rules(
    grammar: AnswerGrammar,
    param: &'static str,
    model: &ServedModel,
    retry_after: Duration,
) -> Result<Arc<dyn TokenRules>, ApiError> {
    model.grammars.obtain(grammar).map_err(|error| match error {
        ObtainError::Busy => ApiError::busy(error.to_string(), retry_after),
        _ => ApiError::invalid(param, format!("{param} cannot be enforced: {error}")),
    })
}

fn of_format(format: &Value) -> Result<Option<GrammarBody>, ApiError> {
    const PARAM: &str = "response_format";
    match format.get("type").and_then(Value::as_str) {
        Some("text") => Ok(None),
        Some("json_object") => Ok(Some(GrammarBody::json_object())),
        Some("json_schema") => {
            let param = "response_format.json_schema.schema";
            match format.pointer("/json_schema/schema") {
                Some(schema) => schema_of(param, schema).map(|s| Some(GrammarBody::JsonSchema(s))),
                None => Err(ApiError::invalid(
                    param,
                    "response_format must have a schema",
                )),
            }
        }
        Some(_) => Err(ApiError::unsupported(
            PARAM,
            "response_format has an unknown type; use \"text\", \"json_object\" or \"json_schema\"",
        )),
        None => Err(ApiError::invalid(PARAM, "response_format must have a type")),
    }
}

/// vLLM's object with one of several members.
fn of_structured(given: &Value) -> Result<Option<GrammarBody>, ApiError> {
    const PARAM: &str = "structured_outputs";
    let members = given.as_object().map(|members| {
        let mut given = members.iter().filter(|(_, value)| !value.is_null());
        (given.next(), given.next())
    });
    let (name, value) = match members {
        Some((None, _)) => return Ok(None),
        Some((Some(member), None)) => member,
        _ => {
            let message = "structured_outputs must be an object with one of json, regex, choice, grammar, json_object";
            return Err(ApiError::invalid(PARAM, message));
        }
    };
    let text = || {
        let text = value.as_str().map(str::to_owned);
        text.ok_or_else(|| ApiError::invalid(PARAM, format!("{PARAM}.{name} must be a string")))
    };
    Ok(Some(match name.as_str() {
        "json" => GrammarBody::JsonSchema(schema_of(PARAM, value)?),
        "json_object" if *value == json!(true) => GrammarBody::json_object(),
        "json_object" => return Ok(None),
        "regex" => GrammarBody::Regex(text()?),
        "grammar" => of_lark(PARAM, &text()?)?,
        "choice" => {
            let choice = serde_json::from_value::<Vec<String>>(value.clone());
            let choice =
                choice.map_err(|_| ApiError::invalid(PARAM, "choice must be a list of strings"))?;
            of_choice(PARAM, &choice)?
        }
        _ => {
            let message = "structured_outputs knows json, regex, choice, grammar and json_object";
            return Err(ApiError::unsupported(PARAM, message));
        }
    }))
}

/// A Lark grammar, or an object that says what it is.
fn of_grammar(given: &Value) -> Result<GrammarBody, ApiError> {
    const PARAM: &str = "grammar";
    if let Some(lark) = given.as_str() {
        return of_lark(PARAM, lark);
    }
    let kind = given.get("type").and_then(Value::as_str);
    match (kind, given.get("value")) {
        (Some("lark"), Some(Value::String(lark))) => of_lark(PARAM, lark),
        (Some("regex"), Some(Value::String(regex))) => Ok(GrammarBody::Regex(regex.clone())),
        (Some("json_schema"), Some(schema)) => {
            schema_of(PARAM, schema).map(GrammarBody::JsonSchema)
        }
        _ => Err(ApiError::invalid(
            PARAM,
            "grammar must be a Lark grammar, or {\"type\": \"lark\", \"regex\" or \"json_schema\", \"value\": …}",
        )),
    }
}

fn of_lark(param: &'static str, text: &str) -> Result<GrammarBody, ApiError> {
    if text.contains("::=") {
        let message =
            "GBNF and EBNF are not supported; write the grammar in Lark, with a rule named start";
        return Err(ApiError::unsupported(param, message));
    }
    Ok(GrammarBody::Lark(text.to_owned()))
}

fn of_choice(param: &'static str, choice: &[String]) -> Result<GrammarBody, ApiError> {
    if choice.is_empty() {
        return Err(ApiError::invalid(
            param,
            "a choice must have at least one text",
        ));
    }
    let texts = choice
        .iter()
        .map(|text| Value::from(text.as_str()).to_string());
    let texts = texts
        .collect::<Vec<_>>()
        .join(" | ")
        .replace('\u{7f}', "\\u007f");
    Ok(GrammarBody::Lark(format!("start: {texts}")))
}

/// A schema as JSON, or as the text of JSON.
fn schema_of(param: &'static str, schema: &Value) -> Result<Value, ApiError> {
    let parsed = match schema {
        Value::String(text) => serde_json::from_str(text).ok(),
        Value::Object(_) => Some(schema.clone()),
        _ => None,
    };
    parsed.ok_or_else(|| ApiError::invalid(param, "a JSON schema must be an object"))
}
