//! The findings as lines for people, from the same report that programs get.

use crate::model::report::human_count;
use odmoe_formats::ByteCount;
use serde_json::Value;
use std::fmt::{self, Write};

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or(0)
}

fn bytes(value: &Value) -> ByteCount {
    ByteCount(number(value))
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// A model that can be served.
pub(super) fn write(out: &mut String, report: &Value) -> fmt::Result {
    let config = &report["config"];
    writeln!(out, "{}: {}", text(&report["name"]), text(&report["kind"]))?;
    writeln!(
        out,
        "  architecture  {}: {} layers, hidden {}, {} query and {} key/value heads of {}, vocabulary {}, context {}",
        text(&report["architecture"]),
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
    write_experts(out, report)?;
    writeln!(out, "  resident      {}", bytes(&report["resident_bytes"]))?;
    write_formats(out, report)?;
    if let Some(layout) = report["layout"].as_str() {
        writeln!(out, "  layout        {layout}")?;
    }
    write_disk(out, report)?;
    write_memory(out, &report["memory_to_run"])?;
    write_text_side(out, report)
}

fn write_experts(out: &mut String, report: &Value) -> fmt::Result {
    let (experts, moe) = (&report["experts"], &report["config"]["moe"]);
    if number(&experts["count"]) == 0 {
        return writeln!(
            out,
            "  experts       none: a dense model, which is all in memory"
        );
    }
    let (smallest, largest) = (
        bytes(&experts["smallest_bytes"]).to_string(),
        bytes(&experts["largest_bytes"]).to_string(),
    );
    let each = match smallest == largest {
        true => format!("{largest} each"),
        false => format!("{smallest} to {largest} each"),
    };
    writeln!(
        out,
        "  experts       {} ({} a layer, {} a token), {} in all, {each}",
        experts["count"],
        moe["num_experts"],
        moe["num_experts_per_tok"],
        bytes(&experts["bytes"]),
    )
}

/// Tensors by format.
pub(super) fn write_formats(out: &mut String, report: &Value) -> fmt::Result {
    list(&report["tensors_by_format"])
        .iter()
        .try_for_each(|format| {
            writeln!(
                out,
                "  {:<13} {} tensors, {}",
                text(&format["format"]),
                format["tensors"],
                bytes(&format["bytes"])
            )
        })
}

fn write_disk(out: &mut String, report: &Value) -> fmt::Result {
    let conversion = &report["conversion"];
    let (needed, free) = (
        bytes(&conversion["needed_bytes"]),
        bytes(&conversion["free_bytes"]),
    );
    write!(
        out,
        "  disk          {} as a store",
        bytes(&report["store_bytes"])
    )?;
    match (&conversion["store"], conversion["folder"].as_str()) {
        (Value::String(store), _) => writeln!(out, ", which is there: {store}"),
        (_, None) => writeln!(out),
        (_, Some(folder)) if needed <= free => writeln!(out, "; {free} are free in {folder}"),
        (_, Some(folder)) => writeln!(
            out,
            "; with a margin it needs {needed}, more than the {free} that are free in {folder}"
        ),
    }
}

fn write_memory(out: &mut String, memory: &Value) -> fmt::Result {
    let mut line = |label: &str, sum: &Value| {
        let verdict = match sum["fits_here"] == true {
            true => "",
            false => "; more than there is here",
        };
        writeln!(
            out,
            "  memory        {label} experts: {} = base {} + KV {} ({} tokens) + experts {} + scratch {} + overhead {}{verdict}",
            bytes(&sum["total_bytes"]),
            bytes(&sum["base_bytes"]),
            bytes(&sum["kv_bytes"]),
            sum["kv_tokens"],
            bytes(&sum["expert_bytes"]),
            bytes(&sum["scratch_bytes"]),
            bytes(&sum["overhead_bytes"]),
        )
    };
    if memory["least"].is_object() {
        line("fewest", &memory["least"])?;
    }
    for sum in list(&memory["sums"]) {
        let percent = sum["expert_cache_percent"].as_f64().unwrap_or(0.0);
        line(&format!("{percent:>3} % of"), sum)?;
    }
    match memory["limit_bytes"].as_u64() {
        None => Ok(()),
        Some(limit) => writeln!(
            out,
            "  limit here    {} ({})",
            ByteCount(limit),
            text(&memory["limit_source"])
        ),
    }
}

fn write_text_side(out: &mut String, report: &Value) -> fmt::Result {
    let tokenizer = &report["tokenizer"];
    match (&tokenizer["vocabulary"], &tokenizer["error"]) {
        (Value::Number(size), _) => writeln!(
            out,
            "  tokenizer     {}, {size} tokens, {} of them special",
            text(&tokenizer["kind"]),
            tokenizer["special_tokens"]
        )?,
        (_, Value::String(error)) => writeln!(out, "  tokenizer     {error}")?,
        _ => writeln!(out, "  tokenizer     none: token ids only")?,
    }
    match report["chat_template_bytes"].as_u64() {
        Some(length) => writeln!(out, "  template      {length} bytes: chat and completions"),
        None => writeln!(out, "  template      none: completions only"),
    }
}
