//! Content with calls between marks.

use super::call_object::{CallObject, Step};
use super::emit::Emit;
use super::format::{CallFormat, OutputFormat, ToolSpec};
use super::marks::{self, Found};
use super::mistral::MistralCalls;
use super::pythonic::PythonCalls;
use super::xml::XmlCall;

/// Reads content, and calls where marks announce them.
#[derive(Clone, Debug)]
pub struct Tagged {
    open: Vec<&'static str>,
    close: &'static str,
    format: CallFormat,
    tools: Vec<ToolSpec>,
    place: Place,
}

#[derive(Clone, Debug)]
enum Place {
    Content,
    Call {
        reader: Reader,
        /// What was read since the mark, as long as it can turn out to be no call.
        raw: String,
    },
    /// After a call, before the mark that closes it; what stands there is nobody's.
    Closing,
}

/// Reads what stands between the marks.
#[derive(Clone, Debug)]
pub enum Reader {
    Object(CallObject),
    Xml(XmlCall),
    Python(PythonCalls),
    Mistral(MistralCalls),
}

impl Reader {
    pub fn new(format: CallFormat) -> Self {
        match format {
            CallFormat::Xml => Self::Xml(XmlCall::new()),
            CallFormat::Pythonic | CallFormat::TaggedPythonic { .. } => {
                Self::Python(PythonCalls::new())
            }
            CallFormat::Mistral { .. } => Self::Mistral(MistralCalls::new()),
            CallFormat::Hermes | CallFormat::Llama3 | CallFormat::Channels => {
                Self::Object(CallObject::new())
            }
        }
    }

    pub fn has_begun(&self) -> bool {
        match self {
            Self::Object(reader) => reader.has_begun(),
            Self::Xml(reader) => reader.has_begun(),
            Self::Python(reader) => reader.has_begun(),
            Self::Mistral(reader) => reader.has_begun(),
        }
    }

    fn read(&mut self, text: &str, tools: &[ToolSpec], out: &mut Emit) -> (usize, Step) {
        match self {
            Self::Object(reader) => reader.read(text, None, out),
            Self::Xml(reader) => reader.read(text, tools, out),
            Self::Python(reader) => reader.read(text, None, out),
            Self::Mistral(reader) => reader.read(text, out),
        }
    }
}

impl Tagged {
    pub fn new(format: &OutputFormat) -> Self {
        let calls = format.calls.expect("only formats with calls are tagged");
        let (open, close) = match calls {
            // Some Qwen3-Coder models leave the outer mark away.
            CallFormat::Xml => (vec!["<tool_call>", "<function="], "</tool_call>"),
            CallFormat::Mistral { .. } => (vec!["[TOOL_CALLS]"], ""),
            CallFormat::TaggedPythonic { open, close } => (vec![open], close),
            _ => (vec!["<tool_call>"], "</tool_call>"),
        };
        Self {
            open,
            close,
            format: calls,
            tools: format.tools.clone(),
            place: Place::Content,
        }
    }

    /// Reads what is certain in `buffer` and leaves the rest; at the end all is certain.
    pub fn read(&mut self, buffer: &mut String, at_end: bool, out: &mut Emit) {
        while !buffer.is_empty() && self.step(buffer, at_end, out) {}
        if at_end && let Place::Call { reader, raw } = &mut self.place {
            if !reader.has_begun() {
                out.content(&std::mem::take(raw));
                out.content(&std::mem::take(buffer));
            }
            self.place = Place::Content;
        }
    }

    /// Whether there is more to read.
    fn step(&mut self, buffer: &mut String, at_end: bool, out: &mut Emit) -> bool {
        match &mut self.place {
            Place::Content => match marks::find(buffer, &self.open) {
                Found::Mark { at, mark } => {
                    out.content(&buffer[..at]);
                    let mark = self.open[mark];
                    // The mark of an XML call is its first word, too.
                    let read = at + if mark == "<function=" { 0 } else { mark.len() };
                    let raw = buffer[at..read].to_owned();
                    buffer.drain(..read);
                    let reader = Reader::new(self.format);
                    self.place = Place::Call { reader, raw };
                    true
                }
                Found::Nothing { certain } => {
                    let certain = if at_end { buffer.len() } else { certain };
                    out.content(&buffer[..certain]);
                    buffer.drain(..certain);
                    false
                }
            },
            Place::Call { reader, raw } => {
                let (read, step) = reader.read(buffer, &self.tools, out);
                if reader.has_begun() {
                    raw.clear();
                } else {
                    raw.push_str(&buffer[..read]);
                }
                let has_begun = reader.has_begun();
                buffer.drain(..read);
                match step {
                    Step::More => return false,
                    Step::Done => self.place = Place::Closing,
                    Step::Bad if has_begun => {
                        out.end_call();
                        self.place = Place::Closing;
                    }
                    Step::Bad => {
                        let raw = std::mem::take(raw);
                        out.content(&raw);
                        self.place = Place::Content;
                    }
                }
                true
            }
            Place::Closing => self.close(buffer, at_end),
        }
    }

    /// Skips to behind the closing mark; a new call, or a format without one, ends the search.
    fn close(&mut self, buffer: &mut String, at_end: bool) -> bool {
        if self.close.is_empty() {
            self.place = Place::Content;
            return true;
        }
        let mut all = vec![self.close];
        all.extend(&self.open);
        match marks::find(buffer, &all) {
            Found::Mark { at, mark } => {
                let read = if mark == 0 { at + self.close.len() } else { at };
                buffer.drain(..read);
                self.place = Place::Content;
                true
            }
            Found::Nothing { certain } => {
                let certain = if at_end { buffer.len() } else { certain };
                buffer.drain(..certain);
                false
            }
        }
    }
}
