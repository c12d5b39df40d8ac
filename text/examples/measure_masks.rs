//! Measures what a grammar costs: `cargo run --release -p odmoe-text --example measure_masks -- TOKENIZER.JSON`.
//!
//! Prints the time to prepare a vocabulary, to compile a schema, and of masks along a text that fits it.

use odmoe_text::Tokenizer;
use odmoe_text::grammar::{AnswerGrammar, GrammarBody, GrammarCompiler};
use odmoe_text::output::OutputFormat;
use serde_json::json;
use std::time::{Duration, Instant};

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let path = std::env::args()
        .nth(1)
        .ok_or("usage: measure_masks TOKENIZER.JSON")?;
    let tokenizer = Tokenizer::from_json(&std::fs::read(path)?)?;
    let vocabulary = tokenizer.vocabulary_size();
    let end = u32::try_from(vocabulary - 1)?;
    let began = Instant::now();
    let before = resident_bytes();
    let compiler = GrammarCompiler::new(&tokenizer, vocabulary, &[end])?;
    let (took, took_bytes) = (began.elapsed(), resident_bytes().saturating_sub(before));
    println!(
        "{vocabulary} tokens: prepared in {took:?}, {} MiB",
        took_bytes >> 20
    );
    let person = json!({
        "type": "object", "required": ["name", "age", "friends"], "additionalProperties": false,
        "properties": {
            "name": {"type": "string"}, "age": {"type": "integer"},
            "friends": {"type": "array", "items": {"type": "object", "properties": {"name": {"type": "string", "maxLength": 40}}}},
        },
    });
    let friend = |n: usize| json!({"name": format!("Somebody with a longer name {n}")});
    let text = json!({
        "name": "A rather long name, with several words and \"quotes\" in it",
        "age": 1234, "friends": (0..20).map(friend).collect::<Vec<_>>(),
    });
    let text = serde_json::to_string_pretty(&text)?;
    for (what, body) in [
        ("json_schema", GrammarBody::JsonSchema(person)),
        ("json_object", GrammarBody::json_object()),
        ("regex .*", GrammarBody::Regex("(.|\\n)*".into())),
    ] {
        let grammar = AnswerGrammar::new(body, OutputFormat::default(), &tokenizer);
        let began = Instant::now();
        let compiled = compiler.compile(&grammar)?;
        let compiling = began.elapsed();
        let began = Instant::now();
        let mut matcher = compiled.begin();
        let beginning = began.elapsed();
        let mut masks = Vec::new();
        for token in tokenizer.encode(&text, false)? {
            let began = Instant::now();
            let mut allowed = false;
            let word = token as usize / 32;
            matcher.allowed(|words| allowed = words[word] >> (token % 32) & 1 == 1)?;
            assert!(
                allowed,
                "{what} refuses {:?}",
                tokenizer.decode(&[token], false)
            );
            matcher.accept(token)?;
            masks.push(began.elapsed());
        }
        masks.sort();
        let mean = masks.iter().sum::<Duration>() / masks.len() as u32;
        let at = |share: usize| masks[(masks.len() - 1) * share / 100];
        println!(
            "{what}: compiled in {compiling:?}, begun in {beginning:?}, {} masks: mean {mean:?}, median {:?}, 95 % {:?}, most {:?}",
            masks.len(),
            at(50),
            at(95),
            at(100),
        );
    }
    Ok(())
}

/// Of this process; 0 where the system does not say.
fn resident_bytes() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let resident = pages
        .split(' ')
        .nth(1)
        .and_then(|pages| pages.parse::<usize>().ok());
    resident.unwrap_or(0) * 4096
}
