//! Grammars of answers: JSON schemas, regular expressions, Lark grammars and forced tool calls, as masks over tokens.
//!
//! `llguidance` does the work. What a request may cost is bounded here: the size and depth of what it sends, and by fuel
//! the work and memory of compiling and of each mask. Where a bound is met, or a schema says what cannot be enforced, the
//! answer is an error and never an answer without its grammar.

mod calls;
mod limits;
mod source;
#[cfg(test)]
mod tests;
mod vocabulary;

pub use limits::{DEPTH, SOURCE_BYTES};
pub use source::{AnswerGrammar, GrammarBody};

use crate::Tokenizer;
use llguidance::api::{GrammarInit, ParserLimits};
use llguidance::{Matcher, ParserFactory};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Why an answer cannot be bound to a grammar.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GrammarError {
    /// Larger than is allowed.
    #[error("it has {found} {what}; at most {limit} are allowed")]
    TooLarge {
        /// Of what it has too much.
        what: &'static str,
        /// So much.
        found: usize,
        /// So much is allowed.
        limit: usize,
    },
    /// It does not compile, or says what cannot be enforced.
    #[error("{0}")]
    Refused(String),
    /// An answer cannot go on.
    #[error("{0}")]
    Stopped(String),
}

/// Compiles grammars for one tokenizer. Takes some 100 ms and, for a vocabulary of 150,000 tokens, some 50 MB to make.
pub struct GrammarCompiler {
    factory: ParserFactory,
}

impl GrammarCompiler {
    /// For a model whose output head has `vocabulary` rows and whose answers end with any of `end_ids`, at least one.
    pub fn new(
        tokenizer: &Tokenizer,
        vocabulary: usize,
        end_ids: &[u32],
    ) -> Result<Self, GrammarError> {
        let environment = vocabulary::environment(tokenizer, vocabulary, end_ids)?;
        let made = no_panic(|| ParserFactory::new_simple(&environment))?;
        let mut factory = made.map_err(refused)?;
        factory.quiet();
        *factory.limits_mut() = ParserLimits {
            initial_lexer_fuel: 500_000,
            step_lexer_fuel: 100_000,
            step_max_items: 50_000,
            max_lexer_states: 10_000,
            max_grammar_size: 200_000,
            verbose_errors: false,
            ..ParserLimits::default()
        };
        Ok(Self { factory })
    }

    /// Compiles a grammar. May take seconds for one that was made to be slow, and stack in proportion to its rules: call
    /// it on a thread with 64 MiB of stack that nobody has to wait for.
    pub fn compile(&self, grammar: &AnswerGrammar) -> Result<CompiledGrammar, GrammarError> {
        let source = grammar.source()?;
        let parser = no_panic(|| {
            let init = GrammarInit::Serialized(source);
            self.factory.create_parser_from_init(init, 0, 0)
        })?;
        let mut matcher = Matcher::new(Ok(parser.map_err(refused)?));
        // What cannot even begin is refused now.
        let first = no_panic(|| matcher.compute_mask_or_eos())?;
        first.map_err(refused)?;
        Ok(CompiledGrammar { matcher })
    }
}

/// A grammar that answers can begin with.
pub struct CompiledGrammar {
    matcher: Matcher,
}

impl CompiledGrammar {
    /// For an answer that begins. Shares nothing with other answers.
    pub fn begin(&self) -> GrammarMatcher {
        GrammarMatcher {
            matcher: self.matcher.deep_clone(),
        }
    }
}

impl std::fmt::Debug for CompiledGrammar {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CompiledGrammar")
    }
}

/// Follows one answer.
pub struct GrammarMatcher {
    matcher: Matcher,
}

impl GrammarMatcher {
    /// Hands the tokens that may come next to `take`: bit `t % 32` of word `t / 32`.
    pub fn allowed(&mut self, take: impl FnOnce(&[u32])) -> Result<(), GrammarError> {
        let mask = no_panic(|| self.matcher.compute_mask_or_eos())?;
        take(mask.map_err(stopped)?.as_slice());
        Ok(())
    }

    /// Takes in an allowed token. True: the answer is complete.
    pub fn accept(&mut self, token: u32) -> Result<bool, GrammarError> {
        no_panic(|| self.matcher.consume_token(token))?.map_err(stopped)?;
        if self.matcher.is_error() {
            let reason = self.matcher.get_error().unwrap_or_default();
            return Err(GrammarError::Stopped(first_line(&reason)));
        }
        Ok(self.matcher.is_stopped())
    }
}

fn refused(error: impl std::fmt::Display) -> GrammarError {
    GrammarError::Refused(first_line(&format!("{error:#}")))
}

fn stopped(error: impl std::fmt::Display) -> GrammarError {
    GrammarError::Stopped(first_line(&format!("{error:#}")))
}

/// The library's messages may repeat the grammar.
fn first_line(text: &str) -> String {
    let line = text.lines().find(|line| !line.trim().is_empty());
    line.unwrap_or("no reason given")
        .chars()
        .take(300)
        .collect()
}

/// A panic in the library is an error of the grammar.
fn no_panic<T>(run: impl FnOnce() -> T) -> Result<T, GrammarError> {
    catch_unwind(AssertUnwindSafe(run))
        .map_err(|_| GrammarError::Refused("the grammar library stopped".into()))
}
