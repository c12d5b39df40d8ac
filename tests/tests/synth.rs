//! What `odmoe synth` writes is the same bytes everywhere, llama.cpp loads it and computes the same from it, and writing
//! takes little memory. `oracle/synth/make.py` made the values, by llama.cpp.

use odmoe_convert::open_source;
use odmoe_tests::binary::odmoe_binary;
use odmoe_tests::engine::{EngineOptions, TestEngine};
use odmoe_tests::golden::{Difference, numbers, read_json, token_ids};
use odmoe_tests::process::peak_resident_bytes;
use odmoe_tests::workspace::root;
use odmoe_text::Tokenizer;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Root mean square, over all models; llama.cpp rounds activations in quantised products as the engine does.
const DIFFERENCE_MAX: f64 = 0.05;
/// Well below the 200 MB of the model.
const PEAK_BYTES_MAX: u64 = 64 << 20;

fn spawn(arguments: &[&str], output: &Path) -> Child {
    let mut command = Command::new(odmoe_binary());
    command
        .arg("synth")
        .args(arguments)
        .arg("--output")
        .arg(output);
    command.stdout(Stdio::null());
    command.spawn().expect("the binary starts")
}

fn expected() -> Value {
    read_json(&root().join("tests/oracle/synth/expected.json"))
}

/// Writes a model of the expected values under its name.
#[track_caller]
fn write(model: &Value, path: &Path) {
    let arguments: Vec<&str> = model["arguments"]
        .as_array()
        .expect("arguments")
        .iter()
        .map(|argument| argument.as_str().expect("a text"))
        .collect();
    let status = spawn(&arguments, path).wait().expect("it ends");
    assert!(status.success(), "{arguments:?}");
}

#[test]
fn bytes_and_logprobs_are_those_that_llama_cpp_saw() {
    let (expected, folder) = (expected(), tempfile::tempdir().expect("a folder"));
    let ids = token_ids(&expected["ids"]);
    let models = expected["models"].as_object().expect("models");
    assert_eq!(models.len(), 4);
    for (name, model) in models {
        let path = folder.path().join(format!("{name}.gguf"));
        write(model, &path);
        let digest = Sha256::digest(std::fs::read(&path).expect("a file"));
        let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(digest, model["sha256"].as_str().expect("a hash"), "{name}");

        let engine = TestEngine::start(&path, EngineOptions::default());
        let found = engine.score(&ids[..1], &ids[1..], 1).wait();
        let theirs = numbers(&model["next_logprobs"]);
        assert_eq!(found.len(), theirs.len());
        let mut difference = Difference::default();
        for (ours, theirs) in found.iter().zip(theirs) {
            difference.add_one(f64::from(ours.chosen.logprob), theirs);
        }
        println!("{name}: from llama.cpp {difference}");
        assert!(
            difference.root_mean_square() < DIFFERENCE_MAX,
            "{name}: {difference}"
        );
    }
}

#[test]
fn texts_have_the_token_ids_that_llama_cpp_gives() {
    let (expected, folder) = (expected(), tempfile::tempdir().expect("a folder"));
    let (gguf, hugging_face) = (folder.path().join("toy.gguf"), folder.path().join("toy"));
    write(&expected["models"]["toy"], &gguf);
    write(&expected["models"]["toy"], &hugging_face);
    for path in [gguf, hugging_face] {
        let source = open_source(&path).unwrap_or_else(|e| panic!("{e}"));
        let tokenizer = source.metadata().text.tokenizer.clone();
        let tokenizer = Tokenizer::from_json(&tokenizer.expect("a tokenizer"));
        let tokenizer = tokenizer.unwrap_or_else(|e| panic!("{e}"));
        let texts = expected["texts"].as_object().expect("texts");
        assert!(texts.len() > 10);
        for (text, ids) in texts {
            let found = tokenizer.encode(text, false);
            let found = found.unwrap_or_else(|e| panic!("{e}"));
            assert_eq!(found, token_ids(ids), "{}: {text:?}", path.display());
            assert_eq!(&tokenizer.decode(&found, false), text);
        }
    }
}

#[test]
fn writing_takes_far_less_memory_than_the_model() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("model.gguf");
    let mut child = spawn(&["toy", "--layers", "64", "--quant", "F16"], &path);
    let mut peak = 0;
    let status = loop {
        peak = peak.max(peak_resident_bytes(child.id()).unwrap_or(0));
        if let Some(status) = child.try_wait().expect("the process can be waited for") {
            break status;
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    let bytes = std::fs::metadata(&path).expect("a file").len();
    println!("peak {} KiB for {} MB", peak >> 10, bytes / 1_000_000);
    assert!(status.success() && bytes > 200_000_000, "{bytes} bytes");
    assert!(peak > 0 && peak < PEAK_BYTES_MAX, "{peak} bytes");
}
