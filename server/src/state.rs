//! What opening a model hands to the routes: the served model, and how far its loading is.

use crate::grammars::Grammars;
use crate::http::Generator;
use crate::model::live_budget::LiveBudget;
use crate::model::recorder::Recorder;
use odmoe_formats::ByteCount;
use odmoe_text::{ChatTemplate, Tokenizer};
use std::sync::Arc;
use tokio::sync::watch;

/// Sampling that a model's makers advise; a request's own fields win.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct SamplingDefaults {
    /// 0 takes the most likely token.
    pub temperature: Option<f32>,
    /// Nucleus.
    pub top_p: Option<f32>,
    /// Keeps the k most likely.
    pub top_k: Option<u32>,
    /// Keeps tokens at least this fraction as likely as the most likely.
    pub min_p: Option<f32>,
    /// More than 1 discourages what was said.
    pub repetition_penalty: Option<f32>,
}

/// A model that answers.
pub struct ServedModel {
    /// The name that clients use.
    pub name: String,
    /// The engine.
    pub engine: Arc<dyn Generator>,
    /// Text to token ids and back.
    pub tokenizer: Tokenizer,
    /// None: the model has no chat template, so chats are refused.
    pub template: Option<ChatTemplate>,
    /// What its makers advise.
    pub sampling_defaults: SamplingDefaults,
    /// Tokens that end an answer.
    pub end_ids: Vec<u32>,
    /// The longest context that is served, in tokens.
    pub context_tokens: usize,
    /// The most answers that the engine holds at once, running and waiting.
    pub capacity_answers: usize,
    /// Rows of the output head: token ids are below it.
    pub vocabulary: usize,
    /// Numbers of an embedding.
    pub embedding_width: usize,
    /// Grammars of its answers.
    pub grammars: Grammars,
    /// What its experts may take; None: it cannot be changed.
    pub budget: Option<Arc<LiveBudget>>,
    /// Who tells which experts are asked for.
    pub recorder: Arc<Recorder>,
    /// When it was opened.
    pub created_unix_s: u64,
}

/// What loading does now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stage {
    /// A Hugging Face folder becomes a store.
    Converting,
    /// Resident weights are read and verified.
    LoadingBase,
    /// Slots and KV are allocated, threads start.
    StartingEngine,
    /// Requests are answered.
    Ready,
    /// It ended; the text says why and what to do.
    Failed(String),
}

impl Stage {
    /// A name for programs.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Converting => "converting",
            Self::LoadingBase => "loading_base",
            Self::StartingEngine => "starting_engine",
            Self::Ready => "ready",
            Self::Failed(_) => "failed",
        }
    }
}

/// How far loading is.
#[derive(Clone, Debug, PartialEq)]
pub struct LoadingProgress {
    /// What it does.
    pub stage: Stage,
    /// Of the whole, from 0 to 1; it never falls.
    pub fraction: f64,
    /// One line for people.
    pub detail: String,
    /// Of this stage.
    pub bytes_done: ByteCount,
    /// Of this stage; 0 where the stage moves no bytes.
    pub bytes_total: ByteCount,
}

impl LoadingProgress {
    /// The start of a stage that moves no bytes.
    pub fn stage(stage: Stage, fraction: f64, detail: impl Into<String>) -> Self {
        Self {
            stage,
            fraction,
            detail: detail.into(),
            bytes_done: ByteCount(0),
            bytes_total: ByteCount(0),
        }
    }
}

#[derive(Clone)]
struct Loading {
    progress: LoadingProgress,
    model: Option<Arc<ServedModel>>,
}

/// Where the opened model appears. Cloning shares it: the thread that opens writes, the routes read.
#[derive(Clone)]
pub struct ModelSlot {
    state: Arc<watch::Sender<Loading>>,
}

impl Default for ModelSlot {
    fn default() -> Self {
        Self::new()
    }
}

impl ModelSlot {
    /// Empty, at fraction 0.
    pub fn new() -> Self {
        let progress = LoadingProgress::stage(Stage::LoadingBase, 0.0, "starting");
        Self {
            state: Arc::new(watch::Sender::new(Loading {
                progress,
                model: None,
            })),
        }
    }

    /// Says how far it is. The fraction is kept from falling; ignored once ready or failed.
    pub fn set_progress(&self, mut progress: LoadingProgress) {
        self.state.send_if_modified(|loading| {
            if matches!(loading.progress.stage, Stage::Ready | Stage::Failed(_)) {
                return false;
            }
            progress.fraction = progress.fraction.clamp(loading.progress.fraction, 1.0);
            let changed = loading.progress != progress;
            loading.progress = progress;
            changed
        });
    }

    /// From now on the model is served.
    pub fn set_ready(&self, model: Arc<ServedModel>) {
        let progress = LoadingProgress::stage(Stage::Ready, 1.0, format!("serving {}", model.name));
        self.state.send_replace(Loading {
            progress,
            model: Some(model),
        });
    }

    /// Opening ended badly.
    pub fn set_failed(&self, reason: impl Into<String>) {
        let reason = reason.into();
        self.state.send_modify(|loading| {
            loading.progress.detail = reason.clone();
            loading.progress.stage = Stage::Failed(reason);
            loading.model = None;
        });
    }

    /// The model, once ready.
    pub fn get(&self) -> Option<Arc<ServedModel>> {
        self.state.borrow().model.clone()
    }

    /// How far it is.
    pub fn progress(&self) -> LoadingProgress {
        self.state.borrow().progress.clone()
    }

    /// Follows the progress, beginning with what it is now.
    pub fn subscribe(&self) -> ProgressWatch {
        ProgressWatch {
            state: self.state.subscribe(),
            first: true,
        }
    }
}

/// A follower of loading.
pub struct ProgressWatch {
    state: watch::Receiver<Loading>,
    first: bool,
}

impl ProgressWatch {
    /// What it is now at the first call, then each later change; skips what came and went between two calls. None
    /// after `Ready` or `Failed`, or once nobody can write any more.
    pub async fn next(&mut self) -> Option<LoadingProgress> {
        if self.first {
            self.first = false;
        } else {
            if matches!(
                self.state.borrow().progress.stage,
                Stage::Ready | Stage::Failed(_)
            ) && !self.state.has_changed().unwrap_or(false)
            {
                return None;
            }
            self.state.changed().await.ok()?;
        }
        Some(self.state.borrow_and_update().progress.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(fraction: f64) -> LoadingProgress {
        LoadingProgress::stage(Stage::LoadingBase, fraction, "base")
    }

    #[test]
    fn the_fraction_never_falls() {
        let slot = ModelSlot::new();
        slot.set_progress(at(0.5));
        slot.set_progress(at(0.2));
        assert_eq!(slot.progress().fraction, 0.5);
        slot.set_progress(at(7.0));
        assert_eq!(slot.progress().fraction, 1.0);
    }

    #[test]
    fn a_failure_is_the_last_word() {
        let slot = ModelSlot::new();
        slot.set_failed("no such file");
        slot.set_progress(at(0.9));
        assert_eq!(slot.progress().stage, Stage::Failed("no such file".into()));
        assert!(slot.get().is_none());
    }

    #[tokio::test]
    async fn a_follower_sees_now_then_changes_then_the_end() {
        let slot = ModelSlot::new();
        slot.set_progress(at(0.25));
        let mut watch = slot.subscribe();
        assert_eq!(watch.next().await.unwrap().fraction, 0.25);
        slot.set_progress(at(0.75));
        assert_eq!(watch.next().await.unwrap().fraction, 0.75);
        slot.set_failed("gone");
        assert_eq!(watch.next().await.unwrap().stage.name(), "failed");
        assert!(watch.next().await.is_none());
    }
}
