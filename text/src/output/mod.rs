//! What a model's text says: content, reasoning and tool calls, told apart while the text arrives.
//!
//! Families word their calls differently, and a chat template shows how: [`OutputFormat`] is read from it. Nothing that a
//! model wrote is lost: what turns out to be no call after all is content.

mod bare;
mod call_object;
mod channels;
mod emit;
mod format;
mod json_value;
mod marks;
mod mistral;
mod parser;
mod pythonic;
mod tagged;
#[cfg(test)]
mod tests;
mod xml;

pub use format::{CallFormat, OutputFormat, ReasoningTags, ToolSpec};
pub use parser::OutputParser;

/// A part of an answer, in the order in which the model wrote it. Parts of one kind that follow each other are one text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OutputPart {
    /// Text for the reader.
    Content(String),
    /// What the model thought.
    Reasoning(String),
    /// A call begins. Its arguments follow as [`OutputPart::Arguments`] of the same index.
    ToolCall {
        /// From 0, in the order of the calls.
        index: u32,
        /// Unique among all answers.
        id: String,
        /// Which tool.
        name: String,
    },
    /// More of a call's arguments: all of them, joined, are the text of a JSON object where the model kept to its format.
    Arguments {
        /// Which call.
        index: u32,
        /// Never empty.
        text: String,
    },
}

/// The parts of a whole answer, joined.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OutputMessage {
    /// All content.
    pub content: String,
    /// All reasoning.
    pub reasoning: String,
    /// The calls, by index.
    pub tool_calls: Vec<OutputCall>,
}

/// One call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OutputCall {
    /// Unique among all answers.
    pub id: String,
    /// Which tool.
    pub name: String,
    /// The text of a JSON object, where the model kept to its format.
    pub arguments: String,
}

impl OutputMessage {
    /// Takes in the next part.
    pub fn push(&mut self, part: OutputPart) {
        match part {
            OutputPart::Content(text) => self.content.push_str(&text),
            OutputPart::Reasoning(text) => self.reasoning.push_str(&text),
            OutputPart::ToolCall { id, name, .. } => self.tool_calls.push(OutputCall {
                id,
                name,
                arguments: String::new(),
            }),
            OutputPart::Arguments { text, .. } => {
                if let Some(call) = self.tool_calls.last_mut() {
                    call.arguments.push_str(&text);
                }
            }
        }
    }
}

impl Extend<OutputPart> for OutputMessage {
    fn extend<T: IntoIterator<Item = OutputPart>>(&mut self, parts: T) {
        parts.into_iter().for_each(|part| self.push(part));
    }
}

impl FromIterator<OutputPart> for OutputMessage {
    fn from_iter<T: IntoIterator<Item = OutputPart>>(parts: T) -> Self {
        let mut message = Self::default();
        message.extend(parts);
        message
    }
}
