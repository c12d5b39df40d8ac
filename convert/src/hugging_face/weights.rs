//! The tensors of a folder: which file holds each, and what each is.

mod names;

use super::config::parse_object;
use crate::fingerprint::{Fingerprint, FingerprintBuilder};
use crate::source::{SourceError, SourceTensor, TensorId, shown};
use crate::source_folder::SourceFolder;
use names::{Meaning, Stack, is_derived, meaning};
use odmoe_formats::ByteCount;
use odmoe_formats::model_config::ModelConfig;
use odmoe_formats::safetensors::{PREFIX_BYTES, SafetensorsHeader, TensorEntry, header_length};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, HashSet};
use std::ops::Range;

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
const MAX_INDEX: ByteCount = ByteCount(256 << 20);
const MAX_FILES: usize = 10_000;
/// More than any model has; a small file may claim a stack of very many tiny experts.
const MAX_TENSORS: usize = 1 << 20;

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
            let tensor = shown(tensor);
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
            format.map_err(|source| SourceError::Safetensors {
                path: path(),
                source,
            })?;
            match meaning(&entry.name, config) {
                Some(Meaning::Tensor(id)) => self.add(file, id, entry)?,
                Some(Meaning::Stack(stack)) => self.add_stack(file, stack, entry, config)?,
                None => return Err(SourceError::UnknownTensor(shown(&entry.name))),
            }
            if self.tensors.len() > MAX_TENSORS {
                let reason = format!("more than {MAX_TENSORS} tensors");
                return Err(SourceError::Malformed {
                    path: path(),
                    reason,
                });
            }
        }
        match missing.into_iter().min() {
            Some(tensor) => Err(SourceError::NotInFile {
                tensor: shown(&tensor),
                file: file_name.clone(),
            }),
            None => Ok(()),
        }
    }
    fn add(&mut self, file: usize, id: TensorId, entry: TensorEntry) -> Result<(), SourceError> {
        if !self.ids.insert(id.clone()) {
            return Err(SourceError::DuplicateTensor(id));
        }
        let format = entry.block_format().expect("checked before");
        let TensorEntry {
            name, shape, range, ..
        } = entry;
        self.tensors.push(SourceTensor {
            id,
            source_name: name,
            format,
            shape,
        });
        self.places.push(WeightsPlace { file, range });
        Ok(())
    }

    /// Takes a tensor with all experts of a layer apart: they lie one after the other, and so do their matrices.
    fn add_stack(
        &mut self,
        file: usize,
        stack: Stack,
        entry: TensorEntry,
        config: &ModelConfig,
    ) -> Result<(), SourceError> {
        let expected = stack.shape(config);
        if entry.shape != expected {
            return Err(SourceError::Shape {
                source_name: shown(&entry.name),
                expected: expected.into(),
                found: entry.shape,
            });
        }
        let matrices = stack.matrices(config);
        let bytes = (entry.range.end - entry.range.start) / matrices.len() as u64;
        for (place, (key, role)) in matrices.into_iter().enumerate() {
            let start = entry.range.start + place as u64 * bytes;
            let part = TensorEntry {
                name: format!("{} of {}", key, entry.name),
                shape: role
                    .shape(config.hidden_size, config.moe_intermediate_size())
                    .into(),
                range: start..start + bytes,
                ..entry.clone()
            };
            self.add(file, TensorId::Expert(key, role), part)?;
        }
        Ok(())
    }
}
