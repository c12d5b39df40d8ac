//! What is printed before a model starts: what it is, where it is, and the memory sum.

use crate::model::facts::ModelFacts;
use crate::model::locate::ModelLocation;
use crate::model::open::PreparedModel;
use odmoe_formats::ByteCount;
use odmoe_formats::model_config::ModelConfig;
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
        "            {}: {} parameters, {} of them used by a token; {}",
        config.architecture,
        human_count(facts.parameters),
        human_count(facts.active_parameters),
        layers(config),
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

/// What the layers are: `48 layers of 128 experts, 8 a token`.
pub fn layers(config: &ModelConfig) -> String {
    let all = config.num_hidden_layers;
    let Some(moe) = &config.moe else {
        return format!("{all} dense layers, no experts");
    };
    let sparse = match config.sparse_layers() {
        sparse if sparse == all => format!("{all} layers"),
        sparse => format!("{all} layers, {sparse} of them"),
    };
    let shared = match moe.shared_expert_intermediate_size {
        0 => "",
        _ => " and a shared one",
    };
    let (experts, chosen) = (moe.num_experts, moe.num_experts_per_tok);
    format!("{sparse} of {experts} experts{shared}, {chosen} a token")
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
    let format = config.kv_format.name();
    let catalog = model.catalog();
    let slots = catalog.slots(model.budget.bytes);
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
        match facts.expert_count {
            0 => model.budget.reason.clone(),
            all => format!(
                "{in_memory} of {all} experts, {:.0} %: {}{}",
                model.budget.percent,
                model.budget.reason,
                match catalog.kept().len() {
                    0 => String::new(),
                    pinned => format!("; {pinned} are pinned"),
                }
            ),
        },
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
    use odmoe_formats::model_config::MoeConfig;

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
    fn layers_are_said_as_they_are() {
        let mut config = config();
        assert_eq!(layers(&config), "4 layers of 8 experts, 2 a token");
        let moe = config.moe.as_mut().unwrap();
        moe.dense_layers = vec![0];
        moe.shared_expert_intermediate_size = 64;
        assert_eq!(
            layers(&config),
            "4 layers, 3 of them of 8 experts and a shared one, 2 a token"
        );
        config.moe = None;
        assert_eq!(layers(&config), "4 dense layers, no experts");
    }

    fn config() -> ModelConfig {
        ModelConfig {
            architecture: "qwen2moe".into(),
            num_hidden_layers: 4,
            hidden_size: 64,
            num_attention_heads: 4,
            num_key_value_heads: 2,
            head_dim: 16,
            vocab_size: 40,
            rms_norm_eps: 1e-6,
            rope_theta: 10_000.0,
            max_position_embeddings: 128,
            tie_word_embeddings: false,
            intermediate_size: 0,
            attention_bias: false,
            rope_frequency_divisors: Vec::new(),
            moe: Some(MoeConfig {
                num_experts: 8,
                num_experts_per_tok: 2,
                moe_intermediate_size: 32,
                norm_topk_prob: true,
                dense_layers: Vec::new(),
                shared_expert_intermediate_size: 0,
            }),
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
