//! Text to parts.

use super::bare::Bare;
use super::channels::Channels;
use super::emit::{Emit, IdStyle};
use super::format::{CallFormat, OutputFormat, ReasoningTags};
use super::marks::{self, Found};
use super::tagged::Tagged;
use super::{OutputPart, emit};

/// Text to parts, piece by piece. However the text is cut, the joined parts are the same, and each piece takes time in
/// proportion to its length alone.
#[derive(Clone, Debug)]
pub struct OutputParser {
    /// Text that is not yet decided.
    buffer: String,
    thought: Thought,
    body: Body,
    out: Emit,
}

#[derive(Clone, Debug)]
enum Thought {
    /// The answer may begin with one.
    Perhaps(ReasoningTags),
    Inside(ReasoningTags),
    Over,
}

#[derive(Clone, Debug)]
enum Body {
    Plain,
    Tagged(Tagged),
    Bare(Bare),
    Channels(Channels),
}

impl OutputParser {
    /// At the start of an answer. `seed` makes the ids of its calls unique: take a random one.
    pub fn new(format: &OutputFormat, seed: u128) -> Self {
        let thought = match format.reasoning {
            Some(tags) if format.begins_in_reasoning => Thought::Inside(tags),
            Some(tags) if !format.has_reasoned => Thought::Perhaps(tags),
            _ => Thought::Over,
        };
        let body = match format.calls {
            Some(CallFormat::Channels) => Body::Channels(Channels::new()),
            _ if format.tools.is_empty() => Body::Plain,
            Some(CallFormat::Llama3 | CallFormat::Pythonic) => Body::Bare(Bare::new(format)),
            Some(_) => Body::Tagged(Tagged::new(format)),
            None => Body::Plain,
        };
        let style = match format.calls {
            Some(CallFormat::Mistral { .. }) => IdStyle::Nine,
            _ => IdStyle::Long,
        };
        let holds_blanks = !matches!(body, Body::Plain | Body::Channels(_));
        Self {
            buffer: String::new(),
            thought,
            body,
            out: emit::Emit::new(style, seed, holds_blanks),
        }
    }

    /// What became certain with the next piece of text.
    pub fn push(&mut self, text: &str) -> Vec<OutputPart> {
        self.buffer.push_str(text);
        self.read(false)
    }

    /// What is left at the end of the text.
    pub fn finish(&mut self) -> Vec<OutputPart> {
        self.read(true)
    }

    fn read(&mut self, at_end: bool) -> Vec<OutputPart> {
        while self.read_thought(at_end) {}
        if matches!(self.thought, Thought::Over) {
            let (buffer, out) = (&mut self.buffer, &mut self.out);
            match &mut self.body {
                Body::Plain => out.content(&std::mem::take(buffer)),
                Body::Tagged(tagged) => tagged.read(buffer, at_end, out),
                Body::Bare(bare) => bare.read(buffer, at_end, out),
                Body::Channels(channels) => channels.read(buffer, at_end, out),
            }
        }
        if at_end {
            self.out.finish();
        }
        self.out.take()
    }

    /// Whether to go on reading thoughts.
    fn read_thought(&mut self, at_end: bool) -> bool {
        match self.thought {
            Thought::Over => false,
            Thought::Perhaps(tags) => {
                let text = self.buffer.trim_start();
                match marks::begins(text, tags.open) {
                    Some(true) => {
                        let blank = self.buffer.len() - text.len();
                        self.buffer.drain(..blank + tags.open.len());
                        self.thought = Thought::Inside(tags);
                        true
                    }
                    None if !at_end => false,
                    _ => {
                        self.thought = Thought::Over;
                        false
                    }
                }
            }
            Thought::Inside(tags) => {
                let (thought, rest) = match marks::find(&self.buffer, &[tags.close]) {
                    Found::Mark { at, .. } => (at, at + tags.close.len()),
                    Found::Nothing { .. } if at_end => (self.buffer.len(), self.buffer.len()),
                    Found::Nothing { certain } => (certain, certain),
                };
                self.out.reasoning(&self.buffer[..thought]);
                self.buffer.drain(..rest);
                if rest > thought {
                    self.out.end_reasoning();
                    self.thought = Thought::Over;
                }
                false
            }
        }
    }
}
