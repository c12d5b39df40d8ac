//! The model's configuration from a file's metadata. Defaults are those of llama.cpp, which most files were made for.

use super::keys::Keys;
use super::names::{EMBEDDING, HEAD, QUERY_BIAS, ROPE_DIVISORS};
use super::parts::Parts;
use super::variations;
use crate::source::{SourceError, shown};
use odmoe_formats::architecture::{self, Architecture, Experts};
use odmoe_formats::gguf::ValueError;
use odmoe_formats::model_config::{ModelConfig, MoeConfig};

/// More routed experts than any model has; each becomes three tensors in memory's books.
const MAX_EXPERTS: u64 = 1 << 18;

/// What llama.cpp does in a family without being told by the file.
struct Habits {
    /// Whether the weights of the chosen experts are scaled to sum to one.
    normalises_top_k: bool,
    /// Whether an expert's width has a key of its own.
    own_expert_width: bool,
    /// Whether the rotary frequencies may have divisors.
    rope_divisors: bool,
}

fn habits(architecture: &Architecture) -> Habits {
    let name = architecture.name;
    Habits {
        normalises_top_k: !matches!(name, architecture::OLMOE | architecture::QWEN2_MOE),
        own_expert_width: matches!(name, architecture::QWEN2_MOE | architecture::QWEN3_MOE),
        rope_divisors: name == architecture::LLAMA,
    }
}

pub(super) fn read(parts: &Parts) -> Result<ModelConfig, SourceError> {
    let architecture = find_architecture(parts)?;
    let keys = Keys::new(parts, architecture.name);
    let habits = habits(architecture);
    variations::refuse(&keys, habits.normalises_top_k)?;

    let hidden_size = keys.u32("embedding_length")?;
    let num_attention_heads = keys.u32("attention.head_count")?;
    let key_value_heads = keys.optional_u32("attention.head_count_kv")?;
    let rms_norm_eps = keys.float("attention.layer_norm_rms_epsilon")?;
    let moe = moe(&keys, architecture, &habits)?;
    let mut config = ModelConfig {
        architecture: architecture.name.into(),
        num_hidden_layers: keys.u32("block_count")?,
        hidden_size,
        num_attention_heads,
        num_key_value_heads: key_value_heads.unwrap_or(num_attention_heads),
        head_dim: head_dim(&keys, hidden_size, num_attention_heads)?,
        vocab_size: vocab_size(&keys, parts)?,
        rms_norm_eps: rms_norm_eps.ok_or_else(|| {
            let key = keys.key("attention.layer_norm_rms_epsilon");
            keys.wrong(ValueError::Missing(key))
        })? as f32,
        rope_theta: keys.float("rope.freq_base")?.unwrap_or(10_000.0),
        max_position_embeddings: keys.u32("context_length")?,
        tie_word_embeddings: parts.find(HEAD).is_none(),
        intermediate_size: match &moe {
            None => keys.u32("feed_forward_length")?,
            Some(_) => 0,
        },
        attention_bias: parts.tensors.iter().any(|tensor| {
            let name = &tensor.info.name;
            name.ends_with(QUERY_BIAS)
        }),
        rope_frequency_divisors: Vec::new(),
        moe,
    };
    // First without the divisors, so that their number is known to be a sensible one.
    check(&keys, &config)?;
    config.rope_frequency_divisors = rope_divisors(&keys, parts, &habits, config.head_dim)?;
    check(&keys, &config)?;
    Ok(config)
}

fn find_architecture(parts: &Parts) -> Result<&'static Architecture, SourceError> {
    const KEY: &str = "general.architecture";
    let wrong = |source| SourceError::Metadata {
        path: parts.path.clone(),
        source,
    };
    let found = parts.metadata.text(KEY).map_err(wrong)?;
    let found = found.ok_or_else(|| wrong(ValueError::Missing(KEY.into())))?;
    architecture::find(found).ok_or_else(|| SourceError::Architecture {
        path: parts.path.clone(),
        found: shown(found),
        supported: architecture::supported(),
    })
}

fn check(keys: &Keys<'_>, config: &ModelConfig) -> Result<(), SourceError> {
    if let Err(source) = config.check() {
        let path = keys.path.clone();
        return Err(SourceError::Config { path, source });
    }
    match config.routed_experts() {
        experts if experts > MAX_EXPERTS => {
            let reason = format!("{experts} routed experts are more than {MAX_EXPERTS}");
            Err(keys.malformed(reason))
        }
        _ => Ok(()),
    }
}

fn moe(
    keys: &Keys<'_>,
    architecture: &Architecture,
    habits: &Habits,
) -> Result<Option<MoeConfig>, SourceError> {
    let num_experts = keys.optional_u32("expert_count")?.unwrap_or(0);
    match architecture.experts {
        Experts::Never if num_experts != 0 => {
            let key = keys.key("expert_count");
            return Err(keys.unsupported(format!("{key} = {num_experts}")));
        }
        Experts::Never => return Ok(None),
        Experts::Sometimes if num_experts == 0 => return Ok(None),
        Experts::Sometimes | Experts::Always => {}
    }
    let num_experts_per_tok = keys.u32("expert_used_count")?;
    let own_width = match habits.own_expert_width {
        true => keys.optional_u32("expert_feed_forward_length")?,
        false => None,
    };
    let moe_intermediate_size = match own_width.filter(|width| *width != 0) {
        Some(width) => width,
        // Divided among the chosen where an expert's width has a key but the file has it not.
        None => {
            let width = keys.u32("feed_forward_length")?;
            let shares = if habits.own_expert_width {
                num_experts_per_tok
            } else {
                1
            };
            width.checked_div(shares).unwrap_or(0)
        }
    };
    Ok(Some(MoeConfig {
        num_experts,
        num_experts_per_tok,
        moe_intermediate_size,
        norm_topk_prob: habits.normalises_top_k,
        dense_layers: Vec::new(),
        shared_expert_intermediate_size: shared_expert(keys, architecture)?,
    }))
}

/// Width of the shared expert; 0 in families without one.
fn shared_expert(keys: &Keys<'_>, architecture: &Architecture) -> Result<u32, SourceError> {
    const WIDTH: &str = "expert_shared_feed_forward_length";
    let width = keys.optional_u32(WIDTH)?.unwrap_or(0);
    let count = keys.optional_u32("expert_shared_count")?.unwrap_or(0);
    if !architecture.shared_expert {
        return match width.max(count) {
            0 => Ok(0),
            _ => Err(keys.unsupported("a shared expert in this architecture".into())),
        };
    }
    match width {
        0 => keys.u32("feed_forward_length"),
        width => Ok(width),
    }
}

/// One width for queries, keys and values, all of it rotary.
fn head_dim(keys: &Keys<'_>, hidden: u32, heads: u32) -> Result<u32, SourceError> {
    let default = hidden.checked_div(heads).unwrap_or(0);
    let head_dim = keys
        .optional_u32("attention.key_length")?
        .unwrap_or(default);
    for (part, default) in [
        ("attention.value_length", default),
        ("rope.dimension_count", head_dim),
    ] {
        let found = keys.optional_u32(part)?.unwrap_or(default);
        if found != head_dim {
            let key = keys.key(part);
            return Err(
                keys.unsupported(format!("{key} = {found} where heads are {head_dim} wide"))
            );
        }
    }
    Ok(head_dim)
}

/// Rows of the embedding. A file may say something else of its vocabulary, but these are the rows that there are.
fn vocab_size(keys: &Keys<'_>, parts: &Parts) -> Result<u32, SourceError> {
    if parts.tensors.is_empty() {
        let reason = "it holds a vocabulary and no weights; give the file that has them";
        return Err(keys.malformed(reason.into()));
    }
    let embedding = parts.find(EMBEDDING).map(|tensor| &tensor.info.shape);
    let Some(&[rows, _]) = embedding.map(Vec::as_slice) else {
        return Err(keys.malformed(format!("there is no matrix {EMBEDDING}")));
    };
    let tokens = keys.metadata.strings("tokenizer.ggml.tokens");
    let tokens = tokens
        .map_err(|error| keys.wrong(error))?
        .unwrap_or_default();
    if tokens.len() as u64 > rows {
        let tokens = tokens.len();
        return Err(keys.malformed(format!(
            "it has {tokens} tokens but an embedding of {rows} rows"
        )));
    }
    u32::try_from(rows).map_err(|_| keys.malformed(format!("an embedding of {rows} rows")))
}

/// The file's divisors times the factor of linear scaling; empty where both change nothing.
fn rope_divisors(
    keys: &Keys<'_>,
    parts: &Parts,
    habits: &Habits,
    head_dim: u32,
) -> Result<Vec<f32>, SourceError> {
    let factor = linear_scaling(keys)?;
    let pairs = head_dim as usize / 2;
    let stored = match habits.rope_divisors {
        true => read_divisors(keys, parts, pairs)?,
        false => None,
    };
    if stored.is_none() && factor == 1.0 {
        return Ok(Vec::new());
    }
    let stored = stored.unwrap_or_else(|| vec![1.0; pairs]);
    Ok(stored.into_iter().map(|divisor| divisor * factor).collect())
}

/// What linear scaling divides every rotary frequency by.
fn linear_scaling(keys: &Keys<'_>) -> Result<f32, SourceError> {
    const TYPE: &str = "rope.scaling.type";
    let newer = keys.float("rope.scaling.factor")?;
    let factor = newer.or(keys.float("rope.scale_linear")?).unwrap_or(0.0);
    match keys.text(TYPE)?.unwrap_or("linear") {
        "none" => Ok(1.0),
        // No factor is written as 0 too.
        "linear" if factor == 0.0 => Ok(1.0),
        "linear" => Ok(factor as f32),
        other => {
            let other = shown(other);
            Err(keys.unsupported(format!("{} {other:?}", keys.key(TYPE))))
        }
    }
}

fn read_divisors(
    keys: &Keys<'_>,
    parts: &Parts,
    pairs: usize,
) -> Result<Option<Vec<f32>>, SourceError> {
    let Some(tensor) = parts.find(ROPE_DIVISORS) else {
        return Ok(None);
    };
    let info = &tensor.info;
    if info.shape != [pairs as u64] {
        return Err(SourceError::Shape {
            source_name: shown(&info.name),
            expected: vec![pairs as u64],
            found: info.shape.clone(),
        });
    }
    let Some(format) = info.block_format().filter(|format| format.is_float()) else {
        return Err(keys.malformed(format!("{ROPE_DIVISORS} is {}, not floats", info.kind)));
    };
    let mut bytes = vec![0; (info.range.end - info.range.start) as usize];
    parts
        .folder
        .read_at(tensor.file, info.range.start, &mut bytes)?;
    let mut divisors = vec![0.0; pairs];
    format.decode_row(&bytes, &mut divisors);
    Ok(Some(divisors))
}
