//! gpt-oss: every message says its channel, and a call is a message to a function.
//!
//! `<|channel|>analysis<|message|>…<|end|><|start|>assistant<|channel|>commentary to=functions.NAME <|constrain|>json
//! <|message|>{…}<|call|>`, and `<|channel|>final<|message|>…<|return|>`.

use super::emit::Emit;
use super::marks::{self, Found};

/// The marks of this format.
pub const MARKS: [&str; 7] = [
    "<|start|>",
    "<|end|>",
    "<|message|>",
    "<|channel|>",
    "<|constrain|>",
    "<|return|>",
    "<|call|>",
];
const MESSAGE: &str = "<|message|>";
/// What ends a message; a model that forgets the end begins the next one.
const ENDS: [&str; 5] = [
    "<|end|>",
    "<|call|>",
    "<|return|>",
    "<|start|>",
    "<|channel|>",
];
/// A header longer than this is content.
const LONGEST_HEADER_BYTES: usize = 512;

/// Reads messages.
#[derive(Clone, Debug)]
pub struct Channels {
    place: Place,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Header,
    Analysis,
    Content,
    Call,
}

impl Channels {
    /// After `<|start|>assistant`.
    pub fn new() -> Self {
        Self {
            place: Place::Header,
        }
    }

    /// Reads what is certain in `buffer` and leaves the rest; at the end all is certain.
    pub fn read(&mut self, buffer: &mut String, at_end: bool, out: &mut Emit) {
        while !buffer.is_empty() {
            let goes_on = match self.place {
                Place::Header => self.header(buffer, at_end, out),
                _ => self.body(buffer, at_end, out),
            };
            if !goes_on {
                return;
            }
        }
    }

    fn header(&mut self, buffer: &mut String, at_end: bool, out: &mut Emit) -> bool {
        let Some(at) = buffer.find(MESSAGE) else {
            let is_header = is_header(buffer);
            if is_header && !at_end {
                return false;
            }
            // An answer without headers, or one that ended within a header.
            self.place = Place::Content;
            if is_header && at_end {
                buffer.clear();
            }
            return true;
        };
        if !is_header(&buffer[..at]) {
            self.place = Place::Content;
            return true;
        }
        let header = &buffer[..at];
        let recipient = header.split_once("to=").map(|(_, rest)| {
            let end = rest.find(|c: char| c.is_whitespace() || c == '<');
            &rest[..end.unwrap_or(rest.len())]
        });
        let channel = header
            .split_once("<|channel|>")
            .map_or("", |(_, rest)| rest);
        self.place = match recipient {
            Some(name) if !name.is_empty() => {
                out.begin_call(name.strip_prefix("functions.").unwrap_or(name));
                Place::Call
            }
            _ if channel.trim_start().starts_with("analysis") => Place::Analysis,
            _ => Place::Content,
        };
        buffer.drain(..at + MESSAGE.len());
        true
    }

    fn body(&mut self, buffer: &mut String, at_end: bool, out: &mut Emit) -> bool {
        let (body, end) = match marks::find(buffer, &ENDS) {
            Found::Mark { at, mark } => (at, Some((at, mark))),
            Found::Nothing { .. } if at_end => (buffer.len(), None),
            Found::Nothing { certain } => (certain, None),
        };
        let text = &buffer[..body];
        match self.place {
            Place::Analysis => out.reasoning(text),
            Place::Call => out.arguments(text),
            Place::Content | Place::Header => out.content(text),
        }
        let Some((at, mark)) = end else {
            buffer.drain(..body);
            return false;
        };
        match self.place {
            Place::Analysis => out.end_reasoning(),
            Place::Call => out.end_call(),
            Place::Content | Place::Header => {}
        }
        // The next header may begin with its channel.
        let read = if ENDS[mark] == "<|channel|>" {
            at
        } else {
            at + ENDS[mark].len()
        };
        buffer.drain(..read);
        self.place = Place::Header;
        true
    }
}

/// Whether text can be, or become, what stands before a message.
fn is_header(text: &str) -> bool {
    let text = text.trim_start();
    let words = ["<|start|>", "<|channel|>", "assistant", "to="];
    text.len() <= LONGEST_HEADER_BYTES
        && words
            .iter()
            .any(|word| marks::begins(text, word) != Some(false))
}
