//! `config.json`, field by field: what is understood, and what would change results if it were ignored.

use crate::source::SourceError;
use crate::source_folder::SourceFolder;
use odmoe_formats::ByteCount;
use odmoe_formats::architecture::QWEN3_MOE;
use odmoe_formats::model_config::{MAX_LAYERS, ModelConfig, MoeConfig};
use serde_json::{Map, Value};
use std::collections::HashSet;
use std::path::PathBuf;

pub(super) const FILE: &str = "config.json";
const MAX_BYTES: ByteCount = ByteCount(16 << 20);
const SUPPORTED: &str = "qwen3_moe";

pub(super) struct Config {
    pub model: ModelConfig,
    /// As the file says; absent where it does not.
    pub eos_token_id: Option<Value>,
    /// The file, for the fingerprint.
    pub bytes: Vec<u8>,
}

pub(super) fn read(folder: &mut SourceFolder) -> Result<Config, SourceError> {
    let Some(bytes) = folder.read_whole(FILE, MAX_BYTES)? else {
        return Err(SourceError::MissingFile {
            folder: folder.path().into(),
            file: FILE,
            advice: "a Hugging Face model folder has one",
        });
    };
    let fields = Fields {
        path: folder.file_path(FILE),
        map: parse_object(folder, FILE, &bytes)?,
    };
    let model = qwen3_moe(&fields)?;
    let path = || folder.file_path(FILE);
    model.check().map_err(|source| SourceError::Config {
        path: path(),
        source,
    })?;
    let eos_token_id = fields.present("eos_token_id").cloned();
    Ok(Config {
        model,
        eos_token_id,
        bytes,
    })
}

/// A JSON file that must be an object.
pub(super) fn parse_object(
    folder: &SourceFolder,
    name: &str,
    bytes: &[u8],
) -> Result<Map<String, Value>, SourceError> {
    serde_json::from_slice(bytes).map_err(|error| SourceError::Malformed {
        path: folder.file_path(name),
        reason: format!("not a JSON object: {error}"),
    })
}

/// Defaults are those of `Qwen3MoeConfig` in transformers; sizes have none, for a guess would not fit the tensors.
fn qwen3_moe(fields: &Fields) -> Result<ModelConfig, SourceError> {
    let family = fields
        .present("model_type")
        .and_then(Value::as_str)
        .unwrap_or_default();
    if family != SUPPORTED {
        let found = family.chars().take(64).collect();
        let path = fields.path.clone();
        return Err(SourceError::Family {
            path,
            found,
            supported: SUPPORTED,
        });
    }
    refuse_variations(fields)?;

    let num_hidden_layers = fields.u32("num_hidden_layers")?;
    let hidden_size = fields.u32("hidden_size")?;
    let num_attention_heads = fields.u32("num_attention_heads")?;
    let default_head_dim = hidden_size.checked_div(num_attention_heads).unwrap_or(0);
    let dense_layers = dense_layers(fields, num_hidden_layers)?;
    Ok(ModelConfig {
        architecture: QWEN3_MOE.into(),
        num_hidden_layers,
        hidden_size,
        num_attention_heads,
        num_key_value_heads: fields.u32_or("num_key_value_heads", num_attention_heads)?,
        head_dim: fields.u32_or("head_dim", default_head_dim)?,
        vocab_size: fields.u32("vocab_size")?,
        rms_norm_eps: fields.f64_or("rms_norm_eps", 1e-6)? as f32,
        rope_theta: rope_theta(fields)?,
        max_position_embeddings: fields.u32("max_position_embeddings")?,
        tie_word_embeddings: fields.bool_or("tie_word_embeddings", false)?,
        intermediate_size: match dense_layers.is_empty() {
            true => fields.u32_or("intermediate_size", 0)?,
            false => fields.u32("intermediate_size")?,
        },
        attention_bias: false,
        rope_frequency_divisors: Vec::new(),
        moe: Some(MoeConfig {
            num_experts: fields.u32("num_experts")?,
            num_experts_per_tok: fields.u32("num_experts_per_tok")?,
            moe_intermediate_size: fields.u32("moe_intermediate_size")?,
            norm_topk_prob: fields.bool_or("norm_topk_prob", false)?,
            dense_layers,
            shared_expert_intermediate_size: 0,
        }),
    })
}

fn refuse_variations(fields: &Fields) -> Result<(), SourceError> {
    if fields.bool_or("attention_bias", false)? {
        return Err(fields.unsupported("attention_bias"));
    }
    if fields.bool_or("use_sliding_window", false)? && fields.present("sliding_window").is_some() {
        return Err(fields.unsupported("a sliding window"));
    }
    if let Some(act) = fields
        .present("hidden_act")
        .filter(|act| act.as_str() != Some("silu"))
    {
        return Err(fields.unsupported(&format!("hidden_act {act}")));
    }
    if fields.present("quantization_config").is_some() {
        return Err(
            fields.unsupported("quantization_config (a checkpoint that is quantised already)")
        );
    }
    if let Some(types) = fields.present("layer_types") {
        let full = |kind: &Value| kind.as_str() == Some("full_attention");
        if !types.as_array().is_some_and(|types| types.iter().all(full)) {
            return Err(fields.unsupported("layer_types other than full_attention"));
        }
    }
    Ok(())
}

/// A layer is sparse where it is not listed as dense and its number, counted from 1, is a multiple of the step.
fn dense_layers(fields: &Fields, layers: u32) -> Result<Vec<u32>, SourceError> {
    let step = fields.u32_or("decoder_sparse_step", 1)?;
    let expected = "a list of layer numbers";
    let listed: HashSet<u64> = match fields.present("mlp_only_layers") {
        None => HashSet::new(),
        Some(Value::Array(list)) => list
            .iter()
            .map(|layer| {
                layer
                    .as_u64()
                    .ok_or_else(|| fields.wrong("mlp_only_layers", expected))
            })
            .collect::<Result<_, _>>()?,
        Some(_) => return Err(fields.wrong("mlp_only_layers", expected)),
    };
    if step == 0 {
        return Err(fields.wrong("decoder_sparse_step", "a whole number from 1"));
    }
    // A claim of more layers is refused by the configuration's own check, not worked off here.
    let layers = layers.min(MAX_LAYERS);
    let dense =
        |layer: &u32| listed.contains(&u64::from(*layer)) || !(layer + 1).is_multiple_of(step);
    Ok((0..layers).filter(dense).collect())
}

/// The base of the rotary angles, which older and newer versions of transformers write in different places.
fn rope_theta(fields: &Fields) -> Result<f64, SourceError> {
    let mut theta = fields.present("rope_theta").cloned();
    for name in ["rope_scaling", "rope_parameters"] {
        let Some(value) = fields.present(name) else {
            continue;
        };
        let Value::Object(map) = value else {
            return Err(fields.wrong(name, "an object"));
        };
        let kind = map
            .get("rope_type")
            .or_else(|| map.get("type"))
            .and_then(Value::as_str);
        match kind {
            Some("default") => {}
            Some(kind) => return Err(fields.unsupported(&format!("{name} of type {kind:?}"))),
            None => return Err(fields.unsupported(&format!("{name} without a rope_type"))),
        }
        theta = theta.or_else(|| map.get("rope_theta").cloned());
        let factor = map
            .get("partial_rotary_factor")
            .filter(|f| f.as_f64() != Some(1.0));
        if factor.is_some() {
            return Err(fields.unsupported("a partial_rotary_factor"));
        }
    }
    match theta {
        None => Ok(10_000.0),
        Some(theta) => theta
            .as_f64()
            .ok_or_else(|| fields.wrong("rope_theta", "a number")),
    }
}

struct Fields {
    path: PathBuf,
    map: Map<String, Value>,
}

impl Fields {
    /// A field's value; null counts as absent, as in transformers.
    fn present(&self, name: &str) -> Option<&Value> {
        self.map.get(name).filter(|value| !value.is_null())
    }

    fn u32(&self, name: &str) -> Result<u32, SourceError> {
        let value = self.present(name).and_then(Value::as_u64);
        let value = value.and_then(|value| u32::try_from(value).ok());
        value.ok_or_else(|| self.wrong(name, "a whole number below 2^32"))
    }

    fn u32_or(&self, name: &str, default: u32) -> Result<u32, SourceError> {
        if self.present(name).is_some() {
            self.u32(name)
        } else {
            Ok(default)
        }
    }

    fn f64_or(&self, name: &str, default: f64) -> Result<f64, SourceError> {
        match self.present(name) {
            None => Ok(default),
            Some(value) => value.as_f64().ok_or_else(|| self.wrong(name, "a number")),
        }
    }

    fn bool_or(&self, name: &str, default: bool) -> Result<bool, SourceError> {
        match self.present(name) {
            None => Ok(default),
            Some(value) => value
                .as_bool()
                .ok_or_else(|| self.wrong(name, "true or false")),
        }
    }

    fn wrong(&self, field: &str, expected: &'static str) -> SourceError {
        SourceError::Field {
            path: self.path.clone(),
            field: field.into(),
            expected,
        }
    }

    fn unsupported(&self, feature: &str) -> SourceError {
        let feature = feature.chars().take(128).collect();
        SourceError::Feature {
            path: self.path.clone(),
            feature,
        }
    }
}
