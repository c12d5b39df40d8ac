//! A random model as a GGUF file, or as a set of parts.

use super::quantisation::Quantisation;
use super::vocabulary::{SPECIAL, TOKENIZER_VOCABULARY, Vocabulary, special};
use super::{Family, RandomModel, RandomModelError, text};
use crate::source::TensorId;
use odmoe_formats::expected::TensorUse;
use odmoe_formats::gguf::{Array, Metadata, Value};
use odmoe_formats::names::ExpertRole;
use odmoe_formats::safetensors::TensorSpec;
use odmoe_formats::{BlockFormat, WeightLayout};

/// How the experts' tensors of a file are named.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ExpertNaming {
    /// All experts of a layer in one tensor: `blk.0.ffn_gate_exps.weight`.
    #[default]
    Stacked,
    /// One tensor an expert: `blk.0.ffn_gate.7.weight`. llama.cpp loads no such files any more.
    PerExpert,
    /// One tensor an expert under the names of early 2024: `blk.0.ffn.experts.7.w1.weight`.
    Legacy,
}

/// What a GGUF file is like, beyond the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GgufOptions {
    /// How matrices are stored.
    pub quantisation: Quantisation,
    /// How experts' tensors are named.
    pub naming: ExpertNaming,
}

/// A tensor of a file, and the tensors of the model that it is made of, one after another.
pub(super) struct FileTensor {
    pub spec: TensorSpec,
    pub members: Vec<(TensorId, Vec<u64>)>,
}

/// Every tensor, in the order of the file.
pub(super) fn tensors(model: &RandomModel, options: GgufOptions) -> Vec<FileTensor> {
    let mut all = Vec::new();
    for tensor in model.resident() {
        let id = TensorId::Resident(tensor.name.clone());
        let columns = tensor.shape.last().copied().unwrap_or(0);
        let format = match tensor.tensor_use {
            TensorUse::Matrix => options.quantisation.of(model, &id, columns),
            _ => BlockFormat::F32,
        };
        let spec = TensorSpec {
            name: resident_name(&tensor.name),
            format,
            shape: tensor.shape.clone(),
            layout: WeightLayout::RowMajor,
        };
        let members = vec![(id, tensor.shape)];
        all.push(FileTensor { spec, members });
    }
    for layer in model.sparse_layers() {
        for role in ExpertRole::ALL {
            experts(model, options, layer, role, &mut all);
        }
    }
    all
}

fn experts(
    model: &RandomModel,
    options: GgufOptions,
    layer: u32,
    role: ExpertRole,
    all: &mut Vec<FileTensor>,
) {
    let shape = role.shape(model.hidden, model.expert_ffn);
    let id = |index| model.expert_id(layer, index, role);
    let format = options.quantisation.of(model, &id(0), shape[1]);
    let member = |index| (id(index), shape.to_vec());
    let (gate, older) = match role {
        ExpertRole::GateProj => ("ffn_gate", "w1"),
        ExpertRole::DownProj => ("ffn_down", "w2"),
        ExpertRole::UpProj => ("ffn_up", "w3"),
    };
    if options.naming == ExpertNaming::Stacked {
        let spec = TensorSpec {
            name: format!("blk.{layer}.{gate}_exps.weight"),
            format,
            shape: [&[model.experts.into()], shape.as_slice()].concat(),
            layout: WeightLayout::RowMajor,
        };
        let members = (0..model.experts).map(member).collect();
        all.push(FileTensor { spec, members });
        return;
    }
    all.extend((0..model.experts).map(|index| FileTensor {
        spec: TensorSpec {
            name: match options.naming {
                ExpertNaming::Legacy => format!("blk.{layer}.ffn.experts.{index}.{older}.weight"),
                _ => format!("blk.{layer}.{gate}.{index}.weight"),
            },
            format,
            shape: shape.to_vec(),
            layout: WeightLayout::RowMajor,
        },
        members: vec![member(index)],
    }));
}

fn resident_name(canonical: &str) -> String {
    let Some((layer, tensor)) = canonical
        .strip_prefix("layers.")
        .and_then(|rest| rest.split_once('.'))
    else {
        let name = match canonical {
            "embed_tokens" => "token_embd",
            "norm" => "output_norm",
            _ => "output",
        };
        return format!("{name}.weight");
    };
    let name = match tensor {
        "input_norm" => "attn_norm",
        "q_proj" => "attn_q",
        "k_proj" => "attn_k",
        "v_proj" => "attn_v",
        "o_proj" => "attn_output",
        "q_norm" => "attn_q_norm",
        "k_norm" => "attn_k_norm",
        "post_attention_norm" => "ffn_norm",
        "router" => "ffn_gate_inp",
        "gate_proj" => "ffn_gate",
        "up_proj" => "ffn_up",
        "down_proj" => "ffn_down",
        other => unreachable!("{other} is in no family that is made here"),
    };
    format!("blk.{layer}.{name}.weight")
}

/// The metadata of the first or only part.
pub(super) fn metadata(model: &RandomModel, name: &str, quantisation: Quantisation) -> Metadata {
    let mut metadata = Metadata::default();
    let mut put = |key: &str, value| {
        let fresh = metadata.insert(key, value);
        assert!(fresh, "{key} twice");
    };
    put(
        "general.architecture",
        text_value(model.family.architecture()),
    );
    put("general.type", text_value("model"));
    put("general.name", text_value(name));
    put("general.file_type", Value::U32(quantisation.file_type()));
    put("general.quantization_version", Value::U32(2));
    for (key, value) in hyper_parameters(model) {
        put(&format!("{}.{key}", model.family.architecture()), value);
    }
    for (key, value) in tokenizer(model) {
        put(&format!("tokenizer.{key}"), value);
    }
    metadata
}

fn text_value(text: &str) -> Value {
    Value::String(text.as_bytes().to_vec())
}

fn hyper_parameters(model: &RandomModel) -> Vec<(&'static str, Value)> {
    let whole = Value::U32;
    // Mixtral and OLMoE have no other width than the experts'.
    let width = match (model.experts, model.family) {
        (1.., Family::Llama | Family::Olmoe) => model.expert_ffn,
        _ => model.dense_ffn,
    };
    let mut all = vec![
        ("block_count", whole(model.layers)),
        ("context_length", whole(model.max_position)),
        ("embedding_length", whole(model.hidden)),
        ("feed_forward_length", whole(width)),
        ("attention.head_count", whole(model.heads)),
        ("attention.head_count_kv", whole(model.kv_heads)),
        ("attention.key_length", whole(model.head_dim)),
        ("attention.value_length", whole(model.head_dim)),
        (
            "attention.layer_norm_rms_epsilon",
            Value::F32(model.rms_norm_eps),
        ),
        ("rope.dimension_count", whole(model.head_dim)),
        ("rope.freq_base", Value::F32(model.rope_theta as f32)),
        ("vocab_size", whole(model.vocab)),
    ];
    if model.experts > 0 {
        all.push(("expert_count", whole(model.experts)));
        all.push(("expert_used_count", whole(model.top_k)));
    }
    if model.family == Family::Qwen3Moe {
        all.push(("expert_feed_forward_length", whole(model.expert_ffn)));
    }
    all
}

/// Types of tokens, as GGUF numbers them.
const NORMAL: i32 = 1;
const CONTROL: i32 = 3;

fn tokenizer(model: &RandomModel) -> Vec<(&'static str, Value)> {
    let Vocabulary { tokens, merges } = Vocabulary::new(model.vocab);
    let is_special = |id: u32| SPECIAL.iter().any(|(_, special)| *special == id);
    let token_types = (0..model.vocab).map(|id| match is_special(id) {
        true => CONTROL,
        false => NORMAL,
    });
    let token_types = token_types.collect();
    let tokens = tokens.into_iter().map(String::into_bytes).collect();
    let merges = merges.into_iter();
    let merges = merges.map(|(left, right)| format!("{left} {right}").into_bytes());
    vec![
        ("ggml.model", text_value("gpt2")),
        ("ggml.pre", text_value("qwen2")),
        ("ggml.tokens", Value::Array(Array::String(tokens))),
        ("ggml.token_type", Value::Array(Array::I32(token_types))),
        ("ggml.merges", Value::Array(Array::String(merges.collect()))),
        // Not added to texts; without it llama.cpp takes an ordinary token for it.
        ("ggml.bos_token_id", Value::U32(special::END_OF_TEXT)),
        ("ggml.eos_token_id", Value::U32(special::IM_END)),
        ("ggml.padding_token_id", Value::U32(special::END_OF_TEXT)),
        ("ggml.add_bos_token", Value::Bool(false)),
        ("chat_template", text_value(text::CHAT_TEMPLATE)),
    ]
}

/// What GGUF has no words for.
pub(super) fn check(model: &RandomModel) -> Result<(), RandomModelError> {
    debug_assert!(model.vocab >= TOKENIZER_VOCABULARY);
    let no_words = |what| Err(RandomModelError::NotInGguf(what));
    if !model.dense_layers.is_empty() {
        return no_words("dense layers among sparse ones");
    }
    if model.family == Family::Olmoe && model.heads * model.head_dim != model.hidden {
        return no_words("an olmoe whose heads together are not as wide as its hidden state");
    }
    if model.experts > 0 && model.norm_topk_prob == (model.family == Family::Olmoe) {
        return no_words("another norm_topk_prob than the family's");
    }
    Ok(())
}
