//! Every format, whole and cut in every way.

use super::*;
use serde_json::{Value, json};

fn tools() -> Vec<ToolSpec> {
    let tool = |name: &str, properties: Value| ToolSpec {
        name: name.into(),
        parameters: json!({"type": "object", "properties": properties}),
    };
    vec![
        tool(
            "weather",
            json!({"city": {"type": "string"}, "days": {"type": "integer"}}),
        ),
        tool("now", json!({})),
    ]
}

fn format(calls: CallFormat) -> OutputFormat {
    let source = match calls {
        CallFormat::Mistral { .. } => "[/THINK]",
        CallFormat::Channels => "",
        _ => "</think>",
    };
    let format = OutputFormat {
        calls: Some(calls),
        ..OutputFormat::of_template(source)
    };
    format.with_tools(tools())
}

fn read(format: &OutputFormat, pieces: &[&str]) -> OutputMessage {
    let mut parser = OutputParser::new(format, 7);
    let mut parts = Vec::new();
    for piece in pieces {
        parts.extend(parser.push(piece));
    }
    parts.extend(parser.finish());
    for part in &parts {
        let text = match part {
            OutputPart::Content(text) | OutputPart::Reasoning(text) => text,
            OutputPart::Arguments { text, .. } => text,
            OutputPart::ToolCall { name, .. } => name,
        };
        assert!(!text.is_empty(), "an empty part in {parts:?}");
    }
    let indices = parts.iter().filter_map(|part| match part {
        OutputPart::ToolCall { index, .. } => Some(*index as usize),
        _ => None,
    });
    assert!(indices.eq(0..indices_of_calls(&parts)), "{parts:?}");
    parts.into_iter().collect()
}

fn indices_of_calls(parts: &[OutputPart]) -> usize {
    let is_call = |part: &&OutputPart| matches!(part, OutputPart::ToolCall { .. });
    parts.iter().filter(is_call).count()
}

/// Reads `text` whole, cut in two everywhere, and by characters: always the same.
fn check(format: &OutputFormat, text: &str, reasoning: &str, content: &str, calls: Value) {
    let whole = read(format, &[text]);
    let called: Vec<Value> = whole
        .tool_calls
        .iter()
        .map(|call| {
            let arguments = serde_json::from_str::<Value>(&call.arguments);
            json!([
                call.name,
                arguments.unwrap_or(Value::from(call.arguments.as_str()))
            ])
        })
        .collect();
    assert_eq!(whole.reasoning, reasoning, "{text:?}");
    assert_eq!(whole.content, content, "{text:?}");
    assert_eq!(Value::from(called), calls, "{text:?}");
    for cut in (0..=text.len()).filter(|cut| text.is_char_boundary(*cut)) {
        let cut_once = read(format, &[&text[..cut], &text[cut..]]);
        assert_eq!(cut_once, whole, "{text:?} cut at {cut}");
    }
    let single: Vec<String> = text.chars().map(String::from).collect();
    let single: Vec<&str> = single.iter().map(String::as_str).collect();
    assert_eq!(read(format, &single), whole, "{text:?} by characters");
}

#[test]
fn plain_text_is_content_to_the_last_blank() {
    let plain = OutputFormat::default();
    for text in ["", " a <tool_call> b \n", "<think>x</think>"] {
        check(&plain, text, "", text, json!([]));
    }
    // Without tools in the request, marks of calls are text.
    let hermes = format(CallFormat::Hermes).with_tools(Vec::new());
    let text = "say <tool_call>{\"name\": \"now\"}</tool_call>\n";
    check(&hermes, text, "", text, json!([]));
}

#[test]
fn thoughts_are_told_from_content() {
    let format = OutputFormat::of_template("{{ '</think>' }}");
    check(
        &format,
        "<think>\na\u{e9}b\n</think>\n\nhello\n",
        "a\u{e9}b",
        "hello\n",
        json!([]),
    );
    check(&format, "\n<think>a", "a", "", json!([]));
    check(&format, "a <think> b", "", "a <think> b", json!([]));
    check(&format, "<thin", "", "<thin", json!([]));
    let inside = format
        .clone()
        .after_prompt("user\nhi\nassistant\n<think>\n");
    check(
        &inside,
        "hm </thin </think>yes",
        "hm </thin",
        "yes",
        json!([]),
    );
    let after = format.after_prompt("assistant\n<think>\n\n</think>\n\n");
    check(&after, "<think>a", "", "<think>a", json!([]));
}

#[test]
fn hermes_calls() {
    let hermes = format(CallFormat::Hermes);
    check(
        &hermes,
        "<think>go</think>Let me see.\n\n<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"a}\\\"{\u{e9}\", \"days\": [1]}}\n</tool_call>\n\
         <tool_call>{\"arguments\": {\"x\": 1}, \"name\": \"other\"}</tool_call>\n<tool_call>{\"name\": \"now\"}}</tool_call> ok ",
        "go",
        "Let me see.ok ",
        json!([["weather", {"city": "a}\"{\u{e9}", "days": [1]}], ["other", {"x": 1}], ["now", {}]]),
    );
    check(
        &hermes,
        "<tool_call>{\"name\": \"now\", \"arguments\": \"{\\\"x\\\": 1}\", \"id\": 7}</tool_call>",
        "",
        "",
        json!([["now", {"x": 1}]]),
    );
}

#[test]
fn what_is_no_call_is_content() {
    let hermes = format(CallFormat::Hermes);
    for text in [
        "<tool_call>{\"nam",
        "<tool_call>{\"colour\": 1}</tool_call>x",
        "<tool_call>none</tool_call>",
        "<tool_call>{\"name\": 7}",
        "a <tool",
        "<tool_call>{}",
    ] {
        check(&hermes, text, "", text, json!([]));
    }
    for text in [
        "{\"answer\": 4}",
        "{\"name\": \"unknown\"}",
        "[1, 2]",
        "{",
        "hello {",
    ] {
        check(&format(CallFormat::Llama3), text, "", text, json!([]));
        check(&format(CallFormat::Pythonic), text, "", text, json!([]));
    }
    for text in [
        "[weather(5)]",
        "[unknown(a=1)]",
        "[weather(city=\"a]",
        "[weather city]",
    ] {
        check(&format(CallFormat::Pythonic), text, "", text, json!([]));
    }
}

#[test]
fn a_call_that_was_cut_short_stays_one() {
    let text = "<tool_call>{\"name\": \"weather\", \"arguments\": {\"city\": \"Ro";
    check(
        &format(CallFormat::Hermes),
        text,
        "",
        "",
        json!([["weather", "{\"city\": \"Ro"]]),
    );
    let text = "<tool_call>{\"name\": \"weather\", ";
    check(
        &format(CallFormat::Hermes),
        text,
        "",
        "",
        json!([["weather", ""]]),
    );
}

#[test]
fn qwen_coder_calls() {
    let xml = format(CallFormat::Xml);
    check(
        &xml,
        "I look.\n<tool_call>\n<function=weather>\n<parameter=city>\nNew \"York\"\n</p>\n</parameter>\n<parameter=days>\n3\n</parameter>\n\
         </function>\n</tool_call>\n<function=now>\n</function>",
        "",
        "I look.",
        json!([["weather", {"city": "New \"York\"\n</p>", "days": 3}], ["now", {}]]),
    );
    check(
        &xml,
        "<tool_call><function=weather><parameter=days>many</parameter><parameter=new>5</parameter></function></tool_call>",
        "",
        "",
        json!([["weather", {"days": "many", "new": "5"}]]),
    );
    let text = "<tool_call>\n<function=\n>";
    check(&xml, text, "", text, json!([]));
}

#[test]
fn mistral_calls() {
    let mistral = format(CallFormat::Mistral { by_name: true });
    check(
        &mistral,
        "[THINK]hm[/THINK][TOOL_CALLS] [{\"name\": \"weather\", \"arguments\": {\"city\": \"Rome\"}}, {\"name\": \"now\", \"arguments\": {}}]",
        "hm",
        "",
        json!([["weather", {"city": "Rome"}], ["now", {}]]),
    );
    check(
        &mistral,
        "ok[TOOL_CALLS]weather[CALL_ID]abc[ARGS]{\"city\": \"[Rome]\"}[TOOL_CALLS]now{}",
        "",
        "ok",
        json!([["weather", {"city": "[Rome]"}], ["now", {}]]),
    );
    let ids = read(&mistral, &["[TOOL_CALLS]now{}[TOOL_CALLS]now{}"]).tool_calls;
    assert!(ids.iter().all(|call| call.id.len() == 9), "{ids:?}");
    assert_ne!(ids[0].id, ids[1].id);
}

#[test]
fn llama_calls() {
    let llama = format(CallFormat::Llama3);
    check(
        &llama,
        "\n{\"name\": \"weather\", \"parameters\": {\"city\": \"Rome\"}}; {\"name\": \"now\", \"parameters\": {}}",
        "",
        "",
        json!([["weather", {"city": "Rome"}], ["now", {}]]),
    );
    check(
        &llama,
        "<|python_tag|>{\"type\": \"function\", \"name\": \"brave\", \"parameters\": {}}",
        "",
        "",
        json!([["brave", {}]]),
    );
    check(
        &llama,
        "Hello {\"name\": \"now\"}",
        "",
        "Hello {\"name\": \"now\"}",
        json!([]),
    );
}

#[test]
fn pythonic_calls() {
    let expected = json!([
        ["weather", {"city": "it's (a)\n\u{e9}", "days": -3, "more": [1.5, {"k": null}, true]}],
        ["now", {}]
    ]);
    let calls =
        "[weather(city='it\\'s (a)\\n\u{e9}', days=-3, more=[1.5, {\"k\": None}, True]), now()]";
    check(
        &format(CallFormat::Pythonic),
        calls,
        "",
        "",
        expected.clone(),
    );
    let tagged = format(CallFormat::TaggedPythonic {
        open: "<function_calls>",
        close: "</function_calls>",
    });
    let lines = calls[1..calls.len() - 1].replace("), ", ")\n");
    let text = format!("Well.\n<function_calls>\n{lines}\n</function_calls>");
    check(&tagged, &text, "", "Well.", expected);
}

#[test]
fn channels() {
    let channels = format(CallFormat::Channels);
    check(
        &channels,
        "<|channel|>analysis<|message|>I think.<|end|><|start|>assistant<|channel|>commentary<|message|>One moment.<|end|>\
         <|start|>assistant<|channel|>commentary to=functions.weather <|constrain|>json<|message|>{\"city\": \"Rome\"}<|call|>",
        "I think.",
        "One moment.",
        json!([["weather", {"city": "Rome"}]]),
    );
    check(
        &channels,
        " to=functions.now<|channel|>commentary json<|message|>{}<|call|>",
        "",
        "",
        json!([["now", {}]]),
    );
    check(
        &channels,
        "<|channel|>final<|message|>Hello!\n",
        "",
        "Hello!\n",
        json!([]),
    );
    check(&channels, "Hello <|x|>", "", "Hello <|x|>", json!([]));
}

#[test]
fn ids_differ_from_seed_to_seed_and_call_to_call() {
    let text = "<tool_call>{\"name\": \"now\"}</tool_call>".repeat(2);
    let ids = (0..100u128).flat_map(|seed| {
        let mut parser = OutputParser::new(&format(CallFormat::Hermes), seed << 20);
        let mut parts = parser.push(&text);
        parts.extend(parser.finish());
        let message: OutputMessage = parts.into_iter().collect();
        message.tool_calls.into_iter().map(|call| call.id)
    });
    let mut ids: Vec<String> = ids.collect();
    assert!(
        ids.iter()
            .all(|id| id.len() == 29 && id.starts_with("call_"))
    );
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 200);
}
