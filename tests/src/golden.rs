//! Reference values by `transformers` and llama.cpp, and what a comparison with them may find.

use crate::engine::TestEngine;
use crate::workspace::root;
use serde_json::Value;
use std::fmt;
use std::path::{Path, PathBuf};

/// An oracle model with its values, as `tests/oracle/README.md` describes them.
pub struct Golden {
    /// Its name.
    pub name: String,
    /// What to open: a folder, or a GGUF file.
    pub model: PathBuf,
    /// A prompt and its greedy continuation.
    pub ids: Vec<u32>,
    /// How many of the ids are the prompt.
    pub prompt_tokens: usize,
    /// The whole `golden.json`.
    pub json: Value,
    folder: PathBuf,
}

/// By position, the log-softmax of the logits after it.
pub type Logprobs = Vec<Vec<f64>>;

impl Golden {
    /// One of the Hugging Face folders.
    #[track_caller]
    pub fn hugging_face(name: &str) -> Self {
        let folder = root().join("tests/oracle/models").join(name);
        Self::read(name, folder.clone(), |_| folder)
    }

    /// One of the GGUF models.
    #[track_caller]
    pub fn gguf(name: &str) -> Self {
        let folder = root().join("tests/oracle/gguf").join(name);
        let model = |json: &Value| folder.join(json["model"].as_str().expect("a file name"));
        Self::read(name, folder.clone(), model)
    }

    #[track_caller]
    fn read(name: &str, folder: PathBuf, model: impl FnOnce(&Value) -> PathBuf) -> Self {
        let json = read_json(&folder.join("golden.json"));
        Self {
            name: name.into(),
            model: model(&json),
            ids: token_ids(&json["ids"]),
            prompt_tokens: json["prompt_tokens"].as_u64().expect("a count") as usize,
            json,
            folder,
        }
    }

    /// The values of `logits.f32` or `reference.f32`.
    #[track_caller]
    pub fn logprobs(&self, file: &str) -> Logprobs {
        let vocabulary = self.json["logits"]["shape"][1].as_u64().expect("a shape") as usize;
        let logits = read_floats(&self.folder.join(file));
        assert_eq!(logits.len(), self.ids.len() * vocabulary, "{}", self.name);
        logits.chunks_exact(vocabulary).map(log_softmax).collect()
    }

    /// Every position of the ids by decode, and prompts of lengths around the edges of chunks and KV blocks by
    /// prefill: how far the engine is from `reference`.
    #[track_caller]
    pub fn compare(&self, engine: &TestEngine, reference: &Logprobs) -> Difference {
        let mut difference = Difference::default();
        difference.add(engine, &self.ids, 1, self.ids.len() - 1, reference);
        for length in [2, 15, 16, 17, self.prompt_tokens - 1, self.prompt_tokens] {
            difference.add(engine, &self.ids, length, 1, reference);
        }
        difference
    }

    /// What a client would get is the greedy continuation, wherever its margin is not within `tolerance`.
    #[track_caller]
    pub fn compare_greedy(&self, engine: &TestEngine, tolerance: f64) {
        let margins = numbers(&self.json["greedy_top2_margin"]);
        let (prompt, continuation) = self.ids.split_at(self.prompt_tokens);
        let found = engine.score(prompt, continuation, 1).wait();
        for (step, position) in found.iter().enumerate() {
            let same = position.top[0].token == continuation[step];
            let name = &self.name;
            assert!(
                same || margins[step] < tolerance,
                "{name}: greedy step {step}"
            );
        }
    }
}

/// How far logprobs are from others, over all positions and tokens that were compared.
#[derive(Clone, Copy, Debug, Default)]
pub struct Difference {
    /// The largest of one token at one position.
    pub largest: f64,
    squares: f64,
    count: usize,
}

impl Difference {
    /// Scores `tokens` of `ids` after the first `prompt_tokens` and takes their whole distributions in.
    #[track_caller]
    fn add(
        &mut self,
        engine: &TestEngine,
        ids: &[u32],
        prompt_tokens: usize,
        tokens: usize,
        reference: &Logprobs,
    ) {
        let vocabulary = engine.vocabulary();
        let (prompt, rest) = ids.split_at(prompt_tokens);
        let found = engine.score(prompt, &rest[..tokens], vocabulary).wait();
        assert_eq!(found.len(), tokens);
        for (position, reference) in found.iter().zip(&reference[prompt_tokens - 1..]) {
            assert_eq!(position.top.len(), vocabulary);
            assert_eq!(reference.len(), vocabulary);
            for token in position.top.iter().chain([&position.chosen]) {
                let reference = reference[token.token as usize];
                self.add_one(f64::from(token.logprob), reference);
            }
        }
    }

    /// Takes one token's logprob in.
    pub fn add_one(&mut self, found: f64, reference: f64) {
        let apart = (found - reference).abs();
        // Passes over NaN, which the sum of squares keeps.
        self.largest = self.largest.max(apart);
        self.squares += apart * apart;
        self.count += 1;
    }

    /// The root of the mean square.
    pub fn root_mean_square(&self) -> f64 {
        (self.squares / self.count as f64).sqrt()
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let root_mean_square = self.root_mean_square();
        write!(f, "{:.1e} (rms {root_mean_square:.1e})", self.largest)
    }
}

/// Reads a JSON file.
#[track_caller]
pub fn read_json(path: &Path) -> Value {
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Token ids of a JSON list.
#[track_caller]
pub fn token_ids(list: &Value) -> Vec<u32> {
    let list = list
        .as_array()
        .unwrap_or_else(|| panic!("{list} is no list"));
    list.iter()
        .map(|id| id.as_u64().expect("a token id") as u32)
        .collect()
}

/// Numbers of a JSON list.
#[track_caller]
pub fn numbers(list: &Value) -> Vec<f64> {
    let list = list
        .as_array()
        .unwrap_or_else(|| panic!("{list} is no list"));
    list.iter()
        .map(|number| number.as_f64().expect("a number"))
        .collect()
}

/// Little-endian binary32 values.
#[track_caller]
pub fn read_floats(path: &Path) -> Vec<f32> {
    let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let (values, rest) = bytes.as_chunks::<4>();
    assert!(rest.is_empty(), "{}: no whole values", path.display());
    values
        .iter()
        .map(|value| f32::from_le_bytes(*value))
        .collect()
}

/// The natural logs of the softmax of logits.
pub fn log_softmax(logits: &[f32]) -> Vec<f64> {
    let greatest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits
        .iter()
        .map(|&logit| f64::from(logit - greatest).exp())
        .sum();
    logits
        .iter()
        .map(|&logit| f64::from(logit - greatest) - sum.ln())
        .collect()
}
