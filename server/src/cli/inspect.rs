//! `odmoe inspect`: what is in a model, and what it would take to run here.

use crate::cli::args::InspectArgs;
use crate::cli::{Failure, settings, terminal};
use crate::config::{ExpertCacheSize, KvCacheSize};
use crate::embedded;
use crate::model::facts::{ModelFacts, sketch_manifest};
use crate::model::locate::{ModelLocation, locate};
use crate::model::memory_limit;
use crate::model::open::divide;
use crate::model::report::human_count;
use crate::model::settings::Settings;
use odmoe_backend::KvFormat;
use odmoe_convert::{open_source, open_store};
use odmoe_formats::ByteCount;
use odmoe_formats::manifest::Manifest;
use odmoe_text::Tokenizer;
use serde_json::{Value, json};
use std::fmt::{self, Write};
use std::path::Path;
use std::time::Duration;

/// Shares of experts for which the memory sum is shown, in percent.
const SHARES: [f64; 3] = [25.0, 50.0, 100.0];

/// Prints the findings.
pub fn run(args: &InspectArgs) -> Result<(), Failure> {
    let location = locate(args.input.as_deref()).map_err(Failure::failed)?;
    let inspected = inspect(location)?;
    let facts = ModelFacts::of(&inspected.manifest);
    let report = report(&inspected, &facts);
    if args.json {
        terminal::print(&format!("{report}\n"))
    } else {
        let mut text = String::new();
        write_human(&mut text, &report).expect("a string takes everything");
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

fn inspect(location: ModelLocation) -> Result<Inspected, Failure> {
    let of_store = |kind, folder: &Path, location| {
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
            location,
            manifest,
            tokenizer,
            template,
        })
    };
    match &location {
        ModelLocation::Store(folder) => of_store("store", &folder.clone(), location),
        ModelLocation::Embedded => {
            let cache = settings::cache_folder_of(None);
            let unpacked =
                embedded::unpack(&embedded::TINY_MOE, cache.as_deref()).map_err(Failure::failed)?;
            of_store("embedded store", &unpacked.folder, location)
        }
        ModelLocation::HuggingFace(path) | ModelLocation::Gguf(path) => {
            let source = open_source(path).map_err(Failure::failed)?;
            let text = source.metadata().text.clone();
            Ok(Inspected {
                kind: match &location {
                    ModelLocation::Gguf(_) => "GGUF file",
                    _ => "Hugging Face folder",
                },
                manifest: sketch_manifest(&*source),
                tokenizer: text.tokenizer,
                template: text.chat_template,
                location,
            })
        }
    }
}

fn report(inspected: &Inspected, facts: &ModelFacts) -> Value {
    let manifest = &inspected.manifest;
    let tokenizer = inspected
        .tokenizer
        .as_deref()
        .map(|bytes| match Tokenizer::from_json(bytes) {
            Ok(tokenizer) => json!({"vocabulary": tokenizer.vocabulary_size()}),
            Err(error) => json!({"error": error.to_string()}),
        });
    let formats: Vec<Value> = facts
        .by_format
        .iter()
        .map(|(format, tally)| {
            json!({"format": format.to_string(), "tensors": tally.tensors, "parameters": tally.elements, "bytes": tally.bytes.0})
        })
        .collect();
    json!({
        "kind": inspected.kind,
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
            "largest_bytes": facts.largest_expert.0,
        },
        "memory_to_run": memory_to_run(inspected),
        "tokenizer": tokenizer,
        "chat_template_bytes": inspected.template.as_ref().map(String::len),
    })
}

/// The memory sums with the server's default settings, and what this machine allows.
fn memory_to_run(inspected: &Inspected) -> Value {
    let limit = memory_limit::detect(Path::new("/"), None);
    let sums: Vec<Value> = SHARES
        .iter()
        .filter_map(|percent| {
            let settings = default_settings(inspected.location.clone(), *percent);
            let (_, _, plan, _) = divide(&settings, &inspected.manifest).ok()?;
            let fits = limit
                .as_ref()
                .is_none_or(|limit| plan.total() <= limit.bytes);
            Some(json!({
                "expert_cache_percent": percent,
                "total_bytes": plan.total().0,
                "base_bytes": plan.base.0,
                "kv_bytes": plan.kv.0,
                "expert_bytes": plan.experts.0,
                "scratch_bytes": plan.scratch.0,
                "overhead_bytes": plan.overhead.0,
                "fits_here": fits,
            }))
        })
        .collect();
    json!({
        "limit_bytes": limit.as_ref().map(|limit| limit.bytes.0),
        "limit_source": limit.as_ref().map(|limit| limit.source.to_string()),
        "sums": sums,
    })
}

fn default_settings(location: ModelLocation, percent: f64) -> Settings {
    Settings {
        location,
        cache_folder: None,
        expert_cache: Some(ExpertCacheSize::Percent(percent)),
        memory_limit: None,
        // One sequence of the whole context, or of 8192 tokens where that is less.
        kv_cache: KvCacheSize::Tokens(8192),
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

fn write_human(out: &mut String, report: &Value) -> fmt::Result {
    let number = |value: &Value| value.as_u64().unwrap_or(0);
    let bytes = |value: &Value| ByteCount(number(value)).to_string();
    let config = &report["config"];
    writeln!(
        out,
        "{}: {}",
        report["name"].as_str().unwrap_or_default(),
        report["kind"].as_str().unwrap_or_default()
    )?;
    writeln!(
        out,
        "  architecture  {}: {} layers, hidden {}, {} query and {} key/value heads of {}, vocabulary {}, context {}",
        report["architecture"].as_str().unwrap_or_default(),
        config["num_hidden_layers"],
        config["hidden_size"],
        config["num_attention_heads"],
        config["num_key_value_heads"],
        config["head_dim"],
        config["vocab_size"],
        config["max_position_embeddings"],
    )?;
    writeln!(
        out,
        "  parameters    {}, {} of them used by a token, which touches {}",
        human_count(number(&report["parameters"])),
        human_count(number(&report["active_parameters"])),
        bytes(&report["bytes_a_token"]),
    )?;
    writeln!(
        out,
        "  experts       {} ({} a layer, {} a token), {} in all, {} at most each",
        report["experts"]["count"],
        config["moe"]["num_experts"],
        config["moe"]["num_experts_per_tok"],
        bytes(&report["experts"]["bytes"]),
        bytes(&report["experts"]["largest_bytes"]),
    )?;
    writeln!(out, "  resident      {}", bytes(&report["resident_bytes"]))?;
    for format in report["tensors_by_format"].as_array().into_iter().flatten() {
        writeln!(
            out,
            "  {:<13} {} tensors, {}",
            format["format"].as_str().unwrap_or_default(),
            format["tensors"],
            bytes(&format["bytes"])
        )?;
    }
    for sum in report["memory_to_run"]["sums"]
        .as_array()
        .into_iter()
        .flatten()
    {
        writeln!(
            out,
            "  memory        {:>3} % of experts in memory: {} = base {} + KV {} + experts {} + scratch {} + overhead {}{}",
            sum["expert_cache_percent"],
            bytes(&sum["total_bytes"]),
            bytes(&sum["base_bytes"]),
            bytes(&sum["kv_bytes"]),
            bytes(&sum["expert_bytes"]),
            bytes(&sum["scratch_bytes"]),
            bytes(&sum["overhead_bytes"]),
            if sum["fits_here"] == true {
                ""
            } else {
                "; more than there is here"
            },
        )?;
    }
    if let Some(limit) = report["memory_to_run"]["limit_bytes"].as_u64() {
        writeln!(
            out,
            "  limit here    {} ({})",
            ByteCount(limit),
            report["memory_to_run"]["limit_source"]
                .as_str()
                .unwrap_or_default()
        )?;
    }
    match (
        &report["tokenizer"]["vocabulary"],
        &report["tokenizer"]["error"],
    ) {
        (Value::Number(size), _) => writeln!(out, "  tokenizer     {size} tokens")?,
        (_, Value::String(error)) => writeln!(out, "  tokenizer     {error}")?,
        _ => writeln!(out, "  tokenizer     none")?,
    }
    match report["chat_template_bytes"].as_u64() {
        Some(length) => writeln!(out, "  template      {length} bytes"),
        None => writeln!(out, "  template      none: completions only"),
    }
}
