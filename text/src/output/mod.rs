//! What a model's text says: content, reasoning and tool calls, told apart while the text arrives.

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

/// How a model words its answers, as far as it can be told from its chat template.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OutputFormat {}

/// Text to parts, piece by piece. However the text is cut, the joined parts are the same.
#[derive(Clone, Debug)]
pub struct OutputParser {}

impl OutputParser {
    /// At the start of an answer. `seed` makes the ids of its calls unique: take a random one.
    pub fn new(_format: &OutputFormat, _seed: u128) -> Self {
        Self {}
    }

    /// What became certain with the next piece of text.
    pub fn push(&mut self, text: &str) -> Vec<OutputPart> {
        if text.is_empty() {
            return Vec::new();
        }
        vec![OutputPart::Content(text.to_owned())]
    }

    /// What is left at the end of the text.
    pub fn finish(&mut self) -> Vec<OutputPart> {
        Vec::new()
    }
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
