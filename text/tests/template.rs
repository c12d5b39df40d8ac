//! Chat templates over the constructs that public ones use.

use odmoe_text::{ChatTemplate, RenderOptions, TemplateError};
use serde_json::{Value, json};
use std::collections::BTreeMap;

fn compile(source: &str) -> ChatTemplate {
    let special = BTreeMap::from([
        ("bos_token".to_owned(), "<s>".to_owned()),
        ("eos_token".to_owned(), "</s>".to_owned()),
    ]);
    ChatTemplate::compile(source, &special).unwrap()
}

#[track_caller]
fn check(source: &str, messages: Value, expected: &str) {
    let options = RenderOptions {
        add_generation_prompt: true,
        ..RenderOptions::default()
    };
    assert_eq!(
        compile(source).render(&messages, &options).unwrap(),
        expected
    );
}

fn hello() -> Value {
    json!([{"role": "user", "content": "Hello"}])
}

#[test]
fn chatml() {
    let source = "\
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
";
    check(
        source,
        hello(),
        "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n",
    );
}

#[test]
fn blocks_are_trimmed_as_transformers_sets_it() {
    check(
        "a\n  {% if true %}\nb\n  {% endif %}\nc\n",
        json!([]),
        "a\nb\nc",
    );
}

#[test]
fn special_tokens_namespace_loop_controls_and_python_methods() {
    check("{{ bos_token }}{{ eos_token }}", json!([]), "<s></s>");
    check(
        "{% set ns = namespace(n=0) %}{% for m in messages %}{% if m.role == 'tool' %}{% continue %}{% endif %}\
         {% if m.role == 'end' %}{% break %}{% endif %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}",
        json!([{"role": "user"}, {"role": "tool"}, {"role": "user"}, {"role": "end"}, {"role": "user"}]),
        "2",
    );
    check(
        "{{ messages[0].content.strip().split('</think>')[-1].lstrip('\\n') }}|{{ messages[::-1][0].role.upper() }}|\
         {{ messages[0].get('name', 'nobody') }}|{{ messages[0].items() | list | length }}|\
         {{ messages[0].content.startswith(' ') }}",
        json!([{"role": "user", "content": " <think>x</think>\n\nyes "}]),
        "yes|USER|nobody|2|True",
    );
    check(
        "{{ tools is iterable }} {{ messages is iterable }} {{ 'x' is iterable }}",
        hello(),
        "False True True",
    );
    check(
        "{{ messages[0].content is defined }} {{ none }} {{ documents is none }}",
        hello(),
        "True None True",
    );
}

#[test]
fn tojson_is_pythons() {
    let call = json!([{"b": {"x": [1, 2.0, null, true]}, "a": "caf\u{e9} <'&>"}]);
    check(
        "{{ messages[0] | tojson }}",
        call.clone(),
        "{\"b\": {\"x\": [1, 2.0, null, true]}, \"a\": \"caf\u{e9} <'&>\"}",
    );
    check(
        "{{ messages[0].b | tojson(indent=2) }}",
        call.clone(),
        "{\n  \"x\": [\n    1,\n    2.0,\n    null,\n    true\n  ]\n}",
    );
    check(
        "{{ messages[0].b | tojson(separators=(',', ':')) }}",
        call.clone(),
        "{\"x\":[1,2.0,null,true]}",
    );
    check(
        "{{ messages[0].a | tojson(ensure_ascii=true) }}",
        call,
        "\"caf\\u00e9 <'&>\"",
    );
}

#[test]
fn the_clock_is_an_argument() {
    let options = RenderOptions {
        now_unix_s: Some(1_732_190_400),
        ..RenderOptions::default()
    };
    let text = compile("{{ strftime_now('%d %b %Y') }}")
        .render(&json!([]), &options)
        .unwrap();
    assert_eq!(text, "21 Nov 2024");
}

#[test]
fn tools_and_extra_variables_arrive_and_cannot_replace_the_messages() {
    let extra = json!({"enable_thinking": false, "bos_token": "<b>", "messages": "mine"});
    let options = RenderOptions {
        tools: Some(json!([{"type": "function"}])),
        extra: extra.as_object().unwrap().clone(),
        ..RenderOptions::default()
    };
    let source = "{{ bos_token }}{{ enable_thinking }}{{ tools[0].type }}{{ messages[0].content }}{{ add_generation_prompt }}";
    assert_eq!(
        compile(source).render(&hello(), &options).unwrap(),
        "<b>FalsefunctionHelloFalse"
    );
}

#[test]
fn training_marks_are_passed_over() {
    let source = "x {%- generation -%} {{ messages[0].content }} {%- endgeneration +%} {%%}";
    assert!(
        ChatTemplate::compile(source, &BTreeMap::new()).is_err(),
        "an empty tag is an error, not a panic"
    );
    check(
        "x {%- generation -%} {{ messages[0].content }} {%- endgeneration %} y",
        hello(),
        "xHello y",
    );
}

#[test]
fn a_template_that_refuses_is_heard_in_its_own_words() {
    let source = "{% macro must(m) %}{% if m.role != 'system' %}{{ raise_exception('System first, please.') }}{% endif %}{% endmacro %}{{ must(messages[0]) }}";
    let error = compile(source)
        .render(&hello(), &RenderOptions::default())
        .unwrap_err();
    assert_eq!(
        error,
        TemplateError::Rejected("System first, please.".into())
    );
    assert_eq!(error.to_string(), "System first, please.");
}

#[test]
fn failures_name_the_line() {
    let error = ChatTemplate::compile("a\n{% if %}", &BTreeMap::new()).unwrap_err();
    assert!(
        matches!(&error, TemplateError::Compile(text) if text.contains("line 2")),
        "{error}"
    );
    let error = compile("a\nb\n{{ messages[0].content.nothing.at_all }}")
        .render(&hello(), &RenderOptions::default());
    assert!(
        matches!(&error, Err(TemplateError::Render(text)) if text.contains("line 3")),
        "{error:?}"
    );
}

#[test]
fn work_output_and_depth_are_bounded() {
    let render = |source: &str, messages: &Value| {
        compile(source)
            .render(messages, &RenderOptions::default())
            .unwrap_err()
    };
    let endless = "{% for a in range(9999) %}{% for b in range(9999) %}{% for c in range(9999) %}{% endfor %}{% endfor %}{% endfor %}";
    assert!(matches!(
        render(endless, &json!([])),
        TemplateError::TooMuchWork(_)
    ));
    let flood = "{% for a in range(9999) %}{{ 'x' * 99999 }}{% endfor %}";
    assert!(matches!(
        render(flood, &json!([])),
        TemplateError::TooLong(_)
    ));
    let recursive = "{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}";
    assert!(matches!(
        render(recursive, &json!([])),
        TemplateError::Render(_)
    ));
    let deep = (0..1000).fold(json!(1), |inner, _| json!([inner]));
    assert!(matches!(
        render("{{ messages }}", &deep),
        TemplateError::Render(_)
    ));
    assert!(ChatTemplate::compile(&"x".repeat(2 << 20), &BTreeMap::new()).is_err());
}
