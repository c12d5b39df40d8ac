//! Answers that are calls from their first character on, without a mark.

use super::call_object::{CallObject, Step};
use super::emit::Emit;
use super::format::{CallFormat, OutputFormat, ToolSpec};
use super::marks;
use super::pythonic::PythonCalls;

const PYTHON_TAG: &str = "<|python_tag|>";

/// Reads calls where the answer begins with one, and everything else as content. Without a mark, only the names of
/// declared tools make a call.
#[derive(Clone, Debug)]
pub struct Bare {
    format: CallFormat,
    tools: Vec<ToolSpec>,
    place: Place,
}

#[derive(Clone, Debug)]
enum Place {
    /// Nothing but blanks so far.
    Start,
    Object {
        reader: CallObject,
        raw: String,
        is_marked: bool,
    },
    /// After an object: another may follow.
    Between,
    Python {
        reader: PythonCalls,
        raw: String,
    },
    Content,
}

impl Bare {
    pub fn new(format: &OutputFormat) -> Self {
        Self {
            format: format.calls.unwrap_or(CallFormat::Llama3),
            tools: format.tools.clone(),
            place: Place::Start,
        }
    }

    /// Reads what is certain in `buffer` and leaves the rest; at the end all is certain.
    pub fn read(&mut self, buffer: &mut String, at_end: bool, out: &mut Emit) {
        while !buffer.is_empty() && self.step(buffer, at_end, out) {}
        if at_end {
            match &mut self.place {
                Place::Object { reader, raw, .. } if !reader.has_begun() => {
                    out.content(&std::mem::take(raw));
                }
                Place::Python { reader, raw } if !reader.has_begun() => {
                    out.content(&std::mem::take(raw));
                }
                _ => {}
            }
            self.place = Place::Content;
        }
    }

    /// Whether there is more to read.
    fn step(&mut self, buffer: &mut String, at_end: bool, out: &mut Emit) -> bool {
        match &mut self.place {
            Place::Content => {
                out.content(&std::mem::take(buffer));
                false
            }
            Place::Start => self.start(buffer, at_end),
            Place::Between => {
                let rest = buffer.trim_start_matches([';', ',', ' ', '\n', '\r', '\t']);
                let read = buffer.len() - rest.len();
                if rest.is_empty() {
                    buffer.clear();
                    return false;
                }
                self.place = if rest.starts_with('{') {
                    object(true)
                } else {
                    Place::Content
                };
                buffer.drain(..read);
                true
            }
            Place::Object {
                reader,
                raw,
                is_marked,
            } => {
                let tools = (!*is_marked).then_some(self.tools.as_slice());
                let (read, step) = reader.read(buffer, tools, out);
                raw.push_str(&buffer[..read]);
                buffer.drain(..read);
                let has_begun = reader.has_begun();
                let raw = std::mem::take(raw);
                self.after(step, has_begun, raw, Place::Between, out)
            }
            Place::Python { reader, raw } => {
                let (read, step) = reader.read(buffer, Some(&self.tools), out);
                raw.push_str(&buffer[..read]);
                buffer.drain(..read);
                let has_begun = reader.has_begun();
                let raw = std::mem::take(raw);
                self.after(step, has_begun, raw, Place::Content, out)
            }
        }
    }

    fn start(&mut self, buffer: &mut String, at_end: bool) -> bool {
        let text = buffer.trim_start();
        let blank = buffer.len() - text.len();
        if text.is_empty() && !at_end {
            return false;
        }
        let is_python = self.format == CallFormat::Pythonic;
        self.place = match marks::begins(text, PYTHON_TAG) {
            None if !at_end => return false,
            Some(true) => {
                buffer.drain(..blank + PYTHON_TAG.len());
                object(true)
            }
            _ if is_python && text.starts_with('[') => Place::Python {
                reader: PythonCalls::new(),
                raw: String::new(),
            },
            _ if !is_python && text.starts_with('{') => object(false),
            _ => Place::Content,
        };
        true
    }

    /// Goes on after a reader's step; whether there is more to read.
    fn after(
        &mut self,
        step: Step,
        has_begun: bool,
        text: String,
        next: Place,
        out: &mut Emit,
    ) -> bool {
        match step {
            Step::More => {
                if !has_begun
                    && let Place::Object { raw, .. } | Place::Python { raw, .. } = &mut self.place
                {
                    *raw = text;
                }
                return false;
            }
            Step::Done => self.place = next,
            Step::Bad => {
                if has_begun {
                    out.end_call();
                } else {
                    out.content(&text);
                }
                self.place = Place::Content;
            }
        }
        true
    }
}

fn object(is_marked: bool) -> Place {
    Place::Object {
        reader: CallObject::new(),
        raw: String::new(),
        is_marked,
    }
}
