//! Files to be opened: a small model of each architecture, changed at will before it is written.

use odmoe_formats::architecture::{self, Experts, QueryKeyNorm};
use odmoe_formats::gguf::{Array, GgufLayout, Metadata, Value};
use odmoe_formats::safetensors::TensorSpec;
use odmoe_formats::{BlockFormat, WeightLayout};
use std::path::{Path, PathBuf};

pub const LAYERS: u64 = 2;
pub const HIDDEN: u64 = 64;
pub const HEADS: u64 = 4;
pub const KEY_VALUE_HEADS: u64 = 2;
pub const HEAD_DIM: u64 = 16;
pub const VOCAB: u64 = 40;
pub const DENSE_WIDTH: u64 = 96;
pub const EXPERTS: u64 = 4;
pub const EXPERT_WIDTH: u64 = 32;
pub const SHARED_WIDTH: u64 = 48;

/// How the experts' tensors are named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Naming {
    Stacked,
    OneAnExpert,
    Older,
}

#[derive(Clone)]
pub struct MadeTensor {
    pub name: String,
    pub format: BlockFormat,
    pub shape: Vec<u64>,
    pub bytes: Vec<u8>,
}

/// A model that is not written yet.
#[derive(Clone)]
pub struct Made {
    pub entries: Vec<(String, Value)>,
    pub tensors: Vec<MadeTensor>,
}

impl Made {
    /// A model with experts, where the architecture may have them, stacked; all F32.
    pub fn new(name: &str) -> Self {
        let experts = architecture::find(name).is_none_or(|a| a.experts != Experts::Never);
        Self::with(name, experts, Naming::Stacked)
    }

    pub fn with(name: &str, experts: bool, naming: Naming) -> Self {
        let mut made = Self {
            entries: Vec::new(),
            tensors: Vec::new(),
        };
        made.set("general.architecture", Value::String(name.into()));
        made.set("general.name", Value::String("Small Model".into()));
        let counts = [
            ("block_count", LAYERS),
            ("context_length", 128),
            ("embedding_length", HIDDEN),
            ("attention.head_count", HEADS),
            ("attention.head_count_kv", KEY_VALUE_HEADS),
        ];
        for (part, count) in counts {
            made.set(&format!("{name}.{part}"), Value::U32(count as u32));
        }
        let epsilon = format!("{name}.attention.layer_norm_rms_epsilon");
        made.set(&epsilon, Value::F32(1e-6));
        made.set_widths(name, experts);
        made.set_tokenizer();
        made.matrix("token_embd.weight", &[VOCAB, HIDDEN]);
        for layer in 0..LAYERS {
            made.add_layer(name, layer, experts, naming);
        }
        made.matrix("output_norm.weight", &[HIDDEN]);
        made.matrix("output.weight", &[VOCAB, HIDDEN]);
        made
    }

    fn set_widths(&mut self, name: &str, experts: bool) {
        let mut set = |part: &str, count: u64| {
            self.set(&format!("{name}.{part}"), Value::U32(count as u32));
        };
        if !experts {
            return set("feed_forward_length", DENSE_WIDTH);
        }
        set("expert_count", EXPERTS);
        set("expert_used_count", 2);
        match name {
            "qwen2moe" | "qwen3moe" => set("expert_feed_forward_length", EXPERT_WIDTH),
            _ => set("feed_forward_length", EXPERT_WIDTH),
        }
        if name == "qwen2moe" {
            set("expert_shared_feed_forward_length", SHARED_WIDTH);
        }
    }

    /// A token for every row of the embedding; what they spell is no matter here.
    fn set_tokenizer(&mut self) {
        let tokens = (0..VOCAB).map(|id| format!("t{id}").into_bytes());
        let tokens = Array::String(tokens.collect());
        let key = |part: &str| format!("tokenizer.ggml.{part}");
        self.set(&key("model"), Value::String("gpt2".into()));
        self.set(&key("pre"), Value::String("qwen2".into()));
        self.set(&key("tokens"), Value::Array(tokens));
        let merges = Array::String(Vec::new());
        self.set(&key("merges"), Value::Array(merges));
    }

    fn add_layer(&mut self, name: &str, layer: u64, experts: bool, naming: Naming) {
        let (queries, keys) = (HEADS * HEAD_DIM, KEY_VALUE_HEADS * HEAD_DIM);
        let mut add =
            |part: &str, shape: &[u64]| self.matrix(&format!("blk.{layer}.{part}"), shape);
        add("attn_norm.weight", &[HIDDEN]);
        add("ffn_norm.weight", &[HIDDEN]);
        add("attn_q.weight", &[queries, HIDDEN]);
        add("attn_k.weight", &[keys, HIDDEN]);
        add("attn_v.weight", &[keys, HIDDEN]);
        add("attn_output.weight", &[HIDDEN, queries]);
        match architecture::find(name).map(|architecture| architecture.query_key_norm) {
            Some(QueryKeyNorm::EachHead) => {
                add("attn_q_norm.weight", &[HEAD_DIM]);
                add("attn_k_norm.weight", &[HEAD_DIM]);
            }
            Some(QueryKeyNorm::AllHeads) => {
                add("attn_q_norm.weight", &[queries]);
                add("attn_k_norm.weight", &[keys]);
            }
            _ => {}
        }
        if !experts {
            add("ffn_gate.weight", &[DENSE_WIDTH, HIDDEN]);
            add("ffn_up.weight", &[DENSE_WIDTH, HIDDEN]);
            return add("ffn_down.weight", &[HIDDEN, DENSE_WIDTH]);
        }
        add("ffn_gate_inp.weight", &[EXPERTS, HIDDEN]);
        if name == "qwen2moe" {
            add("attn_q.bias", &[queries]);
            add("attn_k.bias", &[keys]);
            add("attn_v.bias", &[keys]);
            add("ffn_gate_shexp.weight", &[SHARED_WIDTH, HIDDEN]);
            add("ffn_up_shexp.weight", &[SHARED_WIDTH, HIDDEN]);
            add("ffn_down_shexp.weight", &[HIDDEN, SHARED_WIDTH]);
            add("ffn_gate_inp_shexp.weight", &[HIDDEN]);
        }
        self.add_experts(layer, naming);
    }

    /// Numbers follow from layer, matrix and expert, so that every naming gives the same weights.
    fn add_experts(&mut self, layer: u64, naming: Naming) {
        let matrices = [
            ("ffn_gate", "w1", [EXPERT_WIDTH, HIDDEN]),
            ("ffn_up", "w3", [EXPERT_WIDTH, HIDDEN]),
            ("ffn_down", "w2", [HIDDEN, EXPERT_WIDTH]),
        ];
        for (newer, older, [rows, columns]) in matrices {
            let of_expert = |index: u64| {
                let seed = format!("{layer} {newer} {index}");
                numbers(&seed, rows * columns)
            };
            if naming == Naming::Stacked {
                let all: Vec<u8> = (0..EXPERTS).flat_map(of_expert).collect();
                let name = format!("blk.{layer}.{newer}_exps.weight");
                self.tensor(&name, BlockFormat::F32, &[EXPERTS, rows, columns], all);
                continue;
            }
            for index in 0..EXPERTS {
                let name = match naming {
                    Naming::Older => format!("blk.{layer}.ffn.experts.{index}.{older}.weight"),
                    _ => format!("blk.{layer}.{newer}.{index}.weight"),
                };
                self.tensor(&name, BlockFormat::F32, &[rows, columns], of_expert(index));
            }
        }
    }

    fn matrix(&mut self, name: &str, shape: &[u64]) {
        let bytes = numbers(name, shape.iter().product());
        self.tensor(name, BlockFormat::F32, shape, bytes);
    }

    /// Adds a tensor, or replaces the one of that name.
    pub fn tensor(&mut self, name: &str, format: BlockFormat, shape: &[u64], bytes: Vec<u8>) {
        assert_eq!(
            format.tensor_bytes(shape),
            Some(bytes.len() as u64),
            "{name}"
        );
        let tensor = MadeTensor {
            name: name.into(),
            format,
            shape: shape.to_vec(),
            bytes,
        };
        match self.tensors.iter_mut().find(|other| other.name == name) {
            Some(there) => *there = tensor,
            None => self.tensors.push(tensor),
        }
    }

    /// Stores a tensor's weights in another format.
    pub fn store_as(&mut self, name: &str, format: BlockFormat) {
        let tensor = self.tensors.iter().find(|tensor| tensor.name == name);
        let tensor = tensor.unwrap_or_else(|| panic!("{name}")).clone();
        let elements: u64 = tensor.shape.iter().product();
        let mut values = vec![0.0; elements as usize];
        tensor.format.decode_row(&tensor.bytes, &mut values);
        let mut bytes = vec![0; format.tensor_bytes(&tensor.shape).unwrap() as usize];
        format.encode_row(&values, &mut bytes);
        self.tensor(name, format, &tensor.shape, bytes);
    }

    pub fn without(&mut self, name: &str) {
        let before = self.tensors.len();
        self.tensors.retain(|tensor| tensor.name != name);
        assert_eq!(self.tensors.len() + 1, before, "{name}");
    }

    pub fn set(&mut self, key: &str, value: Value) {
        self.entries.retain(|(other, _)| other != key);
        self.entries.push((key.into(), value));
    }

    pub fn unset(&mut self, key: &str) {
        let before = self.entries.len();
        self.entries.retain(|(other, _)| other != key);
        assert_eq!(self.entries.len() + 1, before, "{key}");
    }

    /// The file.
    pub fn bytes(&self) -> Vec<u8> {
        let mut metadata = Metadata::default();
        for (key, value) in &self.entries {
            assert!(metadata.insert(key.clone(), value.clone()), "{key}");
        }
        let specs: Vec<TensorSpec> = self
            .tensors
            .iter()
            .map(|tensor| TensorSpec {
                name: tensor.name.clone(),
                format: tensor.format,
                shape: tensor.shape.clone(),
                layout: WeightLayout::RowMajor,
            })
            .collect();
        let layout = GgufLayout::new(&metadata, &specs).unwrap();
        let mut file = layout.header.clone();
        file.resize(layout.file_bytes as usize, 0);
        for (placed, tensor) in layout.tensors.iter().zip(&self.tensors) {
            let start = placed.offset as usize;
            file[start..start + tensor.bytes.len()].copy_from_slice(&tensor.bytes);
        }
        file
    }

    pub fn write(&self, path: &Path) {
        std::fs::write(path, self.bytes()).unwrap();
    }

    /// The parts of a set: tensors in turn, the model's metadata in the first only.
    pub fn split(&self, count: u16) -> Vec<Self> {
        let mut parts: Vec<Self> = (0..count)
            .map(|number| Self {
                entries: if number == 0 {
                    self.entries.clone()
                } else {
                    Vec::new()
                },
                tensors: Vec::new(),
            })
            .collect();
        for (index, tensor) in self.tensors.iter().enumerate() {
            parts[index % usize::from(count)]
                .tensors
                .push(tensor.clone());
        }
        for (number, part) in parts.iter_mut().enumerate() {
            part.set("split.no", Value::U16(number as u16));
            part.set("split.count", Value::U16(count));
            let all = self.tensors.len() as i32;
            part.set("split.tensors.count", Value::I32(all));
        }
        parts
    }
}

/// Writes the parts of a set as `m-00001-of-...`; returns their paths.
pub fn write_set(folder: &Path, parts: &[Made]) -> Vec<PathBuf> {
    let path = |number| folder.join(format!("m-{number:05}-of-{:05}.gguf", parts.len()));
    let paths: Vec<PathBuf> = (1..=parts.len()).map(path).collect();
    for (part, path) in parts.iter().zip(&paths) {
        part.write(path);
    }
    paths
}

/// Small weights as F32, different for every seed.
fn numbers(seed: &str, count: u64) -> Vec<u8> {
    let mut state = seed.bytes().fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
    };
    (0..count).flat_map(|_| next().to_le_bytes()).collect()
}
