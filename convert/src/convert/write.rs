//! Writes the files of a store, and takes the digest of what was written.

use super::ConvertError;
use super::destination::StoreWriter;
use super::encode::TensorEncoder;
use super::plan::{FileOwner, PlannedFile};
use crate::progress::Tracker;
use crate::source::ModelSource;
use odmoe_formats::checksum::{Xxh3, Xxh3Hasher};
use odmoe_formats::manifest::Manifest;
use std::fs::File;
use std::io::Write;
use std::path::PathBuf;

/// Writes tokenizer, chat template and generation config under the names in the manifest.
pub(super) fn text_files(
    source: &dyn ModelSource,
    manifest: &Manifest,
    writer: &StoreWriter,
) -> Result<(), ConvertError> {
    let (contents, names) = (&source.metadata().text, &manifest.text);
    let files = [
        (&names.tokenizer, contents.tokenizer.as_deref()),
        (
            &names.chat_template,
            contents.chat_template.as_deref().map(str::as_bytes),
        ),
        (
            &names.generation_config,
            contents.generation_config.as_deref(),
        ),
    ];
    for (name, contents) in files {
        if let (Some(name), Some(contents)) = (name, contents) {
            writer.write_whole(name, contents)?;
        }
    }
    Ok(())
}

/// Writes every tensor file and enters the digests into the manifest. A step is the base or one layer's experts.
pub(super) fn tensor_files(
    source: &dyn ModelSource,
    files: &[PlannedFile],
    manifest: &mut Manifest,
    writer: &StoreWriter,
    tracker: &mut Tracker<'_>,
) -> Result<(), ConvertError> {
    let mut encoder = TensorEncoder::default();
    let mut first = 0;
    while first < files.len() {
        let step = step_name(manifest, &files[first]);
        let in_step = |file: &&PlannedFile| step_name(manifest, file) == step;
        let end = first + files[first..].iter().take_while(in_step).count();
        let bytes = manifest.files[first..end]
            .iter()
            .map(|file| file.bytes)
            .sum();
        tracker.step(step, bytes)?;
        for (index, file) in files.iter().enumerate().take(end).skip(first) {
            let path = manifest.files[index].path.clone();
            let digests = tensor_file(source, file, &path, writer, &mut encoder, tracker)?;
            enter_digests(manifest, file, digests);
        }
        let written = &manifest.files[first..end];
        writer.sync_files(written.iter().map(|file| file.path.as_str()))?;
        first = end;
    }
    Ok(())
}

fn step_name(manifest: &Manifest, file: &PlannedFile) -> String {
    match file.owner {
        FileOwner::Base => "base".into(),
        FileOwner::Object(object) => {
            format!("experts of layer {}", manifest.objects[object].key.layer.0)
        }
    }
}

fn enter_digests(manifest: &mut Manifest, file: &PlannedFile, digests: Vec<Xxh3>) {
    match file.owner {
        FileOwner::Object(object) => manifest.objects[object].xxh3_128 = digests[0].to_hex(),
        FileOwner::Base => {
            for (tensor, digest) in file.tensors.iter().zip(digests) {
                let resident = manifest.resident.get_mut(&tensor.name);
                resident.expect("planned with the file").xxh3_128 = digest.to_hex();
            }
        }
    }
}

/// Writes one file. The digests are one for each tensor of a base file, or the one of an object's bytes.
fn tensor_file(
    source: &dyn ModelSource,
    planned: &PlannedFile,
    relative: &str,
    writer: &StoreWriter,
    encoder: &mut TensorEncoder,
    tracker: &mut Tracker<'_>,
) -> Result<Vec<Xxh3>, ConvertError> {
    let layout = planned.layout(source)?;
    let (path, file) = writer.create(relative)?;
    let mut out = HashedFile {
        file,
        path,
        position: 0,
        hasher: Xxh3Hasher::new(),
    };
    out.write(&layout.header)?;
    tracker.advance(layout.data_start())?;

    out.hasher = Xxh3Hasher::new();
    let mut digests = Vec::new();
    for (tensor, placed) in planned.tensors.iter().zip(&layout.tensors) {
        let filler = out.fill_to(placed.offset)?;
        tracker.advance(filler)?;
        if planned.owner == FileOwner::Base {
            out.hasher = Xxh3Hasher::new();
        }
        encoder.encode(source, tensor.source, tensor.format, |piece| {
            out.write(piece)?;
            Ok(tracker.advance(piece.len() as u64)?)
        })?;
        assert_eq!(
            out.position,
            placed.offset + placed.bytes,
            "a tensor of another size"
        );
        if planned.owner == FileOwner::Base {
            digests.push(out.hasher.finish());
        }
    }
    let filler = out.fill_to(layout.file_bytes)?;
    tracker.advance(filler)?;
    if planned.owner != FileOwner::Base {
        digests.push(out.hasher.finish());
    }
    Ok(digests)
}

/// A file that is written from front to back, with a hasher beside it.
struct HashedFile {
    file: File,
    path: PathBuf,
    position: u64,
    hasher: Xxh3Hasher,
}

impl HashedFile {
    fn write(&mut self, bytes: &[u8]) -> Result<(), ConvertError> {
        self.file
            .write_all(bytes)
            .map_err(ConvertError::io(&self.path))?;
        self.hasher.update(bytes);
        self.position += bytes.len() as u64;
        Ok(())
    }

    /// Writes zeros up to `offset`, less than a page away; returns how many.
    fn fill_to(&mut self, offset: u64) -> Result<u64, ConvertError> {
        const ZEROS: [u8; 4096] = [0; 4096];
        let filler = offset - self.position;
        self.write(&ZEROS[..filler as usize])?;
        Ok(filler)
    }
}
