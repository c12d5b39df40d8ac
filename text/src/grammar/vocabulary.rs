//! A tokenizer as the grammar library sees it: the bytes of every token, in a trie.

use super::{GrammarError, no_panic, refused};
use crate::Tokenizer;
use llguidance::toktrie::{TokEnv, TokRxInfo, TokTrie, TokenId, TokenizerEnv};
use std::sync::Arc;

/// Longer tokens are never allowed; real vocabularies have none.
const LONGEST_TOKEN_BYTES: usize = 1024;

struct Vocabulary {
    trie: TokTrie,
}

impl TokenizerEnv for Vocabulary {
    fn tok_trie(&self) -> &TokTrie {
        &self.trie
    }

    fn tokenize_bytes(&self, bytes: &[u8]) -> Vec<TokenId> {
        self.trie.greedy_tokenize(bytes)
    }

    /// Tokens are never forced, only allowed.
    fn tokenize_is_canonical(&self) -> bool {
        false
    }
}

/// The bytes of every row of the output head; special tokens are marked as such, so that no text matches them.
pub(super) fn environment(
    tokenizer: &Tokenizer,
    vocabulary: usize,
    end_ids: &[u32],
) -> Result<TokEnv, GrammarError> {
    let rows = u32::try_from(vocabulary).map_err(refused)?;
    let end_ids: Vec<u32> = end_ids.iter().copied().filter(|id| *id < rows).collect();
    let Some(&first) = end_ids.first() else {
        let message = "the model has no token that ends an answer, so no grammar can";
        return Err(GrammarError::Refused(message.into()));
    };
    let word = |id: u32| {
        let bytes = tokenizer.token_slice(id);
        if bytes.len() > LONGEST_TOKEN_BYTES {
            Vec::new()
        } else if tokenizer.is_special(id) || end_ids.contains(&id) {
            [&[TokTrie::SPECIAL_TOKEN_MARKER], bytes].concat()
        } else {
            bytes.to_vec()
        }
    };
    let words: Vec<Vec<u8>> = (0..rows).map(word).collect();
    let info = TokRxInfo::new(rows, first);
    let trie = no_panic(|| TokTrie::from(&info, &words).with_eos_tokens(&end_ids))?;
    Ok(Arc::new(Vocabulary { trie }))
}
