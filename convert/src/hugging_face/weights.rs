//! The tensors of a folder: which file holds each, and what each is.

use super::config::parse_object;
use crate::fingerprint::{Fingerprint, FingerprintBuilder};
use crate::source::{SourceError, SourceTensor, TensorId};
use crate::source_folder::SourceFolder;
use odmoe_formats::model_config::ModelConfig;
use odmoe_formats::names::{self, ExpertRole, LayerTensor};
use odmoe_formats::safetensors::{PREFIX_BYTES, SafetensorsHeader, TensorEntry, header_length};
use odmoe_formats::{ByteCount, ExpertKey};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, HashSet};
use std::ops::Range;

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
const MAX_INDEX: ByteCount = ByteCount(256 << 20);
const MAX_FILES: usize = 10_000;

/// Where a tensor's bytes are.
pub(super) struct WeightsPlace {
    /// Index of the file among the folder's.
    pub file: usize,
    /// Bytes from the start of the file.
    pub range: Range<u64>,
}

pub(super) struct Weights {
    pub tensors: Vec<SourceTensor>,
    /// One for each tensor.
    pub places: Vec<WeightsPlace>,
    /// Of all headers.
    pub header_digest: Fingerprint,
}

/// Names of the tensors that each file is to give, or None for all that it has.
type Wanted = BTreeMap<String, Option<HashSet<String>>>;

pub(super) fn read(
    folder: &mut SourceFolder,
    config: &ModelConfig,
) -> Result<Weights, SourceError> {
    let mut collected = Collected::default();
    let mut digest = FingerprintBuilder::new("headers");
    for (name, wanted) in wanted_files(folder)? {
        let Some(file) = folder.add(&name)? else {
            let path = folder.file_path(&name);
            let reason = "the index names it but it is not there; download it".into();
            return Err(SourceError::Malformed { path, reason });
        };
        let prefix = read_prefix(folder, file)?;
        digest = digest.part(&name, &prefix);
        let header =
            SafetensorsHeader::parse(&prefix, folder.infos()[file].bytes).map_err(|source| {
                SourceError::Safetensors {
                    path: folder.file_path(&name),
                    source,
                }
            })?;
        collected.take(folder, config, file, header, wanted)?;
    }
    let Collected {
        tensors, places, ..
    } = collected;
    Ok(Weights {
        tensors,
        places,
        header_digest: digest.finish(),
    })
}

/// One whole file where there is one, as transformers prefers, or else those of the index.
fn wanted_files(folder: &mut SourceFolder) -> Result<Wanted, SourceError> {
    if folder.file_path(SINGLE).exists() {
        return Ok(BTreeMap::from([(SINGLE.into(), None)]));
    }
    let Some(bytes) = folder.read_whole(INDEX, MAX_INDEX)? else {
        return Err(SourceError::MissingFile {
            folder: folder.path().into(),
            file: SINGLE,
            advice: "there is no model.safetensors.index.json either; other weight files must be \
                     saved as safetensors first",
        });
    };
    let index: Map<String, Value> = parse_object(folder, INDEX, &bytes)?;
    let malformed = |reason: String| SourceError::Malformed {
        path: folder.file_path(INDEX),
        reason,
    };
    let Some(Value::Object(weight_map)) = index.get("weight_map") else {
        return Err(malformed("there is no weight_map object".into()));
    };
    let mut wanted = Wanted::new();
    for (tensor, file) in weight_map {
        let file = file.as_str().filter(|name| is_plain_file_name(name));
        let Some(file) = file else {
            let tensor: String = tensor.chars().take(128).collect();
            return Err(malformed(format!(
                "tensor {tensor:?} is in no plainly named file"
            )));
        };
        let tensors = wanted
            .entry(file.to_string())
            .or_insert_with(|| Some(HashSet::new()));
        tensors
            .as_mut()
            .expect("made with a set")
            .insert(tensor.clone());
        if wanted.len() > MAX_FILES {
            return Err(malformed(format!("more than {MAX_FILES} files")));
        }
    }
    Ok(wanted)
}

/// A name inside the folder: no separators, no way up.
fn is_plain_file_name(name: &str) -> bool {
    let forbidden = |c: char| c.is_control() || matches!(c, '/' | '\\');
    !name.is_empty() && name.len() <= 255 && !name.starts_with('.') && !name.contains(forbidden)
}

/// A file's length prefix and header, whose claimed length has been checked against the file.
fn read_prefix(folder: &SourceFolder, file: usize) -> Result<Vec<u8>, SourceError> {
    let file_bytes = folder.infos()[file].bytes;
    let mut prefix = vec![0; PREFIX_BYTES.min(file_bytes) as usize];
    folder.read_at(file, 0, &mut prefix)?;
    let length = header_length(&prefix, file_bytes).map_err(|source| SourceError::Safetensors {
        path: folder.file_path(&folder.infos()[file].name),
        source,
    })?;
    let already = prefix.len();
    prefix.resize(length as usize, 0);
    folder.read_at(file, already as u64, &mut prefix[already..])?;
    Ok(prefix)
}

#[derive(Default)]
struct Collected {
    tensors: Vec<SourceTensor>,
    places: Vec<WeightsPlace>,
    ids: HashSet<TensorId>,
}

impl Collected {
    /// Takes in the wanted tensors of one file.
    fn take(
        &mut self,
        folder: &SourceFolder,
        config: &ModelConfig,
        file: usize,
        header: SafetensorsHeader,
        wanted: Option<HashSet<String>>,
    ) -> Result<(), SourceError> {
        let file_name = &folder.infos()[file].name;
        let path = || folder.file_path(file_name);
        let mut missing = wanted.clone().unwrap_or_default();
        for entry in header.tensors {
            missing.remove(&entry.name);
            let unwanted = wanted
                .as_ref()
                .is_some_and(|wanted| !wanted.contains(&entry.name));
            if unwanted || is_derived(&entry.name, config) {
                continue;
            }
            let format = entry.block_format();
            let format = format.map_err(|source| SourceError::Safetensors {
                path: path(),
                source,
            })?;
            let TensorEntry {
                name, shape, range, ..
            } = entry;
            let Some(id) = tensor_id(&name, config) else {
                return Err(SourceError::UnknownTensor(name));
            };
            if !self.ids.insert(id.clone()) {
                return Err(SourceError::DuplicateTensor(id));
            }
            self.tensors.push(SourceTensor {
                id,
                source_name: name,
                format,
                shape,
            });
            self.places.push(WeightsPlace { file, range });
        }
        match missing.into_iter().min() {
            Some(tensor) => Err(SourceError::NotInFile {
                tensor,
                file: file_name.clone(),
            }),
            None => Ok(()),
        }
    }
}

/// Tensors that follow from others, and that some checkpoints hold all the same.
fn is_derived(name: &str, config: &ModelConfig) -> bool {
    name.ends_with("rotary_emb.inv_freq")
        || (config.tie_word_embeddings && name == "lm_head.weight")
}

/// What a tensor of a Qwen3-MoE checkpoint is; None where the configuration has no such layer or expert.
fn tensor_id(name: &str, config: &ModelConfig) -> Option<TensorId> {
    let resident = |name: &str| Some(TensorId::Resident(name.into()));
    match name {
        "model.embed_tokens.weight" => return resident(names::EMBED_TOKENS),
        "model.norm.weight" => return resident(names::NORM),
        "lm_head.weight" => return resident(names::LM_HEAD),
        _ => {}
    }
    let rest = name
        .strip_prefix("model.layers.")?
        .strip_suffix(".weight")?;
    let (layer, part) = rest.split_once('.')?;
    let layer = plain_number(layer, config.num_hidden_layers)?;
    if let Some(expert) = part.strip_prefix("mlp.experts.") {
        let (index, role) = expert.split_once('.')?;
        let role = ExpertRole::ALL
            .into_iter()
            .find(|known| known.name() == role)?;
        let index = plain_number(index, config.num_experts())?;
        let key = ExpertKey::routed(layer, index);
        return Some(TensorId::Expert(key, role));
    }
    let tensor = match part {
        "input_layernorm" => LayerTensor::InputNorm,
        "post_attention_layernorm" => LayerTensor::PostAttentionNorm,
        "self_attn.q_proj" => LayerTensor::QProj,
        "self_attn.k_proj" => LayerTensor::KProj,
        "self_attn.v_proj" => LayerTensor::VProj,
        "self_attn.o_proj" => LayerTensor::OProj,
        "self_attn.q_norm" => LayerTensor::QNorm,
        "self_attn.k_norm" => LayerTensor::KNorm,
        "mlp.gate" => LayerTensor::Router,
        "mlp.gate_proj" => LayerTensor::GateProj,
        "mlp.up_proj" => LayerTensor::UpProj,
        "mlp.down_proj" => LayerTensor::DownProj,
        _ => return None,
    };
    resident(&names::in_layer(layer, tensor))
}

/// A number below `limit` as a checkpoint writes it: no sign, no leading zero.
fn plain_number(text: &str, limit: u32) -> Option<u32> {
    let number: u32 = text.parse().ok()?;
    (number < limit && number.to_string() == text).then_some(number)
}
