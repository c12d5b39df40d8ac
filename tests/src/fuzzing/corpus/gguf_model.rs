//! Headers of small models of each architecture, without their weights, and what is wrong with some.

use super::Seed;
use super::tokenizer_import::byte_level;
use odmoe_formats::gguf::{Array, GgufLayout, Metadata, Value};
use odmoe_formats::safetensors::TensorSpec;
use odmoe_formats::{BlockFormat, WeightLayout};

const HIDDEN: u64 = 32;
const VOCAB: u64 = 8;
const HEADS: u64 = 2;
const HEAD_DIM: u64 = 16;
const EXPERTS: u64 = 2;
const WIDTH: u64 = 32;

#[derive(Clone)]
struct Model {
    architecture: &'static str,
    entries: Vec<(String, Value)>,
    tensors: Vec<TensorSpec>,
}

pub(super) fn seeds() -> Vec<Seed> {
    let of = |model: Model| model.header();
    let with = |key: &str, value: Value| of(Model::new("qwen3moe", true).set(key, value));
    let text = |text: &str| Value::String(text.into());
    vec![
        ("qwen3moe", of(Model::new("qwen3moe", true))),
        ("qwen3", of(Model::new("qwen3", false))),
        ("llama", of(Model::new("llama", false))),
        ("mixtral", of(Model::new("llama", true))),
        ("olmoe", of(Model::new("olmoe", true))),
        ("qwen2moe", of(Model::new("qwen2moe", true))),
        (
            "rope-divisors",
            of(Model::new("llama", false).add("rope_freqs", &[HEAD_DIM / 2])),
        ),
        ("rope-linear", with("rope.scaling.type", text("linear"))),
        ("rope-yarn", with("rope.scaling.type", text("yarn"))),
        ("softcap", with("attn_logit_softcapping", Value::F32(50.0))),
        ("no-heads", with("attention.head_count", Value::U32(0))),
        ("many-layers", with("block_count", Value::U32(u32::MAX))),
        ("many-experts", with("expert_count", Value::U32(1 << 30))),
        ("fraction", with("embedding_length", Value::F32(0.5))),
        (
            "heads-by-layer",
            with("attention.head_count", Value::Array(Array::U32(vec![2]))),
        ),
        ("stranger", of(Model::new("glm4", false))),
        (
            "unknown-tensor",
            of(Model::new("qwen3moe", true).add("blk.0.hat", &[1])),
        ),
        (
            "misshapen",
            of(Model::new("qwen3moe", true).add("blk.1.attn_q", &[1])),
        ),
        (
            "no-vocabulary",
            of(Model::new("qwen3moe", true).without("token_embd")),
        ),
        (
            "incomplete",
            of(Model::new("qwen3moe", true).without("blk.0.attn_k")),
        ),
    ]
}

impl Model {
    fn new(architecture: &'static str, experts: bool) -> Self {
        let mut model = Self {
            architecture,
            entries: Vec::new(),
            tensors: Vec::new(),
        };
        let counts = [
            ("block_count", 1),
            ("context_length", 64),
            ("embedding_length", HIDDEN),
            ("attention.head_count", HEADS),
            ("attention.head_count_kv", 1),
            ("attention.key_length", HEAD_DIM),
            ("attention.value_length", HEAD_DIM),
            ("feed_forward_length", WIDTH),
        ];
        for (key, count) in counts {
            model = model.set(key, Value::U32(count as u32));
        }
        model = model.set("attention.layer_norm_rms_epsilon", Value::F32(1e-6));
        if experts {
            model = model.set("expert_count", Value::U32(EXPERTS as u32));
            model = model.set("expert_used_count", Value::U32(1));
            model = model.set("expert_feed_forward_length", Value::U32(WIDTH as u32));
        }
        if architecture == "qwen2moe" {
            let key = "expert_shared_feed_forward_length";
            model = model.set(key, Value::U32(WIDTH as u32));
        }
        model = model
            .add("token_embd", &[VOCAB, HIDDEN])
            .add("output_norm", &[HIDDEN]);
        model.add_layer(experts)
    }

    fn add_layer(self, experts: bool) -> Self {
        let architecture = self.architecture;
        let layer =
            |model: Self, name: &str, shape: &[u64]| model.add(&format!("blk.0.{name}"), shape);
        let mut model = self;
        let (queries, keys) = (HEADS * HEAD_DIM, HEAD_DIM);
        let attention: [(&str, &[u64]); 6] = [
            ("attn_norm", &[HIDDEN]),
            ("ffn_norm", &[HIDDEN]),
            ("attn_q", &[queries, HIDDEN]),
            ("attn_k", &[keys, HIDDEN]),
            ("attn_v", &[keys, HIDDEN]),
            ("attn_output", &[HIDDEN, queries]),
        ];
        let norms: &[(&str, u64)] = match architecture {
            "qwen3" | "qwen3moe" => &[("attn_q_norm", HEAD_DIM), ("attn_k_norm", HEAD_DIM)],
            "olmoe" => &[("attn_q_norm", HEADS * HEAD_DIM), ("attn_k_norm", HEAD_DIM)],
            _ => &[],
        };
        for (name, shape) in attention {
            model = layer(model, name, shape);
        }
        for (name, width) in norms {
            model = layer(model, name, &[*width]);
        }
        if architecture == "qwen2moe" {
            for (name, width) in [("attn_q", queries), ("attn_k", keys), ("attn_v", keys)] {
                model = model.bias(&format!("blk.0.{name}"), width);
            }
            for name in ["ffn_gate_shexp", "ffn_up_shexp", "ffn_down_shexp"] {
                model = layer(model, name, &[WIDTH, HIDDEN]);
            }
            model = layer(model, "ffn_gate_inp_shexp", &[HIDDEN]);
        }
        if !experts {
            for name in ["ffn_gate", "ffn_up", "ffn_down"] {
                model = layer(model, name, &[WIDTH, HIDDEN]);
            }
            return model;
        }
        for name in ["ffn_gate_exps", "ffn_up_exps", "ffn_down_exps"] {
            model = layer(model, name, &[EXPERTS, WIDTH, HIDDEN]);
        }
        layer(model, "ffn_gate_inp", &[EXPERTS, HIDDEN])
    }

    fn set(mut self, key: &str, value: Value) -> Self {
        let key = format!("{}.{key}", self.architecture);
        self.entries.retain(|(other, _)| *other != key);
        self.entries.push((key, value));
        self
    }

    fn add(self, name: &str, shape: &[u64]) -> Self {
        self.tensor(format!("{name}.weight"), shape)
    }

    fn bias(self, name: &str, width: u64) -> Self {
        self.tensor(format!("{name}.bias"), &[width])
    }

    fn tensor(mut self, name: String, shape: &[u64]) -> Self {
        self.tensors.push(TensorSpec {
            name,
            format: BlockFormat::F32,
            shape: shape.to_vec(),
            layout: WeightLayout::RowMajor,
        });
        self
    }

    fn without(mut self, name: &str) -> Self {
        let name = format!("{name}.weight");
        self.tensors.retain(|tensor| tensor.name != name);
        self
    }

    fn header(self) -> Vec<u8> {
        let mut metadata = Metadata::default();
        let architecture = Value::String(self.architecture.into());
        metadata.insert("general.architecture", architecture);
        for (key, value) in self.entries {
            metadata.insert(key, value);
        }
        for (key, value) in byte_level() {
            metadata.insert(key, value);
        }
        GgufLayout::new(&metadata, &self.tensors)
            .expect("a layout")
            .header
    }
}
