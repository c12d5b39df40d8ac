//! `config.json`, field by field: what is understood, and what would change results if it were ignored.

mod family;
mod fields;
mod rope;

use crate::source::SourceError;
use crate::source_folder::SourceFolder;
use family::{Bias, Experts, FAMILIES, Family, SUPPORTED, Window};
use fields::Fields;
use odmoe_formats::ByteCount;
use odmoe_formats::model_config::{MAX_LAYERS, ModelConfig, MoeConfig};
use serde_json::{Map, Value};
use std::collections::HashSet;

pub(super) const FILE: &str = "config.json";
const MAX_BYTES: ByteCount = ByteCount(16 << 20);

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
            advice: "a Hugging Face model folder has one, and there is no GGUF file here either",
        });
    };
    let fields = Fields {
        path: folder.file_path(FILE),
        map: parse_object(folder, FILE, &bytes)?,
    };
    let model = model_config(&fields)?;
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

/// Sizes have no defaults, for a guess would not fit the tensors.
fn model_config(fields: &Fields) -> Result<ModelConfig, SourceError> {
    let family = find_family(fields)?;
    refuse_variations(fields, family)?;

    let num_hidden_layers = fields.u32("num_hidden_layers")?;
    let hidden_size = fields.u32("hidden_size")?;
    let num_attention_heads = fields.u32("num_attention_heads")?;
    let default_head_dim = match family.head_dim {
        Some(width) => width,
        None => hidden_size.checked_div(num_attention_heads).unwrap_or(0),
    };
    let head_dim = fields.u32_or("head_dim", default_head_dim)?;
    let rope = rope::read(fields, family.rope_theta, head_dim)?;
    let moe = family.experts.as_ref();
    let moe = moe.map(|experts| moe_config(fields, experts, num_hidden_layers));
    let moe = moe.transpose()?;
    Ok(ModelConfig {
        architecture: family.architecture.into(),
        num_hidden_layers,
        hidden_size,
        num_attention_heads,
        num_key_value_heads: fields.u32_or("num_key_value_heads", num_attention_heads)?,
        head_dim,
        vocab_size: fields.u32("vocab_size")?,
        rms_norm_eps: fields.f64_or("rms_norm_eps", family.rms_norm_eps)? as f32,
        rope_theta: rope.theta,
        max_position_embeddings: fields.u32("max_position_embeddings")?,
        tie_word_embeddings: fields.bool_or("tie_word_embeddings", false)?,
        intermediate_size: dense_width(fields, family, moe.as_ref())?,
        attention_bias: match family.bias {
            Bias::None => false,
            Bias::QueryKeyValue => fields.bool_or("qkv_bias", true)?,
        },
        rope_frequency_divisors: rope.frequency_divisors,
        moe,
    })
}

fn find_family(fields: &Fields) -> Result<&'static Family, SourceError> {
    let found = fields.present("model_type").and_then(Value::as_str);
    let found = found.unwrap_or_default();
    let family = FAMILIES.iter().find(|family| family.model_type == found);
    family.ok_or_else(|| SourceError::Family {
        path: fields.path.clone(),
        found: found.chars().take(64).collect(),
        supported: SUPPORTED,
    })
}

fn moe_config(
    fields: &Fields,
    experts: &Experts,
    num_hidden_layers: u32,
) -> Result<MoeConfig, SourceError> {
    // transformers takes the one name for the other.
    let count = match fields.present("num_local_experts") {
        Some(_) => "num_local_experts",
        None => "num_experts",
    };
    Ok(MoeConfig {
        num_experts: fields.u32(count)?,
        num_experts_per_tok: fields.u32("num_experts_per_tok")?,
        moe_intermediate_size: fields.u32(experts.width)?,
        norm_topk_prob: match experts.norm_topk_prob {
            None => true,
            Some(default) => fields.bool_or("norm_topk_prob", default)?,
        },
        dense_layers: match experts.dense_layers {
            true => dense_layers(fields, num_hidden_layers)?,
            false => Vec::new(),
        },
        shared_expert_intermediate_size: match experts.shared {
            true => fields.u32("shared_expert_intermediate_size")?,
            false => 0,
        },
    })
}

/// Width of a dense layer; needed only where there is one.
fn dense_width(
    fields: &Fields,
    family: &Family,
    moe: Option<&MoeConfig>,
) -> Result<u32, SourceError> {
    let name = "intermediate_size";
    let is_experts_own = family.experts.as_ref().is_some_and(|e| e.width == name);
    match moe {
        Some(_) if is_experts_own => Ok(0),
        Some(moe) if moe.dense_layers.is_empty() => fields.u32_or(name, 0),
        _ => fields.u32(name),
    }
}

fn refuse_variations(fields: &Fields, family: &Family) -> Result<(), SourceError> {
    for &name in family.refused {
        let harmless = [Value::Bool(false), 0.into()];
        if fields.present(name).is_some_and(|v| !harmless.contains(v)) {
            return Err(fields.unsupported(name));
        }
    }
    if looks_back_over_a_window(fields, family)? {
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

/// A window that holds the whole context is none.
fn looks_back_over_a_window(fields: &Fields, family: &Family) -> Result<bool, SourceError> {
    let default = match family.window {
        Window::None => return Ok(false),
        Window::Always(default) => default,
        Window::IfUsed if fields.bool_or("use_sliding_window", false)? => Some(4096),
        Window::IfUsed => return Ok(false),
    };
    let tokens = match fields.map.get("sliding_window") {
        None => default,
        Some(Value::Null) => None,
        Some(_) => Some(fields.u32("sliding_window")?.into()),
    };
    let context = u64::from(fields.u32("max_position_embeddings")?);
    Ok(tokens.is_some_and(|tokens| tokens < context))
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
