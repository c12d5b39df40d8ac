//! Stop strings over streamed text.

/// Finds the first stop string in a text that arrives in pieces, holding back only what could still become one.
///
/// The result does not depend on how the text is cut: the match that is complete first wins, and of several that end
/// together the longest. Each stop string runs its own Knuth-Morris-Pratt automaton, so a byte of text costs amortised
/// constant time a stop string, however repetitive both are.
#[derive(Clone, Debug)]
pub struct StopMatcher {
    stops: Vec<Automaton>,
    held: String,
    matched: Option<String>,
}

/// What came of a piece of text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StopOutcome {
    /// Can be sent now: it is before any stop string.
    pub text: String,
    /// The stop string that ended the text; nothing after it will ever be returned.
    pub matched: Option<String>,
}

#[derive(Clone, Debug)]
struct Automaton {
    stop: String,
    /// `fallback[i]`: the longest proper prefix of the stop string that ends its first `i + 1` bytes.
    fallback: Vec<usize>,
    /// Bytes of the stop string that the text ends with now.
    matched_bytes: usize,
}

impl StopMatcher {
    /// Empty stop strings are ignored.
    pub fn new(stops: Vec<String>) -> Self {
        let stops = stops
            .into_iter()
            .filter(|s| !s.is_empty())
            .map(Automaton::new)
            .collect();
        Self {
            stops,
            held: String::new(),
            matched: None,
        }
    }

    /// Takes the next piece.
    pub fn push(&mut self, text: &str) -> StopOutcome {
        if self.matched.is_some() {
            return StopOutcome {
                text: String::new(),
                matched: self.matched.clone(),
            };
        }
        for (place, byte) in text.bytes().enumerate() {
            for automaton in &mut self.stops {
                automaton.step(byte);
            }
            let complete = self
                .stops
                .iter()
                .filter(|a| a.is_complete())
                .max_by_key(|a| a.stop.len());
            if let Some(automaton) = complete {
                let stop = automaton.stop.clone();
                self.held.push_str(&text[..=place]);
                self.held.truncate(self.held.len() - stop.len());
                self.matched = Some(stop.clone());
                return StopOutcome {
                    text: std::mem::take(&mut self.held),
                    matched: Some(stop),
                };
            }
        }
        let hold = self
            .stops
            .iter()
            .map(|a| a.matched_bytes)
            .max()
            .unwrap_or(0);
        self.held.push_str(text);
        let kept = self.held.split_off(self.held.len() - hold);
        StopOutcome {
            text: std::mem::replace(&mut self.held, kept),
            matched: None,
        }
    }

    /// The end of the text: what was held back is no stop string after all.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

impl Automaton {
    fn new(stop: String) -> Self {
        let bytes = stop.as_bytes();
        let mut fallback = vec![0; bytes.len()];
        let mut length = 0;
        for place in 1..bytes.len() {
            while length > 0 && bytes[place] != bytes[length] {
                length = fallback[length - 1];
            }
            length += usize::from(bytes[place] == bytes[length]);
            fallback[place] = length;
        }
        Self {
            stop,
            fallback,
            matched_bytes: 0,
        }
    }

    fn step(&mut self, byte: u8) {
        let bytes = self.stop.as_bytes();
        while self.matched_bytes > 0 && bytes[self.matched_bytes] != byte {
            self.matched_bytes = self.fallback[self.matched_bytes - 1];
        }
        self.matched_bytes += usize::from(bytes[self.matched_bytes] == byte);
    }

    fn is_complete(&self) -> bool {
        self.matched_bytes == self.stop.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(stops: &[&str], pieces: &[&str]) -> (String, Option<String>) {
        let mut matcher = StopMatcher::new(stops.iter().map(|s| (*s).to_owned()).collect());
        let mut text = String::new();
        let mut matched = None;
        for piece in pieces {
            let outcome = matcher.push(piece);
            text.push_str(&outcome.text);
            matched = outcome.matched;
        }
        text.push_str(&matcher.finish());
        (text, matched)
    }

    #[test]
    fn a_stop_string_over_several_pieces_is_found() {
        assert_eq!(
            run(&["</s>"], &["hello <", "/", "s> more", "even more"]),
            ("hello ".into(), Some("</s>".into()))
        );
    }

    #[test]
    fn what_did_not_become_a_stop_string_is_sent() {
        let mut matcher = StopMatcher::new(vec!["STOP".into()]);
        assert_eq!(matcher.push("abcST").text, "abc");
        assert_eq!(matcher.push("x").text, "STx");
        assert_eq!(matcher.push("ST").text, "");
        assert_eq!(matcher.finish(), "ST");
    }

    #[test]
    fn only_what_could_match_is_held() {
        let mut matcher = StopMatcher::new(vec!["aab".into(), "\u{e9}\u{e8}".into()]);
        assert_eq!(matcher.push("aaaa").text, "aa");
        assert_eq!(matcher.push("\u{e9}").text, "aa");
        assert_eq!(matcher.push("\u{e9}!").text, "\u{e9}\u{e9}!");
    }

    #[test]
    fn the_first_complete_match_wins_and_of_equal_ends_the_longest() {
        assert_eq!(
            run(&["abcd", "bc"], &["xabcd"]),
            ("xa".into(), Some("bc".into()))
        );
        assert_eq!(
            run(&["bc", "abc"], &["xabc"]),
            ("x".into(), Some("abc".into()))
        );
        assert_eq!(run(&["", "c"], &["abc"]), ("ab".into(), Some("c".into())));
    }

    /// Against a search of the whole text, over every way to cut small texts in two, and byte by byte.
    #[test]
    fn cutting_changes_nothing() {
        let stops: [&[&str]; 4] = [
            &["aba"],
            &["ab", "bab"],
            &["aab", "ba"],
            &["\u{e9}a", "aa\u{e9}"],
        ];
        let letters = ["a", "b", "\u{e9}"];
        let words = (0..3usize.pow(6)).map(|mut n| {
            let mut word = String::new();
            for _ in 0..6 {
                word.push_str(letters[n % 3]);
                n /= 3;
            }
            word
        });
        for word in words {
            for set in stops {
                let end = |s: &&&str| word.find(**s).map(|at| at + s.len());
                let first = set.iter().filter_map(|s| end(&s)).min();
                let best = set
                    .iter()
                    .filter(|s| end(s) == first && first.is_some())
                    .max_by_key(|s| s.len());
                let expected = match best {
                    Some(stop) => (
                        word[..first.unwrap() - stop.len()].to_owned(),
                        Some((*stop).to_owned()),
                    ),
                    None => (word.clone(), None),
                };
                for cut in (0..=word.len()).filter(|c| word.is_char_boundary(*c)) {
                    assert_eq!(
                        run(set, &[&word[..cut], &word[cut..]]),
                        expected,
                        "{word:?} {set:?} at {cut}"
                    );
                }
                let single: Vec<String> = word.chars().map(String::from).collect();
                let single: Vec<&str> = single.iter().map(String::as_str).collect();
                assert_eq!(
                    run(set, &single),
                    expected,
                    "{word:?} {set:?} by characters"
                );
            }
        }
    }
}
