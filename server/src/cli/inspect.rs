//! `odmoe inspect`: what is in a model, and what it would take to run here.

mod human;
mod refused;
mod text_side;

use crate::cli::args::InspectArgs;
use crate::cli::{Failure, settings, terminal};
use crate::config::{ExpertCacheSize, KvCacheSize};
use crate::embedded;
use crate::model::facts::{ModelFacts, sketch_manifest};
use crate::model::locate::{ModelLocation, locate};
use crate::model::memory_limit;
use crate::model::open::divide;
use crate::model::settings::Settings;
use odmoe_backend::KvFormat;
use odmoe_convert::{ConvertOptions, open_source, open_store, planned_manifest};
use odmoe_formats::manifest::Manifest;
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;

/// Shares of experts for which the memory sum is shown, in percent.
const SHARES: [f64; 3] = [25.0, 50.0, 100.0];
/// Less than any cache can be, which is raised to the least that one can.
const LEAST_SHARE: f64 = 1e-6;

/// Prints the findings.
pub fn run(args: &InspectArgs) -> Result<(), Failure> {
    let location = locate(args.input.as_deref()).map_err(Failure::failed)?;
    let inspected = match inspect(&location) {
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
}

fn inspect(location: &ModelLocation) -> Result<Inspected, Failure> {
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
        })
    };
    match location {
        ModelLocation::Store(folder) => of_store("store", folder),
        ModelLocation::Embedded => {
            let cache = settings::cache_folder_of(None);
            let unpacked =
                embedded::unpack(&embedded::TINY_MOE, cache.as_deref()).map_err(Failure::failed)?;
            of_store("embedded store", &unpacked.folder)
        }
        ModelLocation::HuggingFace(path) | ModelLocation::Gguf(path) => {
            let source = open_source(path).map_err(Failure::failed)?;
            // A model that would not be converted is refused here, too.
            planned_manifest(&*source, &ConvertOptions::default()).map_err(Failure::failed)?;
            let text = source.metadata().text.clone();
            Ok(Inspected {
                kind: match location {
                    ModelLocation::Gguf(_) => "GGUF file",
                    _ => "Hugging Face folder",
                },
                manifest: sketch_manifest(&*source),
                tokenizer: text.tokenizer,
                template: text.chat_template,
                location: location.clone(),
            })
        }
    }
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
        "resident_bytes": facts.resident.bytes.0,
        "experts": {
            "count": facts.expert_count,
            "bytes": facts.experts.bytes.0,
            "smallest_bytes": manifest.objects.iter().map(|object| object.bytes).min().unwrap_or(0),
            "largest_bytes": facts.largest_expert.0,
        },
        "memory_to_run": memory_to_run(inspected),
        "store_bytes": store_bytes(manifest),
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

/// The memory sums with the server's default settings, and what this machine allows.
fn memory_to_run(inspected: &Inspected) -> Value {
    let limit = memory_limit::detect(Path::new("/"), None);
    let sum = |percent: f64| {
        let context = inspected.manifest.config.max_position_embeddings;
        let settings = default_settings(inspected.location.clone(), percent, context);
        let (_, _, plan, budget) = divide(&settings, &inspected.manifest).ok()?;
        let fits = limit
            .as_ref()
            .is_none_or(|limit| plan.total() <= limit.bytes);
        Some(json!({
            "expert_cache_percent": if percent == LEAST_SHARE { budget.percent } else { percent },
            "total_bytes": plan.total().0,
            "base_bytes": plan.base.0,
            "kv_bytes": plan.kv.0,
            "expert_bytes": plan.experts.0,
            "scratch_bytes": plan.scratch.0,
            "overhead_bytes": plan.overhead.0,
            "fits_here": fits,
        }))
    };
    // In a dense model all shares are one.
    let shares = match inspected.manifest.objects.is_empty() {
        true => &SHARES[2..],
        false => &SHARES[..],
    };
    let sums: Vec<Value> = shares.iter().copied().filter_map(sum).collect();
    json!({
        "limit_bytes": limit.as_ref().map(|limit| limit.bytes.0),
        "limit_source": limit.as_ref().map(|limit| limit.source.to_string()),
        "least": sum(LEAST_SHARE),
        "sums": sums,
    })
}

fn default_settings(location: ModelLocation, percent: f64, context: u32) -> Settings {
    Settings {
        location,
        cache_folder: None,
        expert_cache: Some(ExpertCacheSize::Percent(percent)),
        memory_limit: None,
        // One sequence of the whole context, or of 8192 tokens where that is less.
        kv_cache: KvCacheSize::Tokens(context.min(8192) as usize),
        kv_format: KvFormat::F16,
        max_running: 8,
        max_queue: 64,
        prefill_chunk_tokens: 256,
        threads: 1,
        kernels: None,
        readers: 4,
        read_timeout: Duration::from_secs(30),
        prefetch: true,
        served_name: None,
    }
}
