//! Chat templates of public families render as `transformers` renders them (`oracle/templates`). `.ci/run` runs this with
//! the folder of templates that ODMOE_FIXTURES names.
#![cfg(feature = "fixtures")]

use odmoe_tests::golden::read_json;
use odmoe_tests::workspace::root;
use odmoe_text::output::{CallFormat, OutputFormat};
use odmoe_text::{ChatTemplate, RenderOptions, TemplateError};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::PathBuf;

struct Oracle {
    said: Value,
    expected: Map<String, Value>,
    special_tokens: BTreeMap<String, String>,
}

impl Oracle {
    fn read() -> Self {
        let folder = root().join("tests/oracle/templates");
        let said = read_json(&folder.join("conversations.json"));
        let expected = read_json(&folder.join("expected.json"));
        let special_tokens = serde_json::from_value(said["special_tokens"].clone()).unwrap();
        Self {
            expected: expected["templates"]
                .as_object()
                .expect("templates")
                .clone(),
            said,
            special_tokens,
        }
    }

    fn render(&self, source: &str, name: &str) -> Result<String, TemplateError> {
        let conversation = &self.said["conversations"][name];
        let mut variables = conversation["options"]
            .as_object()
            .expect("options")
            .clone();
        let options = RenderOptions {
            tools: variables.shift_remove("tools"),
            add_generation_prompt: variables
                .shift_remove("add_generation_prompt")
                .is_none_or(|given| given == true),
            extra: variables,
            now_unix_s: self.said["now_unix_s"].as_u64(),
        };
        let template = ChatTemplate::compile(source, &self.special_tokens).expect(name);
        template.render(&conversation["messages"], &options)
    }
}

#[test]
fn templates_render_as_transformers_renders_them() {
    let fixtures = std::env::var_os("ODMOE_FIXTURES").expect("ODMOE_FIXTURES names the fixtures");
    let folder = PathBuf::from(fixtures).join("templates");
    let oracle = Oracle::read();
    let mut differ = Vec::new();
    for (template, texts) in &oracle.expected {
        let path = folder.join(format!("{template}.jinja"));
        let source = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path:?}: {e}"));
        for (name, expected) in texts.as_object().expect("texts") {
            // Where the reference refuses, ours may be more lenient.
            let rendered = oracle.render(&source, name);
            if expected.is_null() {
                continue;
            }
            let digest = |text: &String| hexadecimal(&Sha256::digest(text.as_bytes()));
            if rendered.as_ref().map(digest).ok().as_deref() != expected["sha256"].as_str() {
                differ.push(format!(
                    "{template}, {name}: {rendered:?}\nexpected: {expected}"
                ));
            }
        }
    }
    let found = std::fs::read_dir(&folder).expect("templates").count();
    assert_eq!(
        found,
        oracle.expected.len(),
        "make_templates.py has to be run again"
    );
    assert!(differ.is_empty(), "{}", differ.join("\n\n"));
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn templates_show_how_their_models_word_calls() {
    let fixtures = std::env::var_os("ODMOE_FIXTURES").expect("ODMOE_FIXTURES names the fixtures");
    let folder = PathBuf::from(fixtures).join("templates");
    let expected = [
        ("GLM-4.6", None, true),
        ("Kimi-K2-Instruct", None, false),
        ("MiniMax-M2", None, true),
        (
            "Mistral-Small-3.2-24B-Instruct-2506",
            Some(CallFormat::Mistral { by_name: true }),
            false,
        ),
        (
            "NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use",
            Some(CallFormat::Hermes),
            false,
        ),
        ("Qwen-Qwen3-0.6B", Some(CallFormat::Hermes), true),
        ("Qwen3-Coder", Some(CallFormat::Xml), false),
        ("Qwen3.5-4B", Some(CallFormat::Xml), true),
        ("deepseek-ai-DeepSeek-V3.1", None, true),
        ("ibm-granite-granite-4.0", Some(CallFormat::Hermes), false),
        (
            "meta-llama-Llama-3.1-8B-Instruct",
            Some(CallFormat::Llama3),
            false,
        ),
        ("openai-gpt-oss-120b", Some(CallFormat::Channels), false),
    ];
    for (template, calls, thinks) in expected {
        let path = folder.join(format!("{template}.jinja"));
        let format = OutputFormat::of_template(&std::fs::read_to_string(path).unwrap());
        assert_eq!(
            (format.calls, format.reasoning.is_some()),
            (calls, thinks),
            "{template}"
        );
    }
}
