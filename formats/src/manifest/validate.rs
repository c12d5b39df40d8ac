//! Everything about a manifest that can be checked without its files.

mod parts;

use super::{
    FORMAT_VERSION, FORMAT_VERSION_ROW_MAJOR, Manifest, ManifestError, OBJECT_ALIGNMENT_BYTES,
    ObjectTensor, PageableObject, ResidentTensor, TENSOR_ALIGNMENT_BYTES,
};
use crate::expected;
use crate::{ExpertKey, Space, WeightLayout};
use parts::{
    MAX_TEXT_BYTES, check_bounds, check_digest, check_no_overlap, check_shape, check_size,
    check_text, check_use, file_bytes, is_plain_relative_path, shortened,
};
use std::collections::HashSet;

const MAX_FILES: usize = 1 << 20;
const MAX_RESIDENT_TENSORS: usize = 1 << 16;
const MAX_OBJECTS: usize = 1 << 20;
const MAX_TENSORS_PER_OBJECT: usize = 16;
const MAX_SOURCES: usize = 1 << 16;
const MAX_SPECIAL_TOKENS: usize = 1 << 12;

pub(super) fn validate(manifest: &Manifest) -> Result<(), ManifestError> {
    if ![FORMAT_VERSION_ROW_MAJOR, FORMAT_VERSION].contains(&manifest.format_version) {
        return Err(ManifestError::Version {
            found: manifest.format_version.into(),
        });
    }
    check_text("name", &manifest.name)?;
    manifest.config.check()?;
    check_counts(manifest)?;
    check_paths(manifest)?;
    check_total_size(manifest)?;
    check_text_side(manifest)?;
    check_provenance(manifest)?;
    for (name, tensor) in &manifest.resident {
        check_resident(manifest, name, tensor)?;
    }
    check_expected_resident(manifest)?;
    check_objects(manifest)?;
    check_file_overlaps(manifest)
}

fn check_counts(manifest: &Manifest) -> Result<(), ManifestError> {
    let counts = [
        ("files", manifest.files.len(), MAX_FILES),
        (
            "resident tensors",
            manifest.resident.len(),
            MAX_RESIDENT_TENSORS,
        ),
        ("pageable objects", manifest.objects.len(), MAX_OBJECTS),
        (
            "source files",
            manifest.provenance.sources.len(),
            MAX_SOURCES,
        ),
        (
            "special tokens",
            manifest.text.special_tokens.len(),
            MAX_SPECIAL_TOKENS,
        ),
        (
            "end-of-sequence ids",
            manifest.text.end_of_sequence_ids.len(),
            MAX_SPECIAL_TOKENS,
        ),
    ];
    for (what, found, limit) in counts {
        if found > limit {
            return Err(ManifestError::TooMany { what, found, limit });
        }
    }
    Ok(())
}

fn check_paths(manifest: &Manifest) -> Result<(), ManifestError> {
    let text = &manifest.text;
    let text_paths = [
        &text.tokenizer,
        &text.chat_template,
        &text.generation_config,
    ];
    let mut seen = HashSet::new();
    let tensor_paths = manifest.files.iter().map(|file| &file.path);
    for path in tensor_paths.chain(text_paths.into_iter().flatten()) {
        if !is_plain_relative_path(path) {
            return Err(ManifestError::Path(shortened(path)));
        }
        if !seen.insert(path) {
            return Err(ManifestError::DuplicateFile(path.clone()));
        }
    }
    Ok(())
}

/// Ranges lie inside files and apart, so that no sum of their lengths overflows either.
fn check_total_size(manifest: &Manifest) -> Result<(), ManifestError> {
    let limit = i64::MAX as u64;
    let sizes = manifest.files.iter().map(|file| file.bytes);
    let total = sizes.fold(0u64, u64::saturating_add);
    match total <= limit {
        true => Ok(()),
        false => Err(ManifestError::TooLarge { limit }),
    }
}

fn check_text_side(manifest: &Manifest) -> Result<(), ManifestError> {
    for (name, token) in &manifest.text.special_tokens {
        check_text("special token name", name)?;
        if token.len() > MAX_TEXT_BYTES {
            let found = shortened(token);
            return Err(ManifestError::Text {
                what: "special token",
                found,
            });
        }
    }
    let vocab_size = manifest.config.vocab_size;
    match manifest
        .text
        .end_of_sequence_ids
        .iter()
        .find(|id| **id >= vocab_size)
    {
        Some(&id) => Err(ManifestError::TokenId { id, vocab_size }),
        None => Ok(()),
    }
}

fn check_provenance(manifest: &Manifest) -> Result<(), ManifestError> {
    check_text("converter", &manifest.provenance.converter)?;
    for source in &manifest.provenance.sources {
        check_text("source file name", &source.name)?;
        check_digest(|| format!("source {}", source.name), &source.sha256, 64)?;
    }
    Ok(())
}

fn check_resident(
    manifest: &Manifest,
    name: &str,
    tensor: &ResidentTensor,
) -> Result<(), ManifestError> {
    check_text("tensor name", name)?;
    let owner = || format!("tensor {name}");
    let within = file_bytes(manifest, owner, tensor.file)?;
    check_bounds(owner, tensor.offset, tensor.bytes, within)?;
    check_size(owner, &tensor.shape, tensor.format, tensor.bytes)?;
    check_layout_version(manifest, owner, tensor.layout)?;
    check_layout(owner, tensor)?;
    check_digest(owner, &tensor.xxh3_128, 32)
}

fn check_layout(owner: impl Fn() -> String, tensor: &ResidentTensor) -> Result<(), ManifestError> {
    let (layout, format) = (tensor.layout, tensor.format);
    match layout.of_tensor(format, &tensor.shape) == layout {
        true => Ok(()),
        false => Err(ManifestError::Layout {
            owner: owner(),
            layout,
            format,
            shape: tensor.shape.clone(),
        }),
    }
}

/// Readers of the first version would take every layout for row-major.
fn check_layout_version(
    manifest: &Manifest,
    owner: impl Fn() -> String,
    layout: WeightLayout,
) -> Result<(), ManifestError> {
    if manifest.format_version == FORMAT_VERSION_ROW_MAJOR && !layout.is_row_major() {
        return Err(ManifestError::LayoutVersion {
            owner: owner(),
            layout,
        });
    }
    Ok(())
}

/// Every tensor of the architecture, in its shape, and no other. An architecture that this crate does not know is
/// left to the engine, which names those it supports.
fn check_expected_resident(manifest: &Manifest) -> Result<(), ManifestError> {
    let Some(expected) = expected::resident_tensors(&manifest.config) else {
        return Ok(());
    };
    for wanted in &expected {
        let Some(tensor) = manifest.resident.get(&wanted.name) else {
            return Err(ManifestError::MissingTensor(format!(
                "tensor {}",
                wanted.name
            )));
        };
        let owner = || format!("tensor {}", wanted.name);
        check_shape(owner, &wanted.shape, &tensor.shape)?;
        check_use(owner, wanted.tensor_use, tensor.format)?;
    }
    if manifest.resident.len() > expected.len() {
        let known: HashSet<&str> = expected.iter().map(|tensor| tensor.name.as_str()).collect();
        let unknown = manifest
            .resident
            .keys()
            .find(|name| !known.contains(name.as_str()));
        let name = unknown.expect("more tensors than known names");
        return Err(ManifestError::UnexpectedTensor(format!("tensor {name}")));
    }
    Ok(())
}

fn check_objects(manifest: &Manifest) -> Result<(), ManifestError> {
    let config = &manifest.config;
    let mut seen = HashSet::new();
    for object in &manifest.objects {
        let key = object.key;
        let known = key.space == Space::RoutedExpert
            && key.layer.0 < config.num_hidden_layers
            && config.is_sparse(key.layer.0)
            && key.index.0 < config.num_experts();
        if !known {
            return Err(ManifestError::UnexpectedObject(key));
        }
        if !seen.insert(key) {
            return Err(ManifestError::DuplicateObject(key));
        }
        check_object(manifest, object)?;
    }
    // Each is known and none comes twice, so the right number of them is all of them.
    let (expected, found) = (config.routed_experts(), manifest.objects.len() as u64);
    if found != expected {
        return Err(ManifestError::ObjectCount { expected, found });
    }
    Ok(())
}

fn check_object(manifest: &Manifest, object: &PageableObject) -> Result<(), ManifestError> {
    let owner = || object.key.to_string();
    let (offset, bytes) = (object.offset, object.bytes);
    let within = file_bytes(manifest, owner, object.file)?;
    check_bounds(owner, offset, bytes, within)?;
    let aligned = |n: u64| n.is_multiple_of(OBJECT_ALIGNMENT_BYTES);
    if bytes == 0 || !aligned(offset) || !aligned(bytes) {
        return Err(ManifestError::ObjectAlignment {
            owner: owner(),
            offset,
            bytes,
        });
    }
    check_layout_version(manifest, owner, object.layout)?;
    check_digest(owner, &object.xxh3_128, 32)?;
    check_object_tensors(manifest, object)
}

fn check_object_tensors(manifest: &Manifest, object: &PageableObject) -> Result<(), ManifestError> {
    let found = object.tensors.len();
    if found > MAX_TENSORS_PER_OBJECT {
        let (what, limit) = ("tensors in an object", MAX_TENSORS_PER_OBJECT);
        return Err(ManifestError::TooMany { what, found, limit });
    }
    for (role, shape) in expected::expert_tensors(&manifest.config) {
        let owner = || format!("{} {role}", object.key);
        let Some(tensor) = object.tensors.get(role.name()) else {
            return Err(ManifestError::MissingTensor(owner()));
        };
        check_shape(owner, &shape, &tensor.shape)?;
        check_object_tensor(owner, tensor, object.bytes)?;
    }
    let known = |role: &str| expected_role(manifest, role);
    if let Some(role) = object.tensors.keys().find(|role| !known(role)) {
        let role = shortened(role);
        return Err(ManifestError::UnexpectedTensor(format!(
            "{} {role}",
            object.key
        )));
    }
    let mut ranges: Vec<(u64, u64, &str)> = object
        .tensors
        .iter()
        .map(|(role, tensor)| (tensor.offset, tensor.offset + tensor.bytes, role.as_str()))
        .collect();
    ranges.sort_unstable();
    check_no_overlap(&ranges, |role| format!("{} {role}", object.key))
}

fn expected_role(manifest: &Manifest, name: &str) -> bool {
    expected::expert_tensors(&manifest.config)
        .iter()
        .any(|(role, _)| role.name() == name)
}

fn check_object_tensor(
    owner: impl Fn() -> String,
    tensor: &ObjectTensor,
    object_bytes: u64,
) -> Result<(), ManifestError> {
    check_bounds(&owner, tensor.offset, tensor.bytes, object_bytes)?;
    if !tensor.offset.is_multiple_of(TENSOR_ALIGNMENT_BYTES) {
        return Err(ManifestError::TensorAlignment {
            owner: owner(),
            offset: tensor.offset,
        });
    }
    check_size(owner, &tensor.shape, tensor.format, tensor.bytes)
}

/// No byte of any file has two owners.
fn check_file_overlaps(manifest: &Manifest) -> Result<(), ManifestError> {
    #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
    enum Owner<'a> {
        Tensor(&'a str),
        Object(ExpertKey),
    }
    let tensors = manifest.resident.iter().map(|(name, tensor)| {
        (
            tensor.file.0,
            tensor.offset,
            tensor.offset + tensor.bytes,
            Owner::Tensor(name),
        )
    });
    let objects = manifest.objects.iter().map(|object| {
        (
            object.file.0,
            object.offset,
            object.offset + object.bytes,
            Owner::Object(object.key),
        )
    });
    let mut ranges: Vec<_> = tensors.chain(objects).collect();
    ranges.sort_unstable();
    for file in ranges.chunk_by(|a, b| a.0 == b.0) {
        let file: Vec<_> = file
            .iter()
            .map(|&(_, start, end, owner)| (start, end, owner))
            .collect();
        check_no_overlap(&file, |owner| match owner {
            Owner::Tensor(name) => format!("tensor {name}"),
            Owner::Object(key) => key.to_string(),
        })?;
    }
    Ok(())
}
