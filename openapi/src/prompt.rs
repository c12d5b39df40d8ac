//! The prompt of a completion. It may be one of four shapes, told apart by what comes first: nothing is buffered to be
//! looked at twice, and a list of prompts is not kept beyond what any request may have.

use serde::de::value::SeqAccessDeserializer;
use serde::de::{Deserializer, Error, IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use std::fmt;
use utoipa::ToSchema;

/// The most prompts that one request may have.
pub const PROMPTS_MAX: usize = 64;

/// Text, token ids, or a list of either: one answer set for each.
///
/// Reading one keeps at most one prompt more than [`PROMPTS_MAX`], by which a longer list is known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(untagged)]
pub enum Prompt {
    /// Text.
    Text(String),
    /// Token ids.
    Tokens(Vec<u32>),
    /// Several texts.
    Texts(Vec<String>),
    /// Several lists of token ids.
    TokenLists(Vec<Vec<u32>>),
}

impl<'de> Deserialize<'de> for Prompt {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(PromptVisitor { most: PROMPTS_MAX })
    }
}

impl Prompt {
    /// How many.
    pub fn prompts(&self) -> usize {
        match self {
            Self::Text(_) | Self::Tokens(_) => 1,
            Self::Texts(texts) => texts.len(),
            Self::TokenLists(lists) => lists.len(),
        }
    }
}

/// Reads a [`Prompt`], of whose list it keeps at most one more than `most`.
pub(crate) struct PromptVisitor {
    pub(crate) most: usize,
}

impl<'de> Visitor<'de> for PromptVisitor {
    type Value = Prompt;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "a string, a list of strings, a list of token ids or a list of lists of token ids",
        )
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Prompt, E> {
        Ok(Prompt::Text(text.to_owned()))
    }

    fn visit_string<E: Error>(self, text: String) -> Result<Prompt, E> {
        Ok(Prompt::Text(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Prompt, A::Error> {
        Ok(match items.next_element()? {
            None => Prompt::Tokens(Vec::new()),
            Some(Item::Token(first)) => Prompt::Tokens(rest(first, items, usize::MAX)?),
            Some(Item::Text(first)) => Prompt::Texts(rest(first, items, self.most + 1)?),
            Some(Item::Tokens(first)) => Prompt::TokenLists(rest(first, items, self.most + 1)?),
        })
    }
}

/// All items, of which `most` are kept.
fn rest<'de, T, A>(first: T, mut items: A, most: usize) -> Result<Vec<T>, A::Error>
where
    T: Deserialize<'de>,
    A: SeqAccess<'de>,
{
    let mut kept = vec![first];
    while kept.len() < most {
        match items.next_element()? {
            Some(item) => kept.push(item),
            None => return Ok(kept),
        }
    }
    while items.next_element::<IgnoredAny>()?.is_some() {}
    Ok(kept)
}

/// What a list may hold.
enum Item {
    Token(u32),
    Text(String),
    Tokens(Vec<u32>),
}

impl<'de> Deserialize<'de> for Item {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ItemVisitor)
    }
}

struct ItemVisitor;

impl<'de> Visitor<'de> for ItemVisitor {
    type Value = Item;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string, a token id or a list of token ids")
    }

    fn visit_u64<E: Error>(self, id: u64) -> Result<Item, E> {
        let id = u32::try_from(id).map_err(|_| E::custom("a token id has at most 32 bits"))?;
        Ok(Item::Token(id))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Item, E> {
        Ok(Item::Text(text.to_owned()))
    }

    fn visit_string<E: Error>(self, text: String) -> Result<Item, E> {
        Ok(Item::Text(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, ids: A) -> Result<Item, A::Error> {
        Vec::deserialize(SeqAccessDeserializer::new(ids)).map(Item::Tokens)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<Prompt, serde_json::Error> {
        serde_json::from_str(json)
    }

    #[test]
    fn every_shape_is_read() {
        assert_eq!(read(r#""a\n""#).unwrap(), Prompt::Text("a\n".into()));
        assert_eq!(read("[]").unwrap(), Prompt::Tokens(vec![]));
        assert_eq!(
            read("[1, 4294967295]").unwrap(),
            Prompt::Tokens(vec![1, u32::MAX])
        );
        let texts = vec!["a".to_owned(), "b".to_owned()];
        assert_eq!(read(r#"["a", "b"]"#).unwrap(), Prompt::Texts(texts));
        assert_eq!(
            read("[[], [1, 2]]").unwrap(),
            Prompt::TokenLists(vec![vec![], vec![1, 2]])
        );
    }

    #[test]
    fn other_shapes_are_refused() {
        for json in [
            "1",
            "{}",
            "[{}]",
            "[true]",
            "[-1]",
            "[1.5]",
            "[4294967296]",
            "[1, \"a\"]",
            "[\"a\", 1]",
            "[[1], 2]",
            "[[\"a\"]]",
            "[[[1]]]",
            "[1",
        ] {
            assert!(read(json).is_err(), "{json}");
        }
    }

    #[test]
    fn a_list_of_prompts_is_kept_only_so_far_that_it_is_known_to_be_too_long() {
        for item in ["[0]", r#""a""#] {
            let count = |items: usize| {
                let json = format!("[{}]", vec![item; items].join(","));
                match read(&json).unwrap() {
                    Prompt::Texts(texts) => texts.len(),
                    Prompt::TokenLists(lists) => lists.len(),
                    other => panic!("{other:?}"),
                }
            };
            assert_eq!(count(PROMPTS_MAX), PROMPTS_MAX);
            assert_eq!(count(100_000), PROMPTS_MAX + 1);
        }
        let ids = format!("[{}]", vec!["7"; 200_000].join(","));
        assert_eq!(read(&ids).unwrap(), Prompt::Tokens(vec![7; 200_000]));
    }
}
