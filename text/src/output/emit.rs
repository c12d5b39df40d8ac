//! Where readers put what they have understood.

use super::OutputPart;

/// Collects parts, joins neighbours of a kind, and drops the blank text that models put around calls and thoughts.
#[derive(Clone, Debug)]
pub struct Emit {
    parts: Vec<OutputPart>,
    ids: Ids,
    calls: u32,
    has_arguments: bool,
    /// Whether blank text at the end of content may be layout before a call.
    holds_blanks: bool,
    /// Whether blank text that comes next is layout, after a thought or a call.
    skips_blanks: bool,
    held: String,
    thought: Thought,
}

/// Blank text around reasoning is layout.
#[derive(Clone, Debug, Default)]
struct Thought {
    has_begun: bool,
    held: String,
}

/// How ids of calls look.
#[derive(Clone, Copy, Debug)]
pub enum IdStyle {
    /// As OpenAI's: `call_` and 24 letters and digits.
    Long,
    /// 9 letters and digits, on which Mistral's templates insist.
    Nine,
}

#[derive(Clone, Debug)]
struct Ids {
    style: IdStyle,
    seed: u128,
}

impl Emit {
    pub fn new(style: IdStyle, seed: u128, holds_blanks: bool) -> Self {
        Self {
            parts: Vec::new(),
            ids: Ids { style, seed },
            calls: 0,
            has_arguments: false,
            holds_blanks,
            skips_blanks: false,
            held: String::new(),
            thought: Thought::default(),
        }
    }

    /// What has been collected since the last call.
    pub fn take(&mut self) -> Vec<OutputPart> {
        std::mem::take(&mut self.parts)
    }

    pub fn content(&mut self, mut text: &str) {
        if self.skips_blanks {
            text = text.trim_start();
            if text.is_empty() {
                return;
            }
            self.skips_blanks = false;
        }
        let solid = if self.holds_blanks {
            text.trim_end().len()
        } else {
            text.len()
        };
        if solid > 0 {
            let mut whole = std::mem::take(&mut self.held);
            whole.push_str(&text[..solid]);
            self.push_content(whole);
        }
        self.held.push_str(&text[solid..]);
    }

    fn push_content(&mut self, text: String) {
        match self.parts.last_mut() {
            _ if text.is_empty() => {}
            Some(OutputPart::Content(before)) => before.push_str(&text),
            _ => self.parts.push(OutputPart::Content(text)),
        }
    }

    pub fn reasoning(&mut self, mut text: &str) {
        if !self.thought.has_begun {
            text = text.trim_start();
            self.thought.has_begun = !text.is_empty();
        }
        let solid = text.trim_end().len();
        if solid > 0 {
            let mut whole = std::mem::take(&mut self.thought.held);
            whole.push_str(&text[..solid]);
            match self.parts.last_mut() {
                Some(OutputPart::Reasoning(before)) => before.push_str(&whole),
                _ => self.parts.push(OutputPart::Reasoning(whole)),
            }
        }
        self.thought.held.push_str(&text[solid..]);
    }

    /// The thought is over: a later one begins anew.
    pub fn end_reasoning(&mut self) {
        self.thought = Thought::default();
        self.skips_blanks = true;
    }

    pub fn begin_call(&mut self, name: &str) {
        let id = self.ids.make(self.calls);
        self.parts.push(OutputPart::ToolCall {
            index: self.calls,
            id,
            name: name.to_owned(),
        });
        self.calls += 1;
        self.has_arguments = false;
        self.held.clear();
        self.skips_blanks = true;
    }

    /// More arguments of the call that has begun last.
    pub fn arguments(&mut self, text: &str) {
        if text.is_empty() {
            return;
        }
        self.has_arguments = true;
        match self.parts.last_mut() {
            Some(OutputPart::Arguments { text: before, .. }) => before.push_str(text),
            _ => self.parts.push(OutputPart::Arguments {
                index: self.calls - 1,
                text: text.to_owned(),
            }),
        }
    }

    /// The call is complete; one without arguments has none.
    pub fn end_call(&mut self) {
        if !self.has_arguments {
            self.arguments("{}");
        }
    }

    /// The text is over.
    pub fn finish(&mut self) {
        let held = std::mem::take(&mut self.held);
        self.push_content(held);
    }
}

impl Ids {
    fn make(&self, index: u32) -> String {
        const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
        let (prefix, length) = match self.style {
            IdStyle::Long => ("call_", 24),
            IdStyle::Nine => ("", 9),
        };
        // An odd factor: seeds differ in every digit from one index to the next, and no two indices meet.
        let mut rest = self
            .seed
            .wrapping_add(u128::from(index))
            .wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835);
        let digits = (0..length).map(|_| {
            let digit = DIGITS[(rest >> 64) as usize % 62];
            rest = rest.wrapping_mul(0xDA94_2042_E4DD_58B5).rotate_left(41);
            char::from(digit)
        });
        prefix.chars().chain(digits).collect()
    }
}
