//! Calls of Qwen3-Coder: `<function=NAME>` with `<parameter=KEY>` for each argument.

use super::call_object::Step;
use super::emit::Emit;
use super::format::ToolSpec;
use super::marks::{self, Found};
use serde_json::Value;

const LONGEST_NAME_BYTES: usize = 256;

/// Reads one call. Text arguments are streamed, others come whole.
#[derive(Clone, Debug)]
pub struct XmlCall {
    place: Place,
    function: String,
    parameters: usize,
}

#[derive(Clone, Debug)]
enum Place {
    /// Before `<function=`.
    Open,
    /// Within `<function=NAME>`.
    Name,
    /// Before `<parameter=` or `</function>`.
    Between,
    /// Within `<parameter=KEY>`.
    Key,
    /// A text, whose first line break is layout.
    Text { has_begun: bool, key: String },
    /// A number, a list, …
    Json { key: String, raw: String },
}

impl XmlCall {
    pub fn new() -> Self {
        Self {
            place: Place::Open,
            function: String::new(),
            parameters: 0,
        }
    }

    pub fn has_begun(&self) -> bool {
        !self.function.is_empty()
    }

    /// Reads on; returns how many bytes were read.
    pub fn read(&mut self, text: &str, tools: &[ToolSpec], out: &mut Emit) -> (usize, Step) {
        let mut at = 0;
        loop {
            let rest = &text[at..];
            let (read, step) = match &self.place {
                Place::Open => self.open(rest),
                Place::Name => self.name(rest, out),
                Place::Between => self.between(rest, out),
                Place::Key => self.key(rest, tools),
                Place::Text { .. } => self.text(rest, out),
                Place::Json { .. } => self.json(rest, out),
            };
            at += read;
            match step {
                Some(step) => return (at, step),
                None if at == text.len() => return (at, Step::More),
                None => {}
            }
        }
    }

    fn open(&mut self, text: &str) -> (usize, Option<Step>) {
        let blank = text.len() - text.trim_start().len();
        match marks::begins(&text[blank..], "<function=") {
            Some(true) => {
                self.place = Place::Name;
                (blank + "<function=".len(), None)
            }
            None => (blank, Some(Step::More)),
            Some(false) => (blank, Some(Step::Bad)),
        }
    }

    fn name(&mut self, text: &str, out: &mut Emit) -> (usize, Option<Step>) {
        let (name, read) = match bracketed(text) {
            Ok(found) => found,
            Err(step) => return (0, Some(step)),
        };
        out.begin_call(name);
        name.clone_into(&mut self.function);
        self.place = Place::Between;
        (read, None)
    }

    fn between(&mut self, text: &str, out: &mut Emit) -> (usize, Option<Step>) {
        const MARKS: [&str; 3] = ["<parameter=", "</function>", "</tool_call>"];
        match marks::find(text, &MARKS) {
            Found::Mark { at, mark: 0 } => {
                self.place = Place::Key;
                (at + MARKS[0].len(), None)
            }
            Found::Mark { at, mark } => {
                if self.parameters > 0 {
                    out.arguments("}");
                }
                out.end_call();
                // The outer mark is left to the reader of marks.
                let read = at + if mark == 1 { MARKS[1].len() } else { 0 };
                (read, Some(Step::Done))
            }
            Found::Nothing { certain } => (certain, Some(Step::More)),
        }
    }

    fn key(&mut self, text: &str, tools: &[ToolSpec]) -> (usize, Option<Step>) {
        let (key, read) = match bracketed(text) {
            Ok(found) => found,
            Err(step) => return (0, Some(step)),
        };
        let key = key.to_owned();
        self.place = if is_text(tools, &self.function, &key) {
            Place::Text {
                has_begun: false,
                key,
            }
        } else {
            Place::Json {
                key,
                raw: String::new(),
            }
        };
        (read, None)
    }

    fn text(&mut self, text: &str, out: &mut Emit) -> (usize, Option<Step>) {
        let Place::Text { has_begun, key } = &mut self.place else {
            unreachable!("only within a text")
        };
        let mut read = 0;
        if !*has_begun {
            match marks::begins(text, "\n") {
                None => return (0, Some(Step::More)),
                Some(is_layout) => read = usize::from(is_layout),
            }
            *has_begun = true;
            let opening = opening(&mut self.parameters, key);
            out.arguments(&opening);
            out.arguments("\"");
        }
        // The longer mark first: it takes the line break that is layout.
        match marks::find(&text[read..], &["\n</parameter>", "</parameter>"]) {
            Found::Mark { at, mark } => {
                out.arguments(&escaped(&text[read..read + at]));
                out.arguments("\"");
                self.place = Place::Between;
                (
                    read + at + "</parameter>".len() + usize::from(mark == 0),
                    None,
                )
            }
            Found::Nothing { certain } => {
                out.arguments(&escaped(&text[read..read + certain]));
                (read + certain, Some(Step::More))
            }
        }
    }

    fn json(&mut self, text: &str, out: &mut Emit) -> (usize, Option<Step>) {
        let Place::Json { key, raw } = &mut self.place else {
            unreachable!("only within a value")
        };
        match marks::find(text, &["</parameter>"]) {
            Found::Mark { at, .. } => {
                raw.push_str(&text[..at]);
                let opening = opening(&mut self.parameters, key);
                out.arguments(&opening);
                out.arguments(&value(raw.trim()));
                self.place = Place::Between;
                (at + "</parameter>".len(), None)
            }
            Found::Nothing { certain } => {
                raw.push_str(&text[..certain]);
                (certain, Some(Step::More))
            }
        }
    }
}

/// The word before `>`, and how many bytes it takes with it.
fn bracketed(text: &str) -> Result<(&str, usize), Step> {
    match text.find(['>', '\n']) {
        Some(at) if text.as_bytes()[at] == b'>' && (1..=LONGEST_NAME_BYTES).contains(&at) => {
            Ok((&text[..at], at + 1))
        }
        None if text.len() <= LONGEST_NAME_BYTES => Err(Step::More),
        _ => Err(Step::Bad),
    }
}

fn opening(parameters: &mut usize, key: &str) -> String {
    *parameters += 1;
    let before = if *parameters == 1 { "{" } else { ", " };
    format!("{before}{}: ", Value::from(key))
}

/// A part of a text, as it stands within a JSON string.
fn escaped(text: &str) -> String {
    let quoted = Value::from(text).to_string();
    quoted[1..quoted.len() - 1].to_owned()
}

/// A value that is no text by its schema: as JSON if it is, else as text.
fn value(raw: &str) -> String {
    match serde_json::from_str::<Value>(raw) {
        Ok(_) => raw.to_owned(),
        Err(_) => match raw {
            "True" => "true".into(),
            "False" => "false".into(),
            "None" => "null".into(),
            _ => Value::from(raw).to_string(),
        },
    }
}

/// Whether the tool's schema says that this argument is text; where it says nothing, text is likelier.
fn is_text(tools: &[ToolSpec], function: &str, key: &str) -> bool {
    let tool = tools.iter().find(|tool| tool.name == function);
    let schema = tool.and_then(|tool| tool.parameters.get("properties")?.get(key));
    match schema {
        None => true,
        Some(schema) => match schema.get("type") {
            Some(Value::String(kind)) => kind == "string",
            Some(_) => false,
            None => schema.get("enum").is_some_and(|values| {
                values
                    .as_array()
                    .is_some_and(|values| values.iter().all(Value::is_string))
            }),
        },
    }
}
