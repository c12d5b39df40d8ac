//! Server-sent events, read strictly: what a lenient client forgives is a failure here.

use serde_json::Value;
use std::io::{BufRead, BufReader, Read};

/// One event or comment.
#[derive(Clone, Debug, PartialEq)]
pub enum SseItem {
    /// `data:` with JSON.
    Json(Value),
    /// `data: [DONE]`.
    Done,
    /// A comment: a keep-alive.
    Comment,
}

/// The items of a response body, as they arrive. Ends where the body ends.
pub struct SseReader {
    lines: BufReader<Box<dyn Read + Send>>,
}

impl SseReader {
    /// From a body.
    pub fn new(body: Box<dyn Read + Send>) -> Self {
        Self {
            lines: BufReader::new(body),
        }
    }

    fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        match self.lines.read_line(&mut line) {
            Ok(0) => None,
            Ok(_) => Some(line.trim_end_matches(['\r', '\n']).to_string()),
            Err(error) => panic!("a stream broke off: {error}"),
        }
    }
}

impl Iterator for SseReader {
    type Item = SseItem;

    fn next(&mut self) -> Option<SseItem> {
        let line = self.line()?;
        let item = if line.starts_with(':') {
            SseItem::Comment
        } else {
            let data = line.strip_prefix("data: ").unwrap_or_else(|| {
                panic!("{line:?} is neither data nor a comment; clients break on other fields")
            });
            match data {
                "[DONE]" => SseItem::Done,
                json => SseItem::Json(
                    serde_json::from_str(json).unwrap_or_else(|e| panic!("{json:?}: {e}")),
                ),
            }
        };
        let end = self.line();
        assert_eq!(end.as_deref(), Some(""), "an empty line ends each event");
        Some(item)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn reads_events_and_comments() {
        let body = ":\n\ndata: {\"a\":1}\n\ndata: [DONE]\n\n";
        let items: Vec<SseItem> = SseReader::new(Box::new(body.as_bytes())).collect();
        assert_eq!(
            items,
            [
                SseItem::Comment,
                SseItem::Json(json!({"a": 1})),
                SseItem::Done
            ]
        );
    }

    #[test]
    #[should_panic(expected = "neither data nor a comment")]
    fn refuses_fields_that_break_clients() {
        SseReader::new(Box::new("id: 7\n\n".as_bytes())).next();
    }
}
