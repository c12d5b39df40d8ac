//! Chat templates: Jinja as `transformers` runs it.
//!
//! Work, output and depth are bounded. What a template builds in memory before it writes is bounded by its work alone, so
//! templates come with a model and never with a request.

use crate::output::OutputFormat;
use crate::python::{JsonStyle, dumps, strftime};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Kwargs;
use minijinja::{Environment, Error, ErrorKind, Value};
use serde_json::{Map, Value as Json};
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// A template longer than this is refused; the longest known ones have some 20 kB.
const SOURCE_LIMIT_BYTES: usize = 1 << 20;
/// A prompt longer than this is refused.
const OUTPUT_LIMIT_BYTES: usize = 64 << 20;
/// Instructions of one rendering: seconds at most, and some hundred for each message of a sane template.
const FUEL: u64 = 10_000_000;
/// JSON nested deeper than this is refused.
const DEPTH_LIMIT: usize = 128;
const NAME: &str = "chat_template";

/// Why a template could not be compiled or a conversation not be rendered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// The source is no template.
    #[error("the chat template does not compile: {0}")]
    Compile(String),
    /// The template itself refuses the conversation (`raise_exception`); the text is the template's own.
    #[error("{0}")]
    Rejected(String),
    /// The conversation lacks something that the template uses, or the template is wrong.
    #[error("the chat template failed: {0}")]
    Render(String),
    /// The work limit was reached.
    #[error("the chat template did not end within {0} instructions")]
    TooMuchWork(u64),
    /// The output limit was reached.
    #[error("the rendered conversation is longer than {0} bytes")]
    TooLong(usize),
}

/// A compiled template. Cloning shares it.
#[derive(Clone)]
pub struct ChatTemplate {
    environment: Arc<Environment<'static>>,
    special_tokens: Arc<BTreeMap<String, String>>,
    output: OutputFormat,
}

/// What a rendering depends on beside the messages.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RenderOptions {
    /// The tools that the model may call.
    pub tools: Option<Json>,
    /// Ends with the opening of the assistant's turn.
    pub add_generation_prompt: bool,
    /// More variables, such as `enable_thinking`; they win over the special tokens.
    pub extra: Map<String, Json>,
    /// The time that `strftime_now` tells, in UTC. None: the system's clock.
    pub now_unix_s: Option<u64>,
}

impl ChatTemplate {
    /// Compiles a template; `special_tokens` (`bos_token`, `eos_token`, ...) become its variables.
    pub fn compile(
        source: &str,
        special_tokens: &BTreeMap<String, String>,
    ) -> Result<Self, TemplateError> {
        if source.len() > SOURCE_LIMIT_BYTES {
            return Err(TemplateError::Compile(format!(
                "it has more than {SOURCE_LIMIT_BYTES} bytes"
            )));
        }
        let mut environment = environment().map_err(|e| TemplateError::Compile(describe(&e)))?;
        environment
            .add_template_owned(NAME, without_generation_tags(source))
            .map_err(|e| TemplateError::Compile(describe(&e)))?;
        Ok(Self {
            environment: Arc::new(environment),
            special_tokens: Arc::new(special_tokens.clone()),
            output: OutputFormat::of_template(source),
        })
    }

    /// How answers are worded by models that are prompted so; without tools.
    pub fn output_format(&self) -> &OutputFormat {
        &self.output
    }

    /// The prompt of a conversation.
    pub fn render(
        &self,
        messages: &Json,
        options: &RenderOptions,
    ) -> Result<String, TemplateError> {
        let context = self
            .context(messages, options)
            .map_err(|e| TemplateError::Render(describe(&e)))?;
        let template = self
            .environment
            .get_template(NAME)
            .expect("compiled under this name");
        let mut output = Bounded {
            bytes: Vec::new(),
            is_full: false,
        };
        match template.render_captured_to(context, &mut output) {
            Ok(_) => {}
            Err(_) if output.is_full => return Err(TemplateError::TooLong(OUTPUT_LIMIT_BYTES)),
            Err(error) => return Err(classify(&error)),
        }
        String::from_utf8(output.bytes).map_err(|e| TemplateError::Render(e.to_string()))
    }

    fn context(&self, messages: &Json, options: &RenderOptions) -> Result<Value, Error> {
        let mut variables: BTreeMap<String, Value> = BTreeMap::new();
        for (name, text) in self.special_tokens.iter() {
            variables.insert(name.clone(), Value::from(text));
        }
        for (name, value) in &options.extra {
            variables.insert(name.clone(), to_value(value, 0)?);
        }
        let now_unix_s = options.now_unix_s.unwrap_or_else(|| {
            SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |since| since.as_secs())
        });
        let tools = options.tools.as_ref().unwrap_or(&Json::Null);
        variables.insert("messages".to_owned(), to_value(messages, 0)?);
        variables.insert("tools".to_owned(), to_value(tools, 0)?);
        variables
            .entry("documents".to_owned())
            .or_insert_with(|| Value::from(()));
        variables.insert(
            "add_generation_prompt".to_owned(),
            Value::from(options.add_generation_prompt),
        );
        variables.insert(
            "strftime_now".to_owned(),
            Value::from_function(move |format: &str| {
                strftime(now_unix_s, format).map_err(|e| Error::new(ErrorKind::InvalidOperation, e))
            }),
        );
        Ok(Value::from_pairs(variables))
    }
}

impl std::fmt::Debug for ChatTemplate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ChatTemplate")
    }
}

fn environment() -> Result<Environment<'static>, Error> {
    let mut environment = Environment::new();
    environment.set_syntax(
        SyntaxConfig::builder()
            .trim_blocks(true)
            .lstrip_blocks(true)
            .build()?,
    );
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.set_fuel(Some(FUEL));
    environment.add_filter("tojson", tojson);
    // minijinja iterates over none as over nothing; Python does not, and templates tell absent tools by it.
    environment.add_test("iterable", |value: &Value| {
        !value.is_none() && value.try_iter().is_ok()
    });
    environment.add_function(
        "raise_exception",
        |message: String| -> Result<Value, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, "raised").with_source(Raised(message)))
        },
    );
    Ok(environment)
}

/// The template's own refusal, on its way through minijinja's errors.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Raised(String);

fn classify(error: &Error) -> TemplateError {
    if error.kind() == ErrorKind::OutOfFuel {
        return TemplateError::TooMuchWork(FUEL);
    }
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        if let Some(Raised(message)) = inner.downcast_ref() {
            return TemplateError::Rejected(message.clone());
        }
        if inner
            .downcast_ref::<Error>()
            .is_some_and(|e| e.kind() == ErrorKind::OutOfFuel)
        {
            return TemplateError::TooMuchWork(FUEL);
        }
        source = inner.source();
    }
    TemplateError::Render(describe(error))
}

/// One line, with the place.
fn describe(error: &Error) -> String {
    let what = error.detail().map_or_else(
        || error.kind().to_string(),
        |d| format!("{}: {d}", error.kind()),
    );
    match error.line() {
        Some(line) => format!("line {line}: {what}"),
        None => what,
    }
}

fn tojson(value: &Value, indent: Option<Value>, options: Kwargs) -> Result<Value, Error> {
    let indent = match indent {
        Some(indent) => Some(indent),
        None => options.get::<Option<Value>>("indent")?,
    };
    let mut style = JsonStyle {
        indent: match indent {
            None => None,
            Some(indent) if indent.is_none() || indent.is_undefined() => None,
            Some(indent) => Some(match indent.as_str() {
                Some(text) => text.to_owned(),
                None => " ".repeat(indent.as_usize().unwrap_or(0).min(64)),
            }),
        },
        sort_keys: options.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
        ensure_ascii: options
            .get::<Option<bool>>("ensure_ascii")?
            .unwrap_or(false),
        ..JsonStyle::default()
    };
    if style.indent.is_some() {
        style.item_separator = ",".to_owned();
    }
    if let Some(separators) = options.get::<Option<Vec<String>>>("separators")?
        && let [item, key] = separators.as_slice()
    {
        style.item_separator.clone_from(item);
        style.key_separator.clone_from(key);
    }
    options.assert_all_used()?;
    dumps(value, &style, OUTPUT_LIMIT_BYTES).map(Value::from)
}

fn to_value(json: &Json, depth: usize) -> Result<Value, Error> {
    if depth > DEPTH_LIMIT {
        return Err(Error::new(
            ErrorKind::InvalidOperation,
            "the conversation is nested too deeply",
        ));
    }
    Ok(match json {
        Json::Null => Value::from(()),
        Json::Bool(flag) => Value::from(*flag),
        Json::Number(number) => match (number.as_i64(), number.as_u64(), number.as_f64()) {
            (Some(integer), ..) => Value::from(integer),
            (None, Some(integer), _) => Value::from(integer),
            (None, None, float) => Value::from(float.unwrap_or(f64::NAN)),
        },
        Json::String(text) => Value::from(text),
        Json::Array(items) => {
            let items: Result<Vec<Value>, Error> =
                items.iter().map(|i| to_value(i, depth + 1)).collect();
            Value::from(items?)
        }
        Json::Object(members) => {
            let mut pairs = Vec::with_capacity(members.len());
            for (key, value) in members {
                pairs.push((key.as_str(), to_value(value, depth + 1)?));
            }
            Value::from_pairs(pairs)
        }
    })
}

/// `{% generation %}` marks for training which text the model wrote; serving has no use for it. It becomes a
/// condition that always holds, so that whitespace control at its edges still works.
fn without_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(open) = rest.find("{%") {
        let Some(length) = rest[open + 2..].find("%}") else {
            break;
        };
        let (before, tag_on) = rest.split_at(open);
        let (tag, after) = tag_on.split_at(length + 4);
        out.push_str(before);
        match tag[2..length + 2].trim_matches(|c: char| c.is_whitespace() || c == '-' || c == '+') {
            "generation" => out.push_str(&tag.replacen("generation", "if true", 1)),
            "endgeneration" => out.push_str(&tag.replacen("endgeneration", "endif", 1)),
            _ => out.push_str(tag),
        }
        rest = after;
    }
    out.push_str(rest);
    out
}

struct Bounded {
    bytes: Vec<u8>,
    is_full: bool,
}

impl io::Write for &mut Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + bytes.len() > OUTPUT_LIMIT_BYTES {
            self.is_full = true;
            return Err(io::Error::other("the output limit is reached"));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
