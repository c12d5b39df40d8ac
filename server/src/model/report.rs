//! What is printed before a model starts: what it is, where it is, and the memory sum.

use crate::model::facts::ModelFacts;
use crate::model::locate::ModelLocation;
use crate::model::open::PreparedModel;
use odmoe_backend::KvFormat;
use odmoe_expert_store::Catalog;
use odmoe_formats::ByteCount;
use std::fmt::Write;

/// A number of parameters, as people say it.
pub fn human_count(count: u64) -> String {
    match count {
        0..1_000 => count.to_string(),
        1_000..1_000_000 => format!("{:.1} thousand", count as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} M", count as f64 / 1e6),
        _ => format!("{:.1} B", count as f64 / 1e9),
    }
}

/// The lines for a prepared model.
pub fn describe(model: &PreparedModel) -> String {
    let mut lines = String::new();
    let _ = writeln!(lines, "  model     {}, {}", model.name(), place(model));
    let config = &model.manifest.config;
    let facts = ModelFacts::of(&model.manifest);
    let _ = writeln!(
        lines,
        "            {}: {} parameters, {} of them used by a token; {} layers of {} experts, {} a token",
        config.architecture,
        human_count(facts.parameters),
        human_count(facts.active_parameters),
        config.num_hidden_layers,
        config.num_experts(),
        config.num_experts_per_tok(),
    );
    let capabilities = model.backend.capabilities();
    let _ = writeln!(
        lines,
        "  runs on   {}: {}",
        capabilities.name, capabilities.description
    );
    lines.push_str(&memory_sum(model, &facts));
    lines
}

fn place(model: &PreparedModel) -> String {
    let folder = model.folder.display();
    match (&model.settings.location, model.is_temporary()) {
        (ModelLocation::Embedded, false) => format!("embedded, unpacked in {folder}"),
        (ModelLocation::Embedded, true) => {
            format!(
                "embedded, unpacked for this run in {folder} (the cache folder cannot be written)"
            )
        }
        (ModelLocation::Store(_), _) => format!("from {folder}"),
        (ModelLocation::HuggingFace(source) | ModelLocation::Gguf(source), _) => {
            format!("from {}, converted in {folder}", source.display())
        }
    }
}

fn memory_sum(model: &PreparedModel, facts: &ModelFacts) -> String {
    let plan = &model.plan;
    let config = &model.engine_config;
    let format = match config.kv_format {
        KvFormat::F16 => "f16",
        KvFormat::F32 => "f32",
    };
    let slots = Catalog::new(&model.manifest).slots(model.budget.bytes);
    let in_memory: usize = slots.map_or(0, |layout| {
        layout.classes().iter().map(|class| class.slots).sum()
    });
    let notes = [
        "resident weights".to_owned(),
        format!(
            "{} tokens in {format}, {} sequences at once",
            config.kv_blocks * config.kv_block_tokens,
            config.max_running
        ),
        format!(
            "{in_memory} of {} experts, {:.0} %: {}",
            facts.expert_count, model.budget.percent, model.budget.reason
        ),
        format!(
            "activations of {} prompt tokens at once",
            config.prefill_chunk_tokens
        ),
        "the program, its threads, tokenizer and connections".to_owned(),
    ];
    let terms = [
        ("base", plan.base),
        ("KV cache", plan.kv),
        ("experts", plan.experts),
        ("scratch", plan.scratch),
        ("overhead", plan.overhead),
    ];
    let mut lines = String::new();
    for (place, ((name, bytes), note)) in terms.iter().zip(notes).enumerate() {
        let (label, sign) = if place == 0 {
            ("memory", ' ')
        } else {
            ("", '+')
        };
        let _ = writeln!(
            lines,
            "  {label:<8}{sign} {name:<9} {:>10}  {note}",
            bytes.to_string()
        );
    }
    let _ = writeln!(
        lines,
        "  memory    in all  = {:>10}",
        plan.total().to_string()
    );
    let _ = writeln!(lines, "  limit     {}", limit_line(model, plan.total()));
    lines
}

fn limit_line(model: &PreparedModel, total: ByteCount) -> String {
    match &model.settings.memory_limit {
        None => "none is known".to_owned(),
        Some(limit) => {
            let share = total.0 as f64 * 100.0 / limit.bytes.0.max(1) as f64;
            format!(
                "{}: {}; {share:.0} % of it are planned for",
                limit.bytes, limit.source
            )
        }
    }
}

/// A command that asks the served model something.
pub fn curl_line(base_url: &str, name: &str, has_template: bool, needs_key: bool) -> String {
    let key = if needs_key {
        " -H \"Authorization: Bearer $ODMOE_API_KEY\""
    } else {
        ""
    };
    let name = serde_json::Value::from(name)
        .to_string()
        .replace('\'', "'\\''");
    let (route, asked) = if has_template {
        (
            "chat/completions",
            "\"messages\":[{\"role\":\"user\",\"content\":\"What does a rabbit eat?\"}]",
        )
    } else {
        ("completions", "\"prompt\":\"Once upon a time\"")
    };
    format!(
        "curl -N {base_url}/v1/{route} -H 'Content-Type: application/json'{key} -d '{{\"model\":{name},{asked},\"stream\":true}}'"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_said_in_words() {
        for (count, text) in [
            (999, "999"),
            (22_204_032, "22.2 M"),
            (30_532_122_624, "30.5 B"),
            (98_304, "98.3 thousand"),
        ] {
            assert_eq!(human_count(count), text);
        }
    }

    #[test]
    fn the_curl_line_survives_a_shell() {
        let line = curl_line("http://127.0.0.1:8000", "it's \"mine\"", true, true);
        assert!(line.contains(r#"it'\''s \"mine\""#), "{line}");
        assert!(line.contains("Bearer $ODMOE_API_KEY") && line.contains("/v1/chat/completions"));
        assert!(curl_line("http://h", "m", false, false).contains("/v1/completions"));
    }
}
