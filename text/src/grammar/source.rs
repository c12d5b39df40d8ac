//! What an answer may be, as one source for the grammar library.

use super::calls;
use super::{GrammarError, limits};
use crate::Tokenizer;
use crate::output::{CallFormat, OutputFormat};
use llguidance::api::{GrammarWithLexer, TopLevelGrammar};
use serde_json::{Map, Value, json};
use std::fmt::Write;

/// Blanks between the members of JSON: a space, or a new line with its indentation. More is none of it: models that do not
/// know what to say fall into blanks.
const BLANKS: &str = r"\x0A[\x20\x09]{0,40}|\x20";

/// What an answer may be.
#[derive(Clone, Debug, PartialEq)]
pub enum GrammarBody {
    /// A JSON value that fits a schema.
    JsonSchema(Value),
    /// A text that a regular expression matches as a whole.
    Regex(String),
    /// A text of a grammar in llguidance's variant of Lark.
    Lark(String),
    /// Calls of the format's tools, and nothing else.
    Calls,
}

impl GrammarBody {
    /// Any JSON object.
    pub fn json_object() -> Self {
        Self::JsonSchema(json!({"type": "object"}))
    }
}

/// What an answer may be, with the thoughts and calls that its format allows around it.
#[derive(Clone, Debug, PartialEq)]
pub struct AnswerGrammar {
    /// What it is all about.
    pub body: GrammarBody,
    /// Whether the answer may call tools of the format instead.
    pub or_calls: bool,
    /// Whether several calls may follow each other.
    pub several_calls: bool,
    /// How the model words thoughts and calls.
    pub format: OutputFormat,
    /// Marks that are special tokens, by their text.
    pub special_marks: Vec<(&'static str, u32)>,
}

impl AnswerGrammar {
    /// For answers in a format, which may think first.
    pub fn new(body: GrammarBody, format: OutputFormat, tokenizer: &Tokenizer) -> Self {
        let marks = format.marks().into_iter();
        let special = marks.filter_map(|mark| Some((mark, tokenizer.token_id(mark)?)));
        let special_marks = special
            .filter(|(_, id)| tokenizer.is_special(*id))
            .collect();
        Self {
            body,
            or_calls: false,
            several_calls: true,
            format,
            special_marks,
        }
    }

    /// Checked against the limits.
    pub(super) fn source(&self) -> Result<TopLevelGrammar, GrammarError> {
        let mut grammars = Vec::new();
        let mut rules = String::new();
        let body = match &self.body {
            GrammarBody::Calls => None,
            GrammarBody::JsonSchema(schema) => {
                limits::check_schemas([schema])?;
                Some(GrammarWithLexer::from_json_schema(prepared(schema)?))
            }
            GrammarBody::Regex(regex) => {
                limits::check_text(regex)?;
                Some(GrammarWithLexer::from_regex(regex))
            }
            GrammarBody::Lark(lark) => {
                limits::check_text(lark)?;
                Some(GrammarWithLexer::from_lark(lark.clone()))
            }
        };
        let thought = self.thought(&mut rules);
        let has_calls = self.body == GrammarBody::Calls || self.or_calls;
        if let (Some(body), false, "") = (&body, has_calls, thought.as_str()) {
            return Ok(TopLevelGrammar::from_grammar(body.clone()));
        }
        let mut alternatives = Vec::new();
        if let Some(mut body) = body {
            body.name = Some("body".into());
            grammars.push(body);
            let opening = match self.format.calls {
                Some(CallFormat::Channels) => self.channel("final"),
                _ => String::new(),
            };
            alternatives.push(format!("{opening} @body"));
        }
        if has_calls {
            limits::check_schemas(self.format.tools.iter().map(|tool| &tool.parameters))?;
            alternatives.push(calls::rules(self, &mut rules)?);
        }
        let alternatives = alternatives.join(" | ");
        let lark = format!("start: {thought} ({alternatives})\n{rules}");
        let mut main = GrammarWithLexer::from_lark(lark);
        main.name = Some("answer".into());
        grammars.insert(0, main);
        Ok(TopLevelGrammar {
            grammars,
            max_tokens: None,
        })
    }

    /// A mark as the grammar writes it: a token by its number, or text.
    pub(super) fn mark(&self, mark: &str) -> String {
        match self.special_marks.iter().find(|(text, _)| *text == mark) {
            Some((_, id)) => format!("<[{id}]>"),
            None => quoted(mark),
        }
    }

    /// The opening of a message in a channel of gpt-oss, whose thought ended a message.
    pub(super) fn channel(&self, header: &str) -> String {
        let (channel, message) = (self.mark("<|channel|>"), self.mark("<|message|>"));
        format!("{channel} {} {message}", quoted(header))
    }

    /// The thought that may, or must still, come before the answer.
    fn thought(&self, rules: &mut String) -> String {
        if self.format.calls == Some(CallFormat::Channels) {
            let (opening, end) = (self.channel("analysis"), self.mark("<|end|>"));
            let (start, role) = (self.mark("<|start|>"), quoted("assistant"));
            let inside = self.until("<|end|>", &end, "inside", rules);
            writeln!(rules, "thought: {opening} {inside} {start} {role}").expect("a String");
            return "thought?".into();
        }
        let Some(tags) = self.format.reasoning.filter(|_| !self.format.has_reasoned) else {
            return String::new();
        };
        let inside = self.until(tags.close, &self.mark(tags.close), "inside", rules);
        if self.format.begins_in_reasoning {
            writeln!(rules, "thought: {inside} blank").expect("a String");
        } else {
            let open = self.mark(tags.open);
            writeln!(rules, "thought: {open} {inside} blank").expect("a String");
        }
        rules.push_str("blank: /[ \\n]{0,8}/\n");
        let may_be_missing = !self.format.begins_in_reasoning;
        format!("thought{}", if may_be_missing { "?" } else { "" })
    }

    /// Any text up to and with a mark.
    fn until(&self, text: &str, mark: &str, name: &str, rules: &mut String) -> String {
        if mark.starts_with('<') {
            writeln!(rules, "{name}: /(.|\\n)*/").expect("a String");
            return format!("{name} {mark}");
        }
        writeln!(rules, "{name}[suffix={}]: /(.|\\n)*/", quoted(text)).expect("a String");
        name.into()
    }
}

/// A text as a literal of the grammar.
pub(super) fn quoted(text: &str) -> String {
    Value::from(text).to_string().replace('\u{7f}', "\\u007f")
}

/// A schema with our own settings; a request must not loosen them.
pub(super) fn prepared(schema: &Value) -> Result<Value, GrammarError> {
    let mut members = match schema {
        Value::Object(members) => members.clone(),
        Value::Bool(true) => Map::new(),
        _ => return Err(GrammarError::Refused("a schema must be an object".into())),
    };
    let settings = json!({"whitespace_pattern": BLANKS, "coerce_one_of": true});
    members.insert("x-guidance".into(), settings);
    Ok(Value::Object(members))
}
