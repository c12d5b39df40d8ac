//! Manifests of stores with a handful of tensors.

use super::Seed;
use odmoe_formats::expected::{expert_tensors, resident_tensors};
use odmoe_formats::manifest::{
    FORMAT_VERSION, FORMAT_VERSION_ROW_MAJOR, FileIndex, Manifest, OBJECT_ALIGNMENT_BYTES,
    ObjectTensor, PageableObject, Provenance, ResidentTensor, SourceFile, StoreFile, TextFiles,
};
use odmoe_formats::model_config::{ModelConfig, MoeConfig};
use odmoe_formats::{BlockFormat, ExpertKey, WeightLayout};

pub(super) fn seeds() -> Vec<Seed> {
    let sparse = manifest(config("qwen3moe", Some(moe(0))));
    let text = |manifest: &Manifest| String::from_utf8(manifest.to_json()).expect("UTF-8");
    let json = text(&sparse);
    let replaced = |from: &str, to: &str| {
        assert!(json.contains(from), "{from} is not in the manifest");
        json.replacen(from, to, 1).into_bytes()
    };
    let two_norms = replaced("\"norm\":", "\"norm\": {}, \"norm\":");
    vec![
        ("sparse", sparse.to_json()),
        ("dense", manifest(config("llama", None)).to_json()),
        (
            "shared-expert",
            manifest(config("qwen2moe", Some(moe(8)))).to_json(),
        ),
        (
            "unknown-architecture",
            manifest(config("mamba", None)).to_json(),
        ),
        ("sizes-beyond-64-bits", beyond_64_bits()),
        ("newer-version", b"{\"format_version\":3}".to_vec()),
        ("lanes", lanes().to_json()),
        (
            "many-layers",
            replaced("\"num_hidden_layers\": 1", "\"num_hidden_layers\": 1024"),
        ),
        (
            "many-experts",
            replaced("\"num_experts\": 2", "\"num_experts\": 65536"),
        ),
        (
            "path-out",
            replaced("base.safetensors", "../base.safetensors"),
        ),
        (
            "offset-at-the-end",
            replaced("\"offset\": 4096", "\"offset\": 18446744073709551615"),
        ),
        ("duplicate-key", two_norms),
        ("not-a-number", replaced("10000.0", "1e999")),
        ("deep", format!("{{\"x\":{}", "[".repeat(1000)).into_bytes()),
        ("cut", json.as_bytes()[..json.len() / 2].to_vec()),
    ]
}

fn moe(shared_expert_intermediate_size: u32) -> MoeConfig {
    MoeConfig {
        num_experts: 2,
        num_experts_per_tok: 1,
        moe_intermediate_size: 4,
        norm_topk_prob: true,
        dense_layers: vec![],
        shared_expert_intermediate_size,
    }
}

fn config(architecture: &str, moe: Option<MoeConfig>) -> ModelConfig {
    ModelConfig {
        architecture: architecture.into(),
        num_hidden_layers: 1,
        hidden_size: 8,
        num_attention_heads: 2,
        num_key_value_heads: 1,
        head_dim: 4,
        vocab_size: 16,
        rms_norm_eps: 1e-6,
        rope_theta: 10000.0,
        max_position_embeddings: 64,
        tie_word_embeddings: true,
        intermediate_size: if moe.is_none() { 8 } else { 0 },
        attention_bias: architecture == "qwen2moe",
        rope_frequency_divisors: vec![],
        moe,
    }
}

/// A whole manifest: resident tensors one after another in file 0, every expert in a file of its own.
fn manifest(config: ModelConfig) -> Manifest {
    let mut manifest = Manifest {
        format_version: FORMAT_VERSION_ROW_MAJOR,
        name: "small".into(),
        files: vec![],
        resident: Default::default(),
        objects: vec![],
        text: TextFiles {
            tokenizer: Some("tokenizer.json".into()),
            special_tokens: [("eos_token".into(), "</s>".into())].into(),
            end_of_sequence_ids: vec![2],
            ..TextFiles::default()
        },
        provenance: Provenance {
            converter: "odmoe".into(),
            sources: vec![SourceFile {
                name: "model.gguf".into(),
                bytes: 9,
                sha256: "0f".repeat(32),
            }],
        },
        config,
    };
    let end = add_resident(&mut manifest);
    manifest.files.push(file("base.safetensors", end));
    for index in 0..manifest.config.num_experts() {
        add_expert(&mut manifest, index);
    }
    manifest
}

fn file(path: &str, bytes: u64) -> StoreFile {
    StoreFile {
        path: path.into(),
        bytes,
    }
}

/// Gives the end of the file.
fn add_resident(manifest: &mut Manifest) -> u64 {
    let mut end = OBJECT_ALIGNMENT_BYTES;
    for tensor in resident_tensors(&manifest.config).unwrap_or_default() {
        let format = BlockFormat::F32;
        let bytes = format.tensor_bytes(&tensor.shape).expect("small");
        let placed = ResidentTensor {
            file: FileIndex(0),
            offset: end,
            bytes,
            shape: tensor.shape,
            format,
            layout: WeightLayout::RowMajor,
            xxh3_128: "0".repeat(32),
        };
        manifest.resident.insert(tensor.name, placed);
        end += bytes;
    }
    end
}

fn add_expert(manifest: &mut Manifest, index: u32) {
    let path = format!("experts/layer-000/expert-{index:03}.safetensors");
    manifest.files.push(file(&path, 2 * OBJECT_ALIGNMENT_BYTES));
    let tensors = expert_tensors(&manifest.config).into_iter().enumerate();
    let tensors = tensors.map(|(place, (role, shape))| {
        let format = BlockFormat::BF16;
        let tensor = ObjectTensor {
            offset: place as u64 * 256,
            bytes: format.tensor_bytes(&shape).expect("small"),
            shape: shape.to_vec(),
            format,
        };
        (role.name().to_string(), tensor)
    });
    manifest.objects.push(PageableObject {
        key: ExpertKey::routed(0, index),
        file: FileIndex(manifest.files.len() as u32 - 1),
        offset: OBJECT_ALIGNMENT_BYTES,
        bytes: OBJECT_ALIGNMENT_BYTES,
        layout: WeightLayout::RowMajor,
        tensors: tensors.collect(),
        xxh3_128: "0".repeat(32),
    });
}

/// One tensor and one object in lanes. No architecture, so any tensors.
fn lanes() -> Manifest {
    let mut manifest = manifest(config("mamba", Some(moe(0))));
    manifest.format_version = FORMAT_VERSION;
    let format = BlockFormat::Q8_0;
    let shape = vec![16, 32];
    let bytes = format.tensor_bytes(&shape).expect("small");
    manifest.files[0].bytes = OBJECT_ALIGNMENT_BYTES + bytes;
    let tensor = ResidentTensor {
        file: FileIndex(0),
        offset: OBJECT_ALIGNMENT_BYTES,
        bytes,
        shape,
        format,
        layout: WeightLayout::Lanes16,
        xxh3_128: "0".repeat(32),
    };
    manifest.resident.insert("lanes".into(), tensor);
    for object in &mut manifest.objects {
        object.layout = WeightLayout::Lanes16;
    }
    manifest
}

/// Two tensors, each in a file of its own, whose sizes together pass 2^64. No architecture, so any tensors.
fn beyond_64_bits() -> Vec<u8> {
    let mut manifest = manifest(config("mamba", None));
    for (index, name) in ["a", "b"].into_iter().enumerate() {
        manifest.files.push(file(name, 1 << 63));
        let tensor = ResidentTensor {
            file: FileIndex(index as u32 + 1),
            offset: 0,
            bytes: 1 << 63,
            shape: vec![1 << 30, 1 << 31],
            format: BlockFormat::F32,
            layout: WeightLayout::RowMajor,
            xxh3_128: "0".repeat(32),
        };
        manifest.resident.insert(name.into(), tensor);
    }
    manifest.to_json()
}
