//! One answer: token ids in, pieces of the answer and scores out.

use odmoe_engine::{PositionLogprobs, TokenLogprob};
use odmoe_text::output::{OutputFormat, OutputParser, OutputPart};
use odmoe_text::{IncrementalDetokenizer, StopMatcher, Tokenizer};
use std::collections::VecDeque;

/// Parts that became certain, with the scores of the tokens whose text they are made of.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Piece {
    pub(crate) parts: Vec<OutputPart>,
    pub(crate) scores: Vec<TokenScore>,
}

impl Piece {
    /// What it takes in memory, about.
    pub(crate) fn size_bytes(&self) -> usize {
        let scores = self.scores.iter().map(|score| {
            size_of::<TokenScore>() + score.logprobs.top.len() * size_of::<TokenLogprob>()
        });
        let text = |part: &OutputPart| match part {
            OutputPart::Content(text)
            | OutputPart::Reasoning(text)
            | OutputPart::Arguments { text, .. } => text.len(),
            OutputPart::ToolCall { id, name, .. } => id.len() + name.len(),
        };
        let parts = self
            .parts
            .iter()
            .map(|part| size_of::<OutputPart>() + text(part));
        parts.chain(scores).sum()
    }

    /// The content alone.
    pub(crate) fn into_content(self) -> String {
        let content = self.parts.into_iter().filter_map(|part| match part {
            OutputPart::Content(text) => Some(text),
            _ => None,
        });
        content.collect()
    }
}

/// Logprobs of a token and where it begins.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct TokenScore {
    start_bytes: usize,
    /// In characters from the start of the answer.
    pub(crate) start_chars: usize,
    pub(crate) logprobs: PositionLogprobs,
}

/// What a token brought.
#[derive(Debug, PartialEq)]
pub(crate) enum Progress {
    /// A piece, perhaps empty.
    Piece(Piece),
    /// The last piece: a stop string follows it.
    Stopped(Piece),
}

/// Assembles one answer. Text that could still become a stop string or the mark of a tool call, and the scores of its
/// tokens, are held back.
pub(crate) struct Answer {
    detokenizer: IncrementalDetokenizer,
    stops: StopMatcher,
    parser: OutputParser,
    stop_token_ids: Vec<u32>,
    calls_tools: bool,
    matched_stop: Option<String>,
    is_single_call: bool,
    /// Bytes and characters that the tokens so far made.
    made_bytes: usize,
    made_chars: usize,
    released_bytes: usize,
    held: VecDeque<TokenScore>,
    /// Of released text that is no part yet.
    waiting: Vec<TokenScore>,
}

impl Answer {
    pub(crate) fn new(
        tokenizer: &Tokenizer,
        stops: &[String],
        stop_token_ids: &[u32],
        output: &OutputFormat,
    ) -> Self {
        let marks = output.marks().into_iter();
        let marks = marks.filter_map(|mark| tokenizer.token_id(mark)).collect();
        let detokenizer = IncrementalDetokenizer::new(tokenizer.clone(), true).showing(marks);
        Self {
            detokenizer,
            stops: StopMatcher::new(stops.to_vec()),
            parser: OutputParser::new(output, uuid::Uuid::new_v4().as_u128()),
            calls_tools: false,
            matched_stop: None,
            is_single_call: output.is_single_call,
            stop_token_ids: stop_token_ids.to_vec(),
            made_bytes: 0,
            made_chars: 0,
            released_bytes: 0,
            held: VecDeque::new(),
            waiting: Vec::new(),
        }
    }

    /// Whether a tool call has begun.
    pub(crate) fn calls_tools(&self) -> bool {
        self.calls_tools
    }

    /// The stop string that ended it.
    pub(crate) fn matched_stop(&self) -> Option<&str> {
        self.matched_stop.as_deref()
    }

    /// The next token. One that ends the answer is no part of it.
    pub(crate) fn push(&mut self, token: u32, logprobs: Option<PositionLogprobs>) -> Progress {
        if self.stop_token_ids.binary_search(&token).is_ok() {
            return Progress::Piece(Piece::default());
        }
        if let Some(logprobs) = logprobs {
            let (start_bytes, start_chars) = (self.made_bytes, self.made_chars);
            self.held.push_back(TokenScore {
                start_bytes,
                start_chars,
                logprobs,
            });
        }
        let text = self.detokenizer.push(token);
        self.take(&text)
    }

    /// The last piece, when the engine has ended; a stop string may still be in it.
    pub(crate) fn finish(&mut self) -> Progress {
        let rest = self.detokenizer.finish();
        let mut piece = match self.take(&rest) {
            Progress::Piece(piece) => piece,
            stopped => return stopped,
        };
        let last = self.stops.finish();
        piece.parts.extend(self.parser.push(&last));
        piece.scores.append(&mut self.waiting);
        piece.scores.extend(self.held.drain(..));
        Progress::Piece(self.close(piece))
    }

    /// Adds all that is left to the last piece.
    fn close(&mut self, mut piece: Piece) -> Piece {
        piece.parts.extend(self.parser.finish());
        self.drop_second_call(&mut piece.parts);
        self.note_calls(&piece.parts);
        piece.scores.append(&mut self.waiting);
        piece
    }

    /// Where one call is all that may come, drops the next one and what follows; whether it came.
    fn drop_second_call(&self, parts: &mut Vec<OutputPart>) -> bool {
        let is_second = |part: &OutputPart| matches!(part, OutputPart::ToolCall { index: 1.., .. });
        let second = parts.iter().position(is_second);
        if let (true, Some(second)) = (self.is_single_call, second) {
            parts.truncate(second);
            return true;
        }
        false
    }

    fn note_calls(&mut self, parts: &[OutputPart]) {
        let is_call = |part: &OutputPart| matches!(part, OutputPart::ToolCall { .. });
        self.calls_tools |= parts.iter().any(is_call);
    }

    fn take(&mut self, text: &str) -> Progress {
        self.made_bytes += text.len();
        self.made_chars += text.chars().count();
        let outcome = self.stops.push(text);
        self.released_bytes += outcome.text.len();
        let certain = self
            .held
            .iter()
            .take_while(|s| s.start_bytes < self.released_bytes)
            .count();
        self.waiting.extend(self.held.drain(..certain));
        let mut piece = Piece {
            parts: self.parser.push(&outcome.text),
            scores: Vec::new(),
        };
        if self.drop_second_call(&mut piece.parts) {
            self.note_calls(&piece.parts);
            piece.scores.append(&mut self.waiting);
            return Progress::Stopped(piece);
        }
        if !piece.parts.is_empty() {
            self.note_calls(&piece.parts);
            piece.scores.append(&mut self.waiting);
        }
        self.matched_stop = outcome.matched;
        match self.matched_stop {
            Some(_) => Progress::Stopped(self.close(piece)),
            None => Progress::Piece(piece),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::tests::fake;
    use proptest::prelude::*;

    fn score(token: u32) -> PositionLogprobs {
        let chosen = TokenLogprob {
            token,
            logprob: -1.0,
        };
        PositionLogprobs {
            chosen,
            top: Vec::new(),
        }
    }

    /// All pieces joined, and the tokens whose scores came, in order.
    fn assemble(text: &str, stops: &[String]) -> (String, Vec<u32>) {
        let mut answer = Answer::new(
            &fake::tokenizer(),
            stops,
            &[fake::END],
            &OutputFormat::default(),
        );
        let (mut joined, mut scored) = (String::new(), Vec::new());
        let mut take = |progress| {
            let (piece, is_over) = match progress {
                Progress::Piece(piece) => (piece, false),
                Progress::Stopped(piece) => (piece, true),
            };
            scored.extend(piece.scores.iter().map(|score| score.logprobs.chosen.token));
            joined.push_str(&piece.into_content());
            is_over
        };
        let is_stopped = text
            .bytes()
            .map(u32::from)
            .any(|t| take(answer.push(t, Some(score(t)))));
        if !is_stopped {
            take(answer.finish());
        }
        (joined, scored)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn text_and_scores_end_where_the_first_stop_string_begins(
            text in "[ab\u{e9}]{0,24}",
            stop in "[ab\u{e9}]{1,3}",
        ) {
            let expected = text.split(&stop).next().unwrap();
            let (joined, scored) = assemble(&text, std::slice::from_ref(&stop));
            prop_assert_eq!(&joined, expected);
            // One token a byte here.
            prop_assert_eq!(scored, expected.bytes().map(u32::from).collect::<Vec<_>>());
            let (joined, scored) = assemble(&text, &[]);
            prop_assert_eq!(&joined, &text);
            prop_assert_eq!(scored.len(), text.len());
        }
    }
}
