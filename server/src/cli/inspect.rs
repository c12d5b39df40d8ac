//! `odmoe inspect`: what is in a model, and what it would take to run here.

mod human;
mod memory;
mod refused;
mod text_side;

use crate::cli::args::InspectArgs;
use crate::cli::{Failure, settings, terminal};
use crate::embedded;
use crate::model::facts::{ModelFacts, sketch_manifest};
use crate::model::locate::{ModelLocation, locate};
use crate::model::memory_limit;
use crate::model::settings::automatic_conversion;
use odmoe_convert::{
    ModelSource, Preflight, open_source, open_store, planned_manifest, preflight, store_cache,
};
use odmoe_formats::WeightLayout;
use odmoe_formats::manifest::Manifest;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Prints the findings.
pub fn run(args: &InspectArgs) -> Result<(), Failure> {
    let location = locate(args.input.as_deref()).map_err(Failure::failed)?;
    let cache = settings::cache_folder_of(args.store_dir.as_deref());
    let inspected = match inspect(&location, cache.as_deref()) {
        Ok(inspected) => inspected,
        // What can be told of a model that is refused is told all the same; then why it is.
        Err(failure) => {
            if let (Failure::Failed(reason), Some(path)) = (&failure, refused::gguf_of(&location)) {
                refused::tell(path, reason, args.json)?;
            }
            return Err(failure);
        }
    };
    let facts = ModelFacts::of(&inspected.manifest);
    let report = report(&inspected, &facts);
    if args.json {
        terminal::print(&format!("{report}\n"))
    } else {
        let mut text = String::new();
        human::write(&mut text, &report).expect("a string takes everything");
        terminal::print(&text)
    }
}

struct Inspected {
    kind: &'static str,
    location: ModelLocation,
    manifest: Manifest,
    tokenizer: Option<Vec<u8>>,
    template: Option<String>,
    /// Of a model that is no store.
    conversion: Option<Conversion>,
}

impl Inspected {
    /// A store's layout. What any other model will have depends on the machine that converts it.
    fn layout(&self) -> Option<WeightLayout> {
        match self.location {
            ModelLocation::Store(_) | ModelLocation::Embedded => Some(self.manifest.layout()),
            ModelLocation::HuggingFace(_) | ModelLocation::Gguf(_) => None,
        }
    }
}

/// What serving a model that is no store does first.
struct Conversion {
    /// The store, where it was done before.
    done: Option<PathBuf>,
    /// Where it would be done.
    folder: PathBuf,
    room: Preflight,
}

fn inspect(location: &ModelLocation, cache: Option<&Path>) -> Result<Inspected, Failure> {
    let of_store = |kind, folder: &Path| {
        let manifest = open_store(folder).map_err(Failure::failed)?;
        let read = |name: &Option<String>| {
            name.as_ref()
                .and_then(|name| std::fs::read(folder.join(name)).ok())
        };
        let tokenizer = read(&manifest.text.tokenizer);
        let template = read(&manifest.text.chat_template)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        Ok(Inspected {
            kind,
            location: location.clone(),
            manifest,
            tokenizer,
            template,
            conversion: None,
        })
    };
    match location {
        ModelLocation::Store(folder) => of_store("store", folder),
        ModelLocation::Embedded => {
            let unpacked = embedded::unpack(&embedded::TINY_MOE, cache).map_err(Failure::failed)?;
            of_store("embedded store", &unpacked.folder)
        }
        ModelLocation::HuggingFace(path) | ModelLocation::Gguf(path) => {
            let source = open_source(path).map_err(Failure::failed)?;
            // A model that would not be converted is refused here, too.
            planned_manifest(&*source, &automatic_conversion(None)).map_err(Failure::failed)?;
            let text = source.metadata().text.clone();
            Ok(Inspected {
                kind: match location {
                    ModelLocation::Gguf(_) => "GGUF file",
                    _ => "Hugging Face folder",
                },
                manifest: sketch_manifest(&*source),
                tokenizer: text.tokenizer,
                template: text.chat_template,
                conversion: cache.and_then(|cache| conversion(&*source, cache)),
                location: location.clone(),
            })
        }
    }
}

/// None where nothing can be found out about the folder.
fn conversion(source: &dyn ModelSource, cache: &Path) -> Option<Conversion> {
    let options = automatic_conversion(None);
    let folder = cache.join("stores");
    // A store gets a folder of its own there.
    let room = preflight(source, &folder.join("new"), &options).ok()?;
    Some(Conversion {
        done: store_cache::find_in_any_layout(&folder, source, &options),
        folder,
        room,
    })
}

fn report(inspected: &Inspected, facts: &ModelFacts) -> Value {
    let manifest = &inspected.manifest;
    let formats: Vec<Value> = facts
        .by_format
        .iter()
        .map(|(format, tally)| {
            json!({"format": format.to_string(), "tensors": tally.tensors, "parameters": tally.elements, "bytes": tally.bytes.0})
        })
        .collect();
    json!({
        "kind": inspected.kind,
        "refused": null,
        "name": manifest.name,
        "architecture": manifest.config.architecture,
        "config": manifest.config,
        "parameters": facts.parameters,
        "active_parameters": facts.active_parameters,
        "bytes_a_token": facts.bytes_a_token.0,
        "tensors_by_format": formats,
        "layout": inspected.layout().map(WeightLayout::name),
        "resident_bytes": facts.resident.bytes.0,
        "experts": {
            "count": facts.expert_count,
            "bytes": facts.experts.bytes.0,
            "smallest_bytes": manifest.objects.iter().map(|object| object.bytes).min().unwrap_or(0),
            "largest_bytes": facts.largest_expert.0,
        },
        "memory_to_run": memory::to_run(&inspected.location, manifest, memory_limit::detect(Path::new("/"), None)),
        "store_bytes": store_bytes(manifest),
        "conversion": inspected.conversion.as_ref().map(|conversion| json!({
            "folder": conversion.folder.display().to_string(),
            "needed_bytes": conversion.room.needed.0,
            "free_bytes": conversion.room.free.0,
            "store": conversion.done.as_ref().map(|store| store.display().to_string()),
        })),
        "tokenizer": inspected.tokenizer.as_deref().map(text_side::describe),
        "chat_template_bytes": inspected.template.as_ref().map(String::len),
    })
}

/// What a store of the weights as they are takes on disk, beside its text files and manifest.
fn store_bytes(manifest: &Manifest) -> u64 {
    let resident = manifest.resident.values().map(|tensor| tensor.bytes);
    let experts = manifest.objects.iter().map(|object| object.bytes);
    resident.chain(experts).sum()
}
