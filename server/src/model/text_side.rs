//! The text files of a store: tokenizer, chat template, advised sampling.

use crate::state::SamplingDefaults;
use odmoe_convert::TextContents;
use odmoe_formats::manifest::Manifest;
use odmoe_text::{ChatTemplate, TemplateError, Tokenizer, TokenizerError};
use serde_json::Value;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// A longer text file is refused; the longest tokenizers have some 20 MB.
const LIMIT_BYTES: u64 = 256 << 20;

/// What turns text into tokens and back.
pub struct TextSide {
    /// Text to token ids.
    pub tokenizer: Tokenizer,
    /// None: the model has no template.
    pub template: Option<ChatTemplate>,
    /// What the model's makers advise.
    pub sampling_defaults: SamplingDefaults,
}

/// A text side that cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum TextSideError {
    /// The system refused.
    #[error("{path}: {source}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The store has none.
    #[error(
        "the store has no tokenizer; convert the model again from a folder with tokenizer.json"
    )]
    NoTokenizer,
    /// The tokenizer is refused.
    #[error("{path}: {source}")]
    Tokenizer {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: TokenizerError,
    },
    /// The template is refused.
    #[error("{path}: {source}")]
    Template {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: TemplateError,
    },
}

/// Opens the text files that a manifest names.
pub fn open_text_side(folder: &Path, manifest: &Manifest) -> Result<TextSide, TextSideError> {
    let text = &manifest.text;
    let path = folder.join(text.tokenizer.as_ref().ok_or(TextSideError::NoTokenizer)?);
    let tokenizer = Tokenizer::from_json(&read(&path)?)
        .map_err(|source| TextSideError::Tokenizer { path, source })?;
    let template = match &text.chat_template {
        None => None,
        Some(name) => {
            let path = folder.join(name);
            let source = String::from_utf8_lossy(&read(&path)?).into_owned();
            let compiled = ChatTemplate::compile(&source, &text.special_tokens);
            Some(compiled.map_err(|source| TextSideError::Template { path, source })?)
        }
    };
    let sampling_defaults = match &text.generation_config {
        None => SamplingDefaults::default(),
        Some(name) => sampling_defaults(&read(&folder.join(name))?),
    };
    Ok(TextSide {
        tokenizer,
        template,
        sampling_defaults,
    })
}

/// Whether the text files that a conversion would write can be opened.
pub fn check_text(text: &TextContents) -> Result<(), TextSideError> {
    let tokenizer = text.tokenizer.as_ref().ok_or(TextSideError::NoTokenizer)?;
    let checked = Tokenizer::from_json(tokenizer).map(drop);
    checked.map_err(|source| TextSideError::Tokenizer {
        path: "tokenizer".into(),
        source,
    })?;
    let Some(template) = &text.chat_template else {
        return Ok(());
    };
    let checked = ChatTemplate::compile(template, &text.special_tokens).map(drop);
    checked.map_err(|source| TextSideError::Template {
        path: "chat template".into(),
        source,
    })
}

fn read(path: &Path) -> Result<Vec<u8>, TextSideError> {
    let failed = |source| TextSideError::Io {
        path: path.to_owned(),
        source,
    };
    let file = std::fs::File::open(path).map_err(failed)?;
    let mut bytes = Vec::new();
    file.take(LIMIT_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    if bytes.len() as u64 > LIMIT_BYTES {
        return Err(failed(io::Error::other(format!(
            "more than {LIMIT_BYTES} bytes"
        ))));
    }
    Ok(bytes)
}

/// From `generation_config.json`. It is advice: what is absent, or out of the range that a request may ask for, is
/// left out.
fn sampling_defaults(json: &[u8]) -> SamplingDefaults {
    let Ok(config) = serde_json::from_slice::<Value>(json) else {
        tracing::warn!("generation_config.json is no JSON; its sampling defaults are left out");
        return SamplingDefaults::default();
    };
    let within = |name: &str, least: f64, most: f64| {
        let number = config[name].as_f64().filter(|n| (least..=most).contains(n));
        number.map(|n| n as f32)
    };
    SamplingDefaults {
        temperature: within("temperature", 0.0, 2.0),
        top_p: within("top_p", f64::MIN_POSITIVE, 1.0),
        top_k: config["top_k"].as_u64().and_then(|k| u32::try_from(k).ok()),
        min_p: within("min_p", 0.0, 1.0),
        repetition_penalty: within("repetition_penalty", f64::MIN_POSITIVE, 2.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advice_out_of_range_is_left_out() {
        let advised = sampling_defaults(
            br#"{"temperature": 0.7, "top_k": 40, "top_p": 0.9, "do_sample": true}"#,
        );
        assert_eq!(
            (advised.temperature, advised.top_k, advised.top_p),
            (Some(0.7), Some(40), Some(0.9))
        );
        assert_eq!((advised.min_p, advised.repetition_penalty), (None, None));
        let odd = br#"{"temperature": -1, "top_k": -5, "top_p": 0, "min_p": "high", "repetition_penalty": 1e9}"#;
        assert_eq!(sampling_defaults(odd), SamplingDefaults::default());
        assert_eq!(sampling_defaults(b"\xff"), SamplingDefaults::default());
        assert_eq!(sampling_defaults(b"[]"), SamplingDefaults::default());
    }
}
