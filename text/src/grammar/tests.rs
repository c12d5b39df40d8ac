//! Texts are walked byte by byte through the masks.

use super::*;
use crate::output::{CallFormat, OutputFormat, OutputParser, ToolSpec};
use serde_json::{Map, Value, json};

const END: u32 = 256;
/// Bytes, an end, and special tokens beyond it.
const SPECIAL: [&str; 6] = [
    "<|end_of_text|>",
    "[TOOL_CALLS]",
    "<|channel|>",
    "<|message|>",
    "<|end|>",
    "<|start|>",
];

fn tokenizer() -> Tokenizer {
    let prints = |b: u8| matches!(b, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    let letter = |byte: u8| {
        let before = (0..byte).filter(|b| !prints(*b)).count() as u32;
        if prints(byte) {
            char::from(byte)
        } else {
            char::from_u32(256 + before).unwrap()
        }
    };
    let vocabulary: Map<_, _> = (0..=255u8)
        .map(|byte| (letter(byte).to_string(), json!(byte)))
        .collect();
    let special = |(at, text): (usize, &&str)| {
        json!({"id": END as usize + at, "content": text, "special": true, "single_word": false,
               "lstrip": false, "rstrip": false, "normalized": false})
    };
    let added: Vec<Value> = SPECIAL.iter().enumerate().map(special).collect();
    let bytes = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
    let file = json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "added_tokens": added,
        "pre_tokenizer": bytes, "post_processor": null, "decoder": bytes,
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                  "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
                  "vocab": vocabulary, "merges": []},
    });
    Tokenizer::from_json(file.to_string().as_bytes()).unwrap()
}

struct Bench {
    tokenizer: Tokenizer,
    compiler: GrammarCompiler,
}

impl Bench {
    fn new() -> Self {
        let tokenizer = tokenizer();
        // Two rows of the output head have no token.
        let rows = tokenizer.vocabulary_size() + 2;
        let compiler = GrammarCompiler::new(&tokenizer, rows, &[END]).unwrap();
        Self {
            tokenizer,
            compiler,
        }
    }

    fn answer(&self, body: GrammarBody) -> AnswerGrammar {
        AnswerGrammar::new(body, OutputFormat::default(), &self.tokenizer)
    }

    fn compile(&self, grammar: &AnswerGrammar) -> CompiledGrammar {
        self.compiler
            .compile(grammar)
            .unwrap_or_else(|error| panic!("{error}: {grammar:?}"))
    }

    /// How many bytes of `text` are allowed, and whether the answer may end there.
    fn walk(&self, grammar: &CompiledGrammar, text: &str) -> (usize, bool) {
        self.try_walk(grammar, text).unwrap()
    }

    fn try_walk(
        &self,
        grammar: &CompiledGrammar,
        text: &str,
    ) -> Result<(usize, bool), GrammarError> {
        let mut matcher = grammar.begin();
        let mut walked = 0;
        for token in self.tokenizer.encode(text, false).unwrap() {
            if !try_allows(&mut matcher, token)? {
                return Ok((walked, false));
            }
            walked += self.tokenizer.token_bytes(token).len();
            if matcher.accept(token)? {
                return Ok((walked, true));
            }
        }
        Ok((walked, try_allows(&mut matcher, END)?))
    }

    fn check(&self, grammar: &AnswerGrammar, good: &[&str], bad: &[&str]) {
        let compiled = self.compile(grammar);
        for text in good {
            assert_eq!(self.walk(&compiled, text), (text.len(), true), "{text}");
        }
        for text in bad {
            assert_ne!(self.walk(&compiled, text), (text.len(), true), "{text}");
        }
    }
}

fn allows(matcher: &mut GrammarMatcher, token: u32) -> bool {
    try_allows(matcher, token).unwrap()
}

fn try_allows(matcher: &mut GrammarMatcher, token: u32) -> Result<bool, GrammarError> {
    let mut is_allowed = false;
    let take = |words: &[u32]| {
        let word = words.get(token as usize / 32).copied().unwrap_or(0);
        is_allowed = word >> (token % 32) & 1 == 1;
    };
    matcher.allowed(take)?;
    Ok(is_allowed)
}

#[test]
fn bodies_bind_the_text() {
    let bench = Bench::new();
    let person = json!({
        "type": "object", "required": ["name", "age"], "additionalProperties": false,
        "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 0},
                       "kind": {"oneOf": [{"const": "a"}, {"const": "b"}]}},
    });
    bench.check(
        &bench.answer(GrammarBody::JsonSchema(person)),
        &[
            "{\"name\": \"\u{e9}\", \"age\": 3}",
            "{\n  \"name\":\"\",\"age\":0, \"kind\": \"b\"}",
        ],
        &[
            "{\"age\": 3}",
            "{\"name\": \"a\", \"age\": -1}",
            "[]",
            "{\"name\": \"a\", \"age\": 1, \"x\": 1}",
            "x",
        ],
    );
    bench.check(
        &bench.answer(GrammarBody::json_object()),
        &["{}", "{\"a\": [1, {\"b\": null}]}"],
        &["[]", "1", "", "{", "{\"a\"}"],
    );
    bench.check(
        &bench.answer(GrammarBody::Regex("(yes|no)/[0-9]{2}".into())),
        &["yes/07", "no/99"],
        &["yes", "maybe", "yes/077", "yes/7"],
    );
    bench.check(
        &bench.answer(GrammarBody::Lark("start: \"a\" start \"b\" | \"c\"".into())),
        &["c", "aacbb"],
        &["aacb", "ab"],
    );
}

#[test]
fn blanks_cannot_go_on_for_ever() {
    let bench = Bench::new();
    let compiled = bench.compile(&bench.answer(GrammarBody::json_object()));
    let text = format!("{{{}", " ".repeat(1000));
    assert!(bench.walk(&compiled, &text).0 < 100);
}

#[test]
fn answers_of_one_grammar_do_not_touch_each_other() {
    let bench = Bench::new();
    let compiled = bench.compile(&bench.answer(GrammarBody::Regex("ab|cd".into())));
    let (mut one, mut other) = (compiled.begin(), compiled.begin());
    assert!(!one.accept(u32::from(b'a')).unwrap());
    assert!(allows(&mut other, u32::from(b'c')));
    assert!(!allows(&mut one, u32::from(b'd')));
    assert!(one.accept(u32::from(b'b')).unwrap(), "nothing can follow");
}

#[test]
fn an_answer_may_think_before_it_is_bound() {
    let bench = Bench::new();
    let thinking = OutputFormat::of_template("</think>");
    let json = GrammarBody::json_object;
    let answer = |format| AnswerGrammar::new(json(), format, &bench.tokenizer);
    let good = "<think>\nwhat {[ \u{e9} </thin \n</think>\n\n{\"a\": 1}";
    bench.check(
        &answer(thinking.clone()),
        &[good, "{}"],
        &["<think>{}", "well {}"],
    );
    let inside = thinking.clone().after_prompt("<think>\n");
    bench.check(&answer(inside), &["hm</think>{}", "</think>{}"], &["{}"]);
    let after = thinking.after_prompt("</think>\n\n");
    bench.check(&answer(after), &["{}"], &[good]);
    let channels = OutputFormat::of_template("<|channel|><|message|>");
    bench.check(
        &answer(channels),
        &[
            "<|channel|>final<|message|>{}",
            "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>{}",
        ],
        &["{}", "<|channel|>analysis<|message|>hm"],
    );
}

fn tools() -> Vec<ToolSpec> {
    let weather = json!({
        "type": "object", "required": ["city"], "additionalProperties": false,
        "properties": {"days": {"type": "integer"}, "city": {"type": "string"},
                       "unit": {"type": "string", "enum": ["C", "F"]}},
    });
    let tool = |name: &str, parameters| ToolSpec {
        name: name.into(),
        parameters,
    };
    vec![
        tool("weather", weather),
        tool("now", json!({"type": "object", "properties": {}})),
    ]
}

/// Every good text is allowed, and read as calls of the names given.
fn check_calls(calls: CallFormat, good: &[(&str, &[&str])], bad: &[&str]) {
    let bench = Bench::new();
    let format = OutputFormat {
        calls: Some(calls),
        ..OutputFormat::default()
    };
    let format = format.with_tools(tools());
    let answer = AnswerGrammar::new(GrammarBody::Calls, format.clone(), &bench.tokenizer);
    let texts: Vec<&str> = good.iter().map(|(text, _)| *text).collect();
    bench.check(&answer, &texts, bad);
    for (text, names) in good {
        let mut parser = OutputParser::new(&format, 1);
        let mut message: crate::output::OutputMessage = parser.push(text).into_iter().collect();
        message.extend(parser.finish());
        let called: Vec<&str> = message
            .tool_calls
            .iter()
            .map(|call| call.name.as_str())
            .collect();
        assert_eq!(
            (called.as_slice(), message.content.as_str()),
            (*names, ""),
            "{text}"
        );
        for call in message.tool_calls {
            let arguments: Value = serde_json::from_str(&call.arguments).unwrap();
            assert!(arguments.is_object(), "{text}");
        }
    }
    let single = AnswerGrammar {
        several_calls: false,
        ..answer
    };
    let compiled = bench.compile(&single);
    for (text, names) in good {
        assert_eq!(
            bench.walk(&compiled, text) == (text.len(), true),
            names.len() == 1,
            "{text}"
        );
    }
}

#[test]
fn forced_calls_are_in_the_words_that_the_reader_knows() {
    check_calls(
        CallFormat::Hermes,
        &[
            (
                "<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Rome\"}}\n</tool_call>",
                &["weather"],
            ),
            (
                "<tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n</tool_call>\n<tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n</tool_call>",
                &["now", "now"],
            ),
        ],
        &[
            "hello",
            "<tool_call>\n{\"name\": \"other\"",
            "<tool_call>\n{\"name\": \"weather\", \"arguments\": {}}\n</tool_call>",
        ],
    );
    check_calls(
        CallFormat::Llama3,
        &[(
            "{\"name\": \"weather\", \"parameters\": {\"days\": 2, \"city\": \"Rome\"}}",
            &["weather"],
        )],
        &[
            "{}",
            "{\"name\": \"weather\", \"parameters\": {\"days\": \"x\"}}",
        ],
    );
    check_calls(
        CallFormat::Mistral { by_name: false },
        &[(
            "[TOOL_CALLS][{\"name\": \"now\", \"arguments\": {}}, {\"name\": \"now\", \"arguments\": {}}]",
            &["now", "now"],
        )],
        &["[{\"name\": \"now\", \"arguments\": {}}]"],
    );
    // [ARGS] is no special token of this vocabulary, [TOOL_CALLS] is.
    check_calls(
        CallFormat::Mistral { by_name: true },
        &[(
            "[TOOL_CALLS]weather[ARGS]{\"city\": \"Rome\"}",
            &["weather"],
        )],
        &["weather[ARGS]{\"city\": \"Rome\"}"],
    );
    check_calls(
        CallFormat::Xml,
        &[
            (
                "<tool_call>\n<function=weather>\n<parameter=city>\nNew\nYork </p>\n</parameter>\n<parameter=days>\n3\n</parameter>\n\
                 <parameter=unit>\nF\n</parameter>\n</function>\n</tool_call>",
                &["weather"],
            ),
            (
                "<tool_call>\n<function=now>\n</function>\n</tool_call>",
                &["now"],
            ),
        ],
        &[
            "<tool_call>\n<function=weather>\n</function>\n</tool_call>",
            "<tool_call>\n<function=now>\n<parameter=x>\n",
        ],
    );
    check_calls(
        CallFormat::Pythonic,
        &[
            ("[weather(city=\"Rome\", days=3, unit=\"C\")]", &["weather"]),
            (
                "[weather(city=\"a\\n\\\"b\", unit=\"F\"), now()]",
                &["weather", "now"],
            ),
        ],
        &["[weather()]", "[weather(city=\"Rome\",)]", "[now(x=1)]"],
    );
}

#[test]
fn calls_and_a_schema_can_stand_side_by_side() {
    let bench = Bench::new();
    let format = OutputFormat {
        calls: Some(CallFormat::Hermes),
        ..OutputFormat::default()
    };
    let mut answer = AnswerGrammar::new(
        GrammarBody::json_object(),
        format.with_tools(tools()),
        &bench.tokenizer,
    );
    answer.or_calls = true;
    let call = "<tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n</tool_call>";
    bench.check(&answer, &[call, "{\"a\": 1}"], &["hello"]);
}

#[test]
fn what_cannot_be_enforced_is_refused() {
    let bench = Bench::new();
    let refused = |body: GrammarBody| {
        let answer = bench.answer(body.clone());
        match bench.compiler.compile(&answer) {
            Err(error) => error,
            Ok(_) => panic!("{body:?}"),
        }
    };
    let schema = |schema: Value| refused(GrammarBody::JsonSchema(schema));
    for bad in [
        json!(7),
        json!(false),
        json!({"type": "colour"}),
        json!({"$ref": "http://127.0.0.1:9/x.json"}),
        json!({"$ref": "#/$defs/missing"}),
        json!({"type": "object", "unevaluatedProperties": false, "patternProperties": {"(": {}}}),
        json!({"not": {"type": "string"}}),
        json!({"type": "string", "pattern": "(?=a)b"}),
        json!({"type": "integer", "minimum": 5, "maximum": 4}),
        json!({"type": 7}),
        json!({"enum": []}),
    ] {
        assert!(matches!(schema(bad), GrammarError::Refused(_)));
    }
    let regex = |text: &str| refused(GrammarBody::Regex(text.into()));
    assert!(matches!(regex("(a"), GrammarError::Refused(_)));
    let lark = |text: &str| refused(GrammarBody::Lark(text.into()));
    for bad in [
        "",
        "start: other",
        "start: start",
        "start: \"a",
        "%import common.X",
        "start: @body",
    ] {
        assert!(matches!(lark(bad), GrammarError::Refused(_)), "{bad}");
    }
    let mut deep = json!({"type": "string"});
    for _ in 0..20 {
        deep = json!({"type": "object", "properties": {"a": deep}});
    }
    let too_large = |error| matches!(error, GrammarError::TooLarge { .. });
    assert!(too_large(schema(deep)));
    assert!(too_large(schema(
        json!({"description": "x".repeat(70_000)})
    )));
    assert!(too_large(lark(&format!(
        "start: {}\"a\"{}",
        "(".repeat(33),
        ")".repeat(33)
    ))));
    assert!(too_large(regex(&"a".repeat(70_000))));
}

/// Each ends, by an error or not, and takes little enough stack for the thread that it is given.
#[test]
fn grammars_that_were_made_to_hurt_end() {
    let rules = |count: usize, rule: &dyn Fn(usize) -> String| {
        let all: String = (0..count).map(rule).collect();
        format!("start: r0\n{all}")
    };
    let chain = rules(4000, &|n| format!("r{n}: r{}\n", n + 1)) + "r4000: \"a\"";
    let doubling = rules(20, &|n| format!("r{n}: r{0} r{0}\n", n + 1)) + "r20: \"a\"?";
    let nested = |count: usize| format!("{}a{}", "(".repeat(count), "){0,9}".repeat(count));
    let references: Map<String, Value> = (0..1000)
        .map(|n| {
            (
                format!("d{n}"),
                json!({"$ref": format!("#/$defs/d{}", n + 1)}),
            )
        })
        .collect();
    let mut chained = json!({"$ref": "#/$defs/d0", "$defs": references});
    chained["$defs"]["d1000"] = json!({"type": "null"});
    let wide: Map<String, Value> = (0..1500)
        .map(|n| (format!("p{n}"), json!({"type": "string"})))
        .collect();
    let all_of: Vec<Value> = (0..300)
        .map(|n| json!({"anyOf": [{"minLength": n}, {"maxLength": n + 500}]}))
        .collect();
    let bodies = vec![
        GrammarBody::Lark(chain),
        GrammarBody::Lark(doubling),
        GrammarBody::Lark("start: A\nA: /a{0,100000}{0,1000}/".into()),
        GrammarBody::Lark("start: (\"a\" | \"a\" \"a\")*".into()),
        GrammarBody::Regex(nested(30)),
        GrammarBody::Regex("(a|aa)+$".into()),
        GrammarBody::Regex("(.*a){50}".into()),
        GrammarBody::Regex("[\\s\\S]{0,1000000}".into()),
        GrammarBody::Regex("(((a{100}){100}){100}){100}".into()),
        GrammarBody::JsonSchema(chained),
        GrammarBody::JsonSchema(json!({"$ref": "#"})),
        GrammarBody::JsonSchema(json!({"type": "object", "properties": wide})),
        GrammarBody::JsonSchema(json!({"type": "string", "allOf": all_of})),
        GrammarBody::JsonSchema(json!({"type": "array", "minItems": 1_000_000_000})),
        GrammarBody::JsonSchema(json!({"type": "array", "maxItems": 1_000_000_000, "items": {}})),
        GrammarBody::JsonSchema(json!({"type": "string", "maxLength": 1_000_000_000})),
        GrammarBody::JsonSchema(json!({"type": "string", "pattern": "^(a+)+$"})),
        GrammarBody::JsonSchema(json!({"type": "integer", "multipleOf": 999_999_937})),
        GrammarBody::JsonSchema(json!({"type": "number", "multipleOf": 1e-300})),
    ];
    let thread = std::thread::Builder::new().stack_size(64 << 20);
    let work = move || {
        let bench = Bench::new();
        for body in bodies {
            let Ok(compiled) = bench.compiler.compile(&bench.answer(body.clone())) else {
                continue;
            };
            let text = format!("\"{}", "a".repeat(200));
            for text in [&text[1..], &text, "{\"p7\": \"x\", \"a\": 1}"] {
                match bench.try_walk(&compiled, text) {
                    Ok((walked, _)) => assert!(walked <= text.len()),
                    Err(error) => assert!(matches!(error, GrammarError::Stopped(_)), "{body:?}"),
                }
            }
        }
    };
    thread.spawn(work).unwrap().join().unwrap();
}
