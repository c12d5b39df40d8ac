//! The tensors of a random model, by the names of a Qwen3-MoE checkpoint.

use super::{RandomModel, RandomModelError, write_json};
use odmoe_formats::checksum::Xxh3;
use odmoe_formats::expected;
use odmoe_formats::model_config::ModelConfig;
use odmoe_formats::safetensors::{SafetensorsLayout, TensorSpec};
use serde_json::{Map, json};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

const PIECE_ELEMENTS: usize = 1 << 16;

/// How a tensor's values are drawn: uniform around a centre.
#[derive(Clone, Copy)]
struct Values {
    centre: f32,
    half_width: f32,
}

pub(super) fn write(model: &RandomModel, folder: &Path) -> Result<(), RandomModelError> {
    let tensors = tensors(model);
    let shards = model.shards.min(tensors.len());
    if shards == 1 {
        return write_file(model, &tensors, &folder.join("model.safetensors"));
    }
    let shards = tensors.chunks(tensors.len().div_ceil(shards));
    let count = shards.len();
    let mut weight_map = Map::new();
    let mut total_bytes = 0;
    for (number, shard) in shards.enumerate() {
        let name = format!("model-{:05}-of-{count:05}.safetensors", number + 1);
        write_file(model, shard, &folder.join(&name))?;
        for tensor in shard {
            weight_map.insert(tensor.name.clone(), name.clone().into());
            total_bytes += tensor.format.tensor_bytes(&tensor.shape).unwrap_or(0);
        }
    }
    let index = json!({ "metadata": { "total_size": total_bytes }, "weight_map": weight_map });
    write_json(&folder.join("model.safetensors.index.json"), &index)
}

fn tensors(model: &RandomModel) -> Vec<TensorSpec> {
    let config = model.model_config();
    let spec = |name: String, shape| TensorSpec {
        name,
        format: model.format,
        shape,
    };
    let resident = expected::resident_tensors(&config).expect("the architecture is known");
    let mut tensors: Vec<TensorSpec> = resident
        .into_iter()
        .map(|tensor| spec(checkpoint_name(&tensor.name), tensor.shape))
        .collect();
    for (layer, index) in experts(&config) {
        for (role, shape) in expected::expert_tensors(&config) {
            let name = format!("model.layers.{layer}.mlp.experts.{index}.{role}.weight");
            tensors.push(spec(name, shape.to_vec()));
        }
    }
    tensors
}

fn experts(config: &ModelConfig) -> impl Iterator<Item = (u32, u32)> {
    let sparse = (0..config.num_hidden_layers).filter(|layer| config.is_sparse(*layer));
    sparse.flat_map(|layer| (0..config.num_experts()).map(move |index| (layer, index)))
}

/// What a Qwen3-MoE checkpoint calls a resident tensor.
fn checkpoint_name(canonical: &str) -> String {
    let Some(rest) = canonical.strip_prefix("layers.") else {
        let folder = if canonical == odmoe_formats::names::LM_HEAD {
            ""
        } else {
            "model."
        };
        return format!("{folder}{canonical}.weight");
    };
    let (layer, tensor) = rest
        .split_once('.')
        .expect("a layer's tensor has two parts");
    let tensor = match tensor {
        "input_norm" => "input_layernorm",
        "post_attention_norm" => "post_attention_layernorm",
        "router" => "mlp.gate",
        "gate_proj" => "mlp.gate_proj",
        "up_proj" => "mlp.up_proj",
        "down_proj" => "mlp.down_proj",
        attention => return format!("model.layers.{layer}.self_attn.{attention}.weight"),
    };
    format!("model.layers.{layer}.{tensor}.weight")
}

fn write_file(
    model: &RandomModel,
    tensors: &[TensorSpec],
    path: &Path,
) -> Result<(), RandomModelError> {
    let layout = SafetensorsLayout::packed(tensors, &[("format", "pt")])?;
    let write = || {
        let mut file = BufWriter::with_capacity(1 << 20, File::create(path)?);
        file.write_all(&layout.header)?;
        for tensor in tensors {
            write_tensor(model.seed, tensor, &mut file)?;
        }
        file.into_inner()
            .map_err(|error| error.into_error())?
            .sync_all()
    };
    write().map_err(RandomModelError::io(path))
}

fn write_tensor(seed: u64, tensor: &TensorSpec, file: &mut impl Write) -> std::io::Result<()> {
    let Values { centre, half_width } = values(tensor);
    let mut random = Random::new(seed, &tensor.name);
    let mut left: u64 = tensor.shape.iter().product();
    let mut encoded = Vec::new();
    while left > 0 {
        let count = left.min(PIECE_ELEMENTS as u64);
        let piece: Vec<f32> = (0..count)
            .map(|_| centre + half_width * random.signed_unit())
            .collect();
        encoded.resize(piece.len() * tensor.format.block_bytes(), 0);
        tensor.format.encode_row(&piece, &mut encoded);
        file.write_all(&encoded)?;
        left -= count;
    }
    Ok(())
}

/// A norm's weight lies around 1; a matrix keeps the variance of what it multiplies; a router's logits spread wider,
/// so that its choices differ between tokens.
fn values(tensor: &TensorSpec) -> Values {
    let columns = tensor.shape.last().copied().unwrap_or(1) as f32;
    // A uniform distribution of half width sqrt(3) has variance 1.
    let unit = (3.0 / columns).sqrt();
    match (tensor.shape.len(), tensor.name.as_str()) {
        (1, _) => Values {
            centre: 1.0,
            half_width: 0.25,
        },
        (_, "model.embed_tokens.weight") => Values {
            centre: 0.0,
            half_width: 3.0f32.sqrt(),
        },
        (_, name) if name.ends_with("mlp.gate.weight") => Values {
            centre: 0.0,
            half_width: 2.0 * unit,
        },
        _ => Values {
            centre: 0.0,
            half_width: unit,
        },
    }
}

/// SplitMix64, started from a seed and a name.
struct Random(u64);

impl Random {
    fn new(seed: u64, name: &str) -> Self {
        let digest = Xxh3::of(format!("{seed} {name}").as_bytes()).to_hex();
        Self(u64::from_str_radix(&digest[..16], 16).expect("a digest is hex"))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// In [-1, 1), on a grid of 2^-23.
    fn signed_unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
}
