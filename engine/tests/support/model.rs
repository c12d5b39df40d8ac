//! Small random models in memory: a manifest that validates, and the bytes of its files.

use odmoe_formats::checksum::xxh3_128_hex;
use odmoe_formats::expected::{self, TensorUse};
use odmoe_formats::manifest::{
    FORMAT_VERSION_ROW_MAJOR, FileIndex, Manifest, OBJECT_ALIGNMENT_BYTES, ObjectTensor,
    PageableObject, Provenance, ResidentTensor, StoreFile, TENSOR_ALIGNMENT_BYTES, TextFiles,
};
use odmoe_formats::model_config::{ModelConfig, MoeConfig};
use odmoe_formats::names::ExpertRole;
use odmoe_formats::{BlockFormat, ExpertKey, WeightLayout};
use std::collections::BTreeMap;
use std::sync::Arc;

/// SplitMix64 (Steele, Lea and Flood, 2014).
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// In [-1, 1).
    fn signed_unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    pub fn tokens(&mut self, count: usize, vocab: u32) -> Vec<u32> {
        (0..count)
            .map(|_| self.below(vocab.into()) as u32)
            .collect()
    }
}

/// A model and its files. File 0 holds what is resident, file 1 the experts.
pub struct TestModel {
    pub manifest: Arc<Manifest>,
    pub files: Arc<Vec<Vec<u8>>>,
}

/// Four layers, the second one dense; widths that are not powers of two.
pub fn small_config() -> ModelConfig {
    ModelConfig {
        architecture: "qwen3moe".into(),
        num_hidden_layers: 4,
        hidden_size: 96,
        num_attention_heads: 6,
        num_key_value_heads: 2,
        head_dim: 16,
        vocab_size: 199,
        rms_norm_eps: 1e-6,
        rope_theta: 10_000.0,
        max_position_embeddings: 2048,
        tie_word_embeddings: false,
        intermediate_size: 160,
        attention_bias: false,
        rope_frequency_divisors: Vec::new(),
        moe: Some(MoeConfig {
            num_experts: 12,
            num_experts_per_tok: 3,
            moe_intermediate_size: 64,
            norm_topk_prob: true,
            dense_layers: vec![1],
            shared_expert_intermediate_size: 0,
        }),
    }
}

/// Two layers as wide as real models, with little else, so that a long context is quick.
pub fn wide_config() -> ModelConfig {
    ModelConfig {
        num_hidden_layers: 2,
        hidden_size: 2048,
        num_attention_heads: 4,
        num_key_value_heads: 1,
        head_dim: 32,
        vocab_size: 67,
        tie_word_embeddings: true,
        intermediate_size: 0,
        attention_bias: false,
        rope_frequency_divisors: Vec::new(),
        moe: Some(MoeConfig {
            num_experts: 6,
            num_experts_per_tok: 2,
            moe_intermediate_size: 32,
            norm_topk_prob: false,
            dense_layers: vec![],
            shared_expert_intermediate_size: 0,
        }),
        ..small_config()
    }
}

/// A matrix whose format is to be chosen.
#[derive(Clone, Copy, Debug)]
pub enum Matrix<'a> {
    /// By canonical name.
    Resident(&'a str),
    Expert(ExpertKey, ExpertRole),
}

/// A random model, its matrices stored in `format`.
pub fn random_model(config: ModelConfig, format: BlockFormat, seed: u64) -> TestModel {
    mixed_model(config, |_| format, seed)
}

/// A random model, each of its matrices in a format of its own.
pub fn mixed_model(
    config: ModelConfig,
    format: impl Fn(Matrix<'_>) -> BlockFormat,
    seed: u64,
) -> TestModel {
    let mut random = Random(seed);
    let mut base = Vec::new();
    let resident = expected::resident_tensors(&config)
        .expect("a known architecture")
        .into_iter()
        .map(|tensor| {
            let format = match tensor.tensor_use {
                TensorUse::Norm | TensorUse::Bias => BlockFormat::F32,
                TensorUse::Router | TensorUse::SharedGate => BlockFormat::BF16,
                TensorUse::Matrix => format(Matrix::Resident(&tensor.name)),
            };
            let centre = if tensor.tensor_use == TensorUse::Norm {
                1.0
            } else {
                0.0
            };
            let bytes = random_tensor(&mut random, &tensor.shape, format, centre);
            let offset = base.len() as u64;
            base.extend_from_slice(&bytes);
            let (bytes, xxh3_128) = (bytes.len() as u64, xxh3_128_hex(&bytes));
            let shape = tensor.shape;
            (
                tensor.name,
                ResidentTensor {
                    file: FileIndex(0),
                    offset,
                    bytes,
                    shape,
                    format,
                    layout: WeightLayout::RowMajor,
                    xxh3_128,
                },
            )
        });
    let resident = resident.collect();
    let mut experts = Vec::new();
    let sparse = (0..config.num_hidden_layers).filter(|layer| config.is_sparse(*layer));
    let keys = sparse
        .flat_map(|layer| (0..config.num_experts()).map(move |e| ExpertKey::routed(layer, e)));
    let objects = keys
        .map(|key| random_expert(&mut random, &config, &format, key, &mut experts))
        .collect();
    let files = vec![base, experts];
    let names = ["base.safetensors", "experts.safetensors"];
    let file = |(name, bytes): (&str, &Vec<u8>)| StoreFile {
        path: name.into(),
        bytes: bytes.len() as u64,
    };
    let manifest = Manifest {
        format_version: FORMAT_VERSION_ROW_MAJOR,
        name: "random".into(),
        config,
        files: names.into_iter().zip(&files).map(file).collect(),
        resident,
        objects,
        text: TextFiles::default(),
        provenance: Provenance {
            converter: "tests".into(),
            sources: vec![],
        },
    };
    manifest.validate().expect("a sound manifest");
    TestModel {
        manifest: Arc::new(manifest),
        files: Arc::new(files),
    }
}

fn random_expert(
    random: &mut Random,
    config: &ModelConfig,
    format: &impl Fn(Matrix<'_>) -> BlockFormat,
    key: ExpertKey,
    file: &mut Vec<u8>,
) -> PageableObject {
    let mut object = Vec::new();
    let mut tensors = BTreeMap::new();
    for (role, shape) in expected::expert_tensors(config) {
        let format = format(Matrix::Expert(key, role));
        let bytes = random_tensor(random, &shape, format, 0.0);
        object.resize(
            object
                .len()
                .next_multiple_of(TENSOR_ALIGNMENT_BYTES as usize),
            0,
        );
        let (offset, length) = (object.len() as u64, bytes.len() as u64);
        object.extend_from_slice(&bytes);
        let tensor = ObjectTensor {
            offset,
            bytes: length,
            shape: shape.to_vec(),
            format,
        };
        tensors.insert(role.name().to_owned(), tensor);
    }
    object.resize(
        object
            .len()
            .next_multiple_of(OBJECT_ALIGNMENT_BYTES as usize),
        0,
    );
    let offset = file.len() as u64;
    file.extend_from_slice(&object);
    PageableObject {
        key,
        file: FileIndex(1),
        offset,
        bytes: object.len() as u64,
        layout: WeightLayout::RowMajor,
        tensors,
        xxh3_128: xxh3_128_hex(&object),
    }
}

/// Values that keep activations near one: a product of `columns` of them has a variance of about one, and a vector's lie
/// around `centre`.
fn random_tensor(random: &mut Random, shape: &[u64], format: BlockFormat, centre: f32) -> Vec<u8> {
    let columns = *shape.last().expect("a shape") as usize;
    let rows = shape.iter().product::<u64>() as usize / columns;
    let row_bytes = format.row_bytes(columns as u64).expect("whole blocks") as usize;
    let mut encoded = vec![0; rows * row_bytes];
    for row in encoded.chunks_exact_mut(row_bytes) {
        let value = |random: &mut Random| match shape.len() {
            1 => centre + 0.2 * random.signed_unit(),
            _ => random.signed_unit() * (3.0 / columns as f32).sqrt(),
        };
        let decoded: Vec<f32> = (0..columns).map(|_| value(random)).collect();
        format.encode_row(&decoded, row);
    }
    encoded
}
