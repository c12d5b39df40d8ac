//! What the tokens of an answer may be. The engine applies masks and never knows what they stand for.

/// A set of tokens, one bit each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenMask {
    /// Token `t` is bit `t % 32` of word `t / 32`; bits from the vocabulary's end on are 0.
    words: Vec<u32>,
    vocab: usize,
}

impl TokenMask {
    /// Without any token of a vocabulary of `vocab`.
    pub fn new(vocab: usize) -> Self {
        Self {
            words: vec![0; vocab.div_ceil(32)],
            vocab,
        }
    }

    /// Takes all tokens out.
    pub fn clear(&mut self) {
        self.words.fill(0);
    }

    /// Puts a token in; one beyond the vocabulary is ignored.
    pub fn allow(&mut self, token: u32) {
        if (token as usize) < self.vocab {
            self.words[token as usize / 32] |= 1 << (token % 32);
        }
    }

    /// Puts in all tokens of `words`, laid out as here; what is beyond the vocabulary is ignored.
    pub fn allow_words(&mut self, words: &[u32]) {
        for (mine, given) in self.words.iter_mut().zip(words) {
            *mine |= given;
        }
        if let (Some(last), rest @ 1..) = (self.words.last_mut(), self.vocab % 32) {
            *last &= (1 << rest) - 1;
        }
    }

    /// Whether a token is in.
    pub fn contains(&self, token: u32) -> bool {
        let word = self.words.get(token as usize / 32);
        word.is_some_and(|word| word >> (token % 32) & 1 == 1)
    }

    /// Whether no token is in.
    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|word| *word == 0)
    }

    /// The bits, 32 tokens a word.
    pub fn words(&self) -> &[u32] {
        &self.words
    }
}

/// Why a constraint cannot go on. The request fails: an answer without its constraint would be worse than none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConstraintError(pub String);

/// Follows the tokens of one answer. Called on the engine's thread, so it must be quick, and it must not panic.
pub trait TokenConstraint: Send {
    /// Puts the tokens that may come next into `mask`, which is empty. None at all is an error of the constraint.
    fn allow(&mut self, mask: &mut TokenMask) -> Result<(), ConstraintError>;
    /// Takes in the token that was chosen, one of those allowed. True: the answer is complete, nothing may follow.
    fn accept(&mut self, token: u32) -> Result<bool, ConstraintError>;
}

/// What the answers to one request have in common. Called on the thread that submits.
pub trait TokenRules: Send + Sync + std::fmt::Debug {
    /// For an answer that begins.
    fn begin(&self) -> Box<dyn TokenConstraint>;
}

#[cfg(test)]
mod tests {
    use super::TokenMask;

    #[test]
    fn masks_end_with_the_vocabulary() {
        let mut mask = TokenMask::new(35);
        mask.allow_words(&[1 << 31, u32::MAX, u32::MAX]);
        mask.allow(2);
        mask.allow(35);
        let tokens: Vec<u32> = (0..100).filter(|token| mask.contains(*token)).collect();
        assert_eq!(tokens, [2, 31, 32, 33, 34]);
        mask.clear();
        assert!(mask.is_empty());
        let mut whole = TokenMask::new(32);
        whole.allow_words(&[u32::MAX]);
        assert!((0..32).all(|token| whole.contains(token)));
    }
}
