//! Checks the text crate against a folder of fixtures: `cargo run -p odmoe-text --example check_fixtures -- FOLDER`.
//!
//! The folder holds `tiny-moe/` (a tokenizer, prompts with the ids that the reference gave) and `templates/` (chat
//! templates of public families). Exits with 1 when ids differ or a template does not render.

use odmoe_text::{ChatTemplate, IncrementalDetokenizer, RenderOptions, Tokenizer};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;

type Failure = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    let Some(folder) = std::env::args().nth(1) else {
        eprintln!("usage: check_fixtures FOLDER");
        return ExitCode::from(2);
    };
    let folder = Path::new(&folder);
    let outcome = check_golden(&folder.join("tiny-moe"))
        .and_then(|()| check_templates(&folder.join("templates")));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn check_golden(folder: &Path) -> Result<(), Failure> {
    let tokenizer = Tokenizer::from_json(&std::fs::read(folder.join("model/tokenizer.json"))?)?;
    let golden: Value = serde_json::from_slice(&std::fs::read(folder.join("golden.json"))?)?;
    let prompts = golden["prompts"]
        .as_array()
        .ok_or("golden.json has no prompts")?;
    for prompt in prompts {
        let name = prompt["name"].as_str().ok_or("a prompt has no name")?;
        let text = prompt["prompt"].as_str().ok_or("a prompt has no text")?;
        let expected: Vec<u32> = serde_json::from_value(prompt["ids"].clone())?;
        let ids = tokenizer.encode(text, true)?;
        if ids != expected {
            return Err(
                format!("prompt {name}: ids {ids:?}, the reference has {expected:?}").into(),
            );
        }
        let mut incremental = IncrementalDetokenizer::new(tokenizer.clone(), false);
        let mut decoded: String = ids.iter().map(|id| incremental.push(*id)).collect();
        decoded.push_str(&incremental.finish());
        if decoded != text {
            return Err(format!("prompt {name}: decodes to {decoded:?}").into());
        }
    }
    println!("{} golden prompts have the reference's ids", prompts.len());
    Ok(())
}

fn check_templates(folder: &Path) -> Result<(), Failure> {
    let special = BTreeMap::from([
        ("bos_token".to_owned(), "<s>".to_owned()),
        ("eos_token".to_owned(), "</s>".to_owned()),
    ]);
    let messages = json!([
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hi."},
        {"role": "user", "content": "Who are you?"},
    ]);
    let options = RenderOptions {
        add_generation_prompt: true,
        ..RenderOptions::default()
    };
    let mut failed = 0;
    let mut paths: Vec<_> = std::fs::read_dir(folder)?
        .map(|e| e.map(|e| e.path()))
        .collect::<Result<_, _>>()?;
    paths.sort();
    for path in paths {
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let source = std::fs::read_to_string(&path)?;
        let rendered =
            ChatTemplate::compile(&source, &special).and_then(|t| t.render(&messages, &options));
        match rendered {
            Ok(text) if text.contains("Who are you?") => {
                println!("{name}: renders {} bytes", text.len())
            }
            Ok(text) => {
                failed += 1;
                println!("{name}: loses the question: {text:?}");
            }
            Err(error) => {
                failed += 1;
                println!("{name}: {error}");
            }
        }
    }
    if failed > 0 {
        Err(format!("{failed} templates failed").into())
    } else {
        Ok(())
    }
}
