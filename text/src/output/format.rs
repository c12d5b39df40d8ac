//! How a model words its answers, as its chat template shows it.

use serde_json::Value;

/// How an answer is to be read.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OutputFormat {
    /// Between which marks thoughts stand, if the model has any.
    pub reasoning: Option<ReasoningTags>,
    /// How calls are worded, if the model can call tools.
    pub calls: Option<CallFormat>,
    /// Whether the prompt ended within a thought.
    pub begins_in_reasoning: bool,
    /// Whether the prompt ended after a thought, so that the answer has none.
    pub has_reasoned: bool,
    /// The tools of this request. Without any, calls are content.
    pub tools: Vec<ToolSpec>,
    /// Whether an answer ends before a second call.
    pub is_single_call: bool,
}

/// Marks around thoughts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReasoningTags {
    /// Before.
    pub open: &'static str,
    /// After.
    pub close: &'static str,
}

/// How calls are worded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallFormat {
    /// `<tool_call>{"name": …, "arguments": {…}}</tool_call>`: Hermes, Qwen, Granite.
    Hermes,
    /// `<tool_call><function=NAME><parameter=KEY>VALUE</parameter></function></tool_call>`: Qwen3-Coder.
    Xml,
    /// `[TOOL_CALLS]` before a list of objects, or before each `NAME[ARGS]{…}`. Both are read.
    Mistral {
        /// Whether the template shows the second.
        by_name: bool,
    },
    /// The answer is `{"name": …, "parameters": {…}}`, perhaps after `<|python_tag|>`.
    Llama3,
    /// `[NAME(KEY=VALUE), …]` as the whole answer.
    Pythonic,
    /// The same between marks.
    TaggedPythonic {
        /// Before.
        open: &'static str,
        /// After.
        close: &'static str,
    },
    /// Everything is a message in a channel: gpt-oss.
    Channels,
}

/// What reading needs to know of a tool.
#[derive(Clone, Debug, PartialEq)]
pub struct ToolSpec {
    /// Its name.
    pub name: String,
    /// The JSON schema of its arguments.
    pub parameters: Value,
}

const THINK: ReasoningTags = ReasoningTags {
    open: "<think>",
    close: "</think>",
};
const MISTRAL_THINK: ReasoningTags = ReasoningTags {
    open: "[THINK]",
    close: "[/THINK]",
};

impl OutputFormat {
    /// As the source of a chat template shows it; without tools.
    pub fn of_template(source: &str) -> Self {
        let has = |mark: &str| source.contains(mark);
        if has("<|channel|>") && has("<|message|>") {
            return Self {
                calls: Some(CallFormat::Channels),
                ..Self::default()
            };
        }
        let reasoning = [THINK, MISTRAL_THINK]
            .into_iter()
            .find(|tags| has(tags.close));
        let calls = if has("<function=") && has("<parameter=") {
            Some(CallFormat::Xml)
        } else if has("<tool_call>") && !has("<arg_key>") {
            Some(CallFormat::Hermes)
        } else if has("[TOOL_CALLS]") {
            Some(CallFormat::Mistral {
                by_name: has("[ARGS]"),
            })
        } else if has("<function_calls>") {
            Some(CallFormat::TaggedPythonic {
                open: "<function_calls>",
                close: "</function_calls>",
            })
        } else if has("<|tool_call_start|>") {
            Some(CallFormat::TaggedPythonic {
                open: "<|tool_call_start|>",
                close: "<|tool_call_end|>",
            })
        } else if has("func_name1(params_name1=params_value1") {
            Some(CallFormat::Pythonic)
        } else if has("<|python_tag|>") || has("\"parameters\": dictionary of argument name") {
            Some(CallFormat::Llama3)
        } else {
            None
        };
        Self {
            reasoning,
            calls,
            ..Self::default()
        }
    }

    /// For the answer to this prompt, which may end within or after a thought.
    #[must_use]
    pub fn after_prompt(mut self, prompt: &str) -> Self {
        let prompt = prompt.trim_end();
        if let Some(tags) = self.reasoning {
            self.begins_in_reasoning = prompt.ends_with(tags.open);
            self.has_reasoned = prompt.ends_with(tags.close);
        }
        self
    }

    /// With tools that the model may call.
    #[must_use]
    pub fn with_tools(mut self, tools: Vec<ToolSpec>) -> Self {
        self.tools = tools;
        self
    }

    /// The marks in the answer's text. Where the tokenizer has one as a special token, that token's text is to be read
    /// too.
    pub fn marks(&self) -> Vec<&'static str> {
        let mut marks = Vec::new();
        marks.extend(self.reasoning.iter().flat_map(|t| [t.open, t.close]));
        if self.calls == Some(CallFormat::Channels) {
            marks.extend(super::channels::MARKS);
        } else if !self.tools.is_empty() {
            marks.extend_from_slice(match self.calls {
                Some(CallFormat::Hermes | CallFormat::Xml) => &["<tool_call>", "</tool_call>"],
                Some(CallFormat::Mistral { .. }) => &["[TOOL_CALLS]", "[CALL_ID]", "[ARGS]"],
                Some(CallFormat::Llama3) => &["<|python_tag|>"],
                _ => &[],
            });
            if let Some(CallFormat::TaggedPythonic { open, close }) = self.calls {
                marks.extend([open, close]);
            }
        }
        marks
    }
}
