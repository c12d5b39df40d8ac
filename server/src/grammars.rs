//! Grammars of answers for one model: compiled on threads of their own, kept for the next request, bounded in time.

use lru::LruCache;
use odmoe_engine::{ConstraintError, TokenConstraint, TokenMask, TokenRules};
use odmoe_text::Tokenizer;
use odmoe_text::grammar::{
    AnswerGrammar, CompiledGrammar, GrammarCompiler, GrammarError, GrammarMatcher,
};
use std::num::NonZeroUsize;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// Waiting for a thread and compiling, together.
pub(crate) const TIME_LIMIT: Duration = Duration::from_secs(5);
/// Grammars that compile at once. One that outlives its request keeps its place until it ends, by its fuel.
const COMPILING_MAX: usize = 2;
/// The library's work is recursive where grammars are.
const STACK_BYTES: usize = 64 << 20;
/// Compiled grammars that are kept: most clients send the same schema again and again.
const KEPT: NonZeroUsize = NonZeroUsize::new(16).unwrap();

/// Compiles grammars for a model, the first time with what takes a while to make.
pub struct Grammars(Arc<Shared>);

struct Shared {
    tokenizer: Tokenizer,
    vocabulary: usize,
    end_ids: Vec<u32>,
    compiler: OnceLock<Result<GrammarCompiler, GrammarError>>,
    kept: Mutex<LruCache<String, Arc<CompiledGrammar>>>,
    compiling: Mutex<usize>,
    place_is_free: Condvar,
}

/// Why there is no grammar.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ObtainError {
    /// The grammar is at fault.
    #[error(transparent)]
    Grammar(#[from] GrammarError),
    /// It took too long.
    #[error("it did not compile within {0:?}")]
    TooSlow(Duration),
    /// Others are being compiled.
    #[error("other grammars are being compiled; retry later")]
    Busy,
}

impl Grammars {
    /// For a model with so many rows in its output head, whose answers end with any of `end_ids`.
    pub fn new(tokenizer: Tokenizer, vocabulary: usize, end_ids: Vec<u32>) -> Self {
        Self(Arc::new(Shared {
            tokenizer,
            vocabulary,
            end_ids,
            compiler: OnceLock::new(),
            kept: Mutex::new(LruCache::new(KEPT)),
            compiling: Mutex::new(0),
            place_is_free: Condvar::new(),
        }))
    }

    /// Compiles a grammar, or finds it. Blocks for 5 seconds at most.
    pub fn obtain(&self, grammar: AnswerGrammar) -> Result<Arc<dyn TokenRules>, ObtainError> {
        let key = format!("{grammar:?}");
        if let Some(kept) = lock(&self.0.kept).get(&key) {
            return Ok(Arc::new(Rules(Arc::clone(kept))));
        }
        let deadline = Instant::now() + TIME_LIMIT;
        self.0.take_place(deadline)?;
        let (sender, receiver) = mpsc::sync_channel(1);
        let shared = Arc::clone(&self.0);
        let work = move || {
            let _place = Place(&shared);
            let compiled = shared.compile(&grammar).map(Arc::new);
            if let Ok(compiled) = &compiled {
                lock(&shared.kept).put(key, Arc::clone(compiled));
            }
            // Nobody listens any more where it took too long.
            let _ = sender.send(compiled);
        };
        let thread = std::thread::Builder::new().name("grammar".into());
        if thread.stack_size(STACK_BYTES).spawn(work).is_err() {
            return Err(ObtainError::Busy);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        match receiver.recv_timeout(left) {
            Ok(compiled) => Ok(Arc::new(Rules(compiled?))),
            Err(RecvTimeoutError::Timeout) => Err(ObtainError::TooSlow(TIME_LIMIT)),
            Err(RecvTimeoutError::Disconnected) => {
                let message = "the grammar library stopped";
                Err(GrammarError::Refused(message.into()).into())
            }
        }
    }
}

impl Shared {
    fn take_place(&self, deadline: Instant) -> Result<(), ObtainError> {
        let mut compiling = lock(&self.compiling);
        while *compiling >= COMPILING_MAX {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(ObtainError::Busy);
            }
            let waited = self.place_is_free.wait_timeout(compiling, left);
            compiling = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        *compiling += 1;
        Ok(())
    }

    fn compile(&self, grammar: &AnswerGrammar) -> Result<CompiledGrammar, GrammarError> {
        let make = || GrammarCompiler::new(&self.tokenizer, self.vocabulary, &self.end_ids);
        let compiler = self.compiler.get_or_init(make);
        compiler.as_ref().map_err(Clone::clone)?.compile(grammar)
    }
}

/// Held while a grammar compiles; gives the place back however that ends.
struct Place<'a>(&'a Shared);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        *lock(&self.0.compiling) -= 1;
        self.0.place_is_free.notify_one();
    }
}

/// A compiled grammar as the engine sees it.
#[derive(Debug)]
struct Rules(Arc<CompiledGrammar>);

impl TokenRules for Rules {
    fn begin(&self) -> Box<dyn TokenConstraint> {
        Box::new(Constraint(self.0.begin()))
    }
}

struct Constraint(GrammarMatcher);

impl TokenConstraint for Constraint {
    fn allow(&mut self, mask: &mut TokenMask) -> Result<(), ConstraintError> {
        let allowed = self.0.allowed(|words| mask.allow_words(words));
        allowed.map_err(|error| ConstraintError(error.to_string()))
    }

    fn accept(&mut self, token: u32) -> Result<bool, ConstraintError> {
        let accepted = self.0.accept(token);
        accepted.map_err(|error| ConstraintError(error.to_string()))
    }
}

/// Every change under these locks is complete in itself.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
