//! Chat template and sampling advice.

use super::ImportError;
use odmoe_formats::gguf::Metadata;
use serde_json::{Map, Value};

const TEMPLATE: &str = "tokenizer.chat_template";
/// Templates for special uses have names of their own; this one is for chats.
const NAMED_DEFAULT: &str = "tokenizer.chat_template.default";

/// The model's template for chats. An empty one is none.
pub(super) fn default_template(metadata: &Metadata) -> Result<Option<String>, ImportError> {
    let template = match metadata.text(TEMPLATE)? {
        Some(template) => Some(template),
        None => metadata.text(NAMED_DEFAULT)?,
    };
    Ok(template.filter(|text| !text.is_empty()).map(str::to_owned))
}

/// Names of the metadata, and what `generation_config.json` calls the same.
const SAMPLING: [(&str, &str); 5] = [
    ("general.sampling.temp", "temperature"),
    ("general.sampling.top_k", "top_k"),
    ("general.sampling.top_p", "top_p"),
    ("general.sampling.min_p", "min_p"),
    ("general.sampling.penalty_repeat", "repetition_penalty"),
];

/// The publisher's advice as `generation_config.json`, where there is any. It is advice: what is no number is left out.
pub(super) fn generation_config(metadata: &Metadata) -> Option<Vec<u8>> {
    let mut config = Map::new();
    for (key, name) in SAMPLING {
        let float = metadata.float(key).ok().flatten();
        // The shortest number that is the same 32-bit float: 0.7, not 0.699999988.
        let float = float.and_then(|x| (x as f32).to_string().parse::<f64>().ok());
        let value = match metadata.integer(key) {
            Ok(Some(whole)) => Some(Value::from(whole)),
            _ => float.filter(|x| x.is_finite()).map(Value::from),
        };
        if let Some(value) = value {
            config.insert(name.into(), value);
        }
    }
    if config.is_empty() {
        return None;
    }
    Some(serde_json::to_vec(&config).expect("names and numbers are JSON"))
}
