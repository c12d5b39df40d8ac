//! Looking for marks in text that arrives in pieces.

/// What a look for marks found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// The first mark: where it stands, and which it is.
    Mark { at: usize, mark: usize },
    /// No mark, and so many bytes that can be part of none.
    Nothing { certain: usize },
}

/// The first of `marks` in `text`, of several at one place the longest.
pub fn find(text: &str, marks: &[&str]) -> Found {
    let places = marks
        .iter()
        .enumerate()
        .filter_map(|(mark, word)| Some((text.find(word)?, usize::MAX - word.len(), mark)));
    match places.min() {
        Some((at, _, mark)) => Found::Mark { at, mark },
        None => Found::Nothing {
            certain: text.len() - undecided(text, marks),
        },
    }
}

/// Length of the longest end of `text` that a mark could begin with.
fn undecided(text: &str, marks: &[&str]) -> usize {
    let longest = marks.iter().map(|mark| mark.len()).max().unwrap_or(0);
    let most = text.len().min(longest.saturating_sub(1));
    let could_be = |length: &usize| {
        text.get(text.len() - length..).is_some_and(|end| {
            marks
                .iter()
                .any(|mark| mark.len() > *length && mark.starts_with(end))
        })
    };
    (1..=most).rev().find(could_be).unwrap_or(0)
}

/// Whether `text` begins with `mark`; None while it could still come to.
pub fn begins(text: &str, mark: &str) -> Option<bool> {
    if text.starts_with(mark) {
        Some(true)
    } else if mark.starts_with(text) {
        None
    } else {
        Some(false)
    }
}
