//! `odmoe synth`: what each flag does, as `odmoe inspect --json` and the files tell it.

mod support;

use odmoe_formats::gguf::Gguf;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use support::{World, names};

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn text_of(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[track_caller]
fn synth(world: &World, output: &str, flags: &[&str]) -> Value {
    let output = world.path(output);
    let fixed = ["synth", "toy", "--json", "--output", text_of(&output)];
    json(&world.done(&[&fixed, flags].concat()))
}

fn header(path: &Path) -> Gguf {
    let bytes = std::fs::read(path).unwrap();
    Gguf::read(&mut bytes.as_slice(), bytes.len() as u64).unwrap()
}

/// Of every tensor, by its name.
fn shapes(path: &Path) -> Vec<(String, Vec<u64>)> {
    let tensors = header(path).tensors.into_iter();
    tensors.map(|t| (t.name, t.shape)).collect()
}

#[test]
fn each_flag_sets_its_field() {
    let world = World::new();
    let cases: [(&[&str], &str, u64); 11] = [
        (&[], "/config/num_hidden_layers", 2),
        (&["--layers", "3"], "/config/num_hidden_layers", 3),
        (&["--experts", "5"], "/config/moe/num_experts", 5),
        (&["--experts", "5"], "/experts/count", 10),
        (&["--experts", "1"], "/config/moe/num_experts_per_tok", 1),
        (&["--top-k", "3"], "/config/moe/num_experts_per_tok", 3),
        (&["--hidden", "512"], "/config/hidden_size", 512),
        // As many key/value heads to a query head, and as wide.
        (&["--hidden", "512"], "/config/num_attention_heads", 8),
        (
            &["--expert-ffn", "512"],
            "/config/moe/moe_intermediate_size",
            512,
        ),
        (&["--vocab", "600"], "/config/vocab_size", 600),
        (&["--vocab", "600"], "/tokenizer/vocabulary", 600),
    ];
    for (place, (flags, field, expected)) in cases.into_iter().enumerate() {
        let output = format!("{place}.gguf");
        synth(&world, &output, flags);
        let path = world.path(&output);
        let report = json(&world.done(&["inspect", "--json", text_of(&path)]));
        let found = report.pointer(field).and_then(Value::as_u64);
        assert_eq!(found, Some(expected), "{flags:?}: {field} in {report}");
    }
    // Of a dense model it is the width of the MLP.
    let path = world.path("dense.gguf");
    let narrow = "synth llama-1b --layers 1 --hidden 64 --vocab 300 --expert-ffn 96 --output";
    let narrow: Vec<&str> = narrow.split(' ').chain([text_of(&path)]).collect();
    world.done(&narrow);
    let report = json(&world.done(&["inspect", "--json", text_of(&path)]));
    assert_eq!(report["config"]["intermediate_size"], 96);
}

#[test]
fn seed_and_routing_change_weights_and_no_shape() {
    let world = World::new();
    let made = synth(&world, "a/m.gguf", &[]);
    let plain = std::fs::read(world.path("a/m.gguf")).unwrap();
    assert_eq!(
        (&made["seed"], made["bytes"].as_u64()),
        (&0.into(), Some(plain.len() as u64))
    );
    let cases: [&[&str]; 3] = [
        &["--seed", "1"],
        &["--routing", "reuse"],
        &["--seed", "1", "--routing", "reuse"],
    ];
    let mut seen = vec![plain];
    for (place, flags) in cases.into_iter().enumerate() {
        let output = format!("{place}/m.gguf");
        synth(&world, &output, flags);
        let bytes = std::fs::read(world.path(&output)).unwrap();
        assert!(!seen.contains(&bytes), "{flags:?}");
        assert_eq!(
            shapes(&world.path(&output)),
            shapes(&world.path("a/m.gguf")),
            "{flags:?}"
        );
        seen.push(bytes);
    }
    synth(&world, "b/m.gguf", &["--seed", "0", "--routing", "uniform"]);
    assert!(std::fs::read(world.path("b/m.gguf")).unwrap() == seen[0]);
}

/// The files of a store but its manifest and its fingerprint, which tell the source.
fn weights(store: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![store.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(store).unwrap().display().to_string();
            if path.is_dir() {
                folders.push(path);
            } else if !["manifest.json", "fingerprint.json"].contains(&name.as_str()) {
                found.insert(name, std::fs::read(path).unwrap());
            }
        }
    }
    found
}

#[test]
fn experts_are_named_as_asked_and_make_the_same_store() {
    let world = World::new();
    let mut stores = Vec::new();
    for (naming, tensor, part, count) in [
        ("stacked", "blk.1.ffn_up_exps.weight", ".ffn_up_exps.", 2),
        ("per-expert", "blk.1.ffn_up.7.weight", ".ffn_up.", 16),
        ("legacy", "blk.1.ffn.experts.7.w3.weight", ".w3.", 16),
    ] {
        // In one format, for a mix may change from expert to expert.
        let (output, store) = (
            format!("{naming}/toy.gguf"),
            world.path(naming).join("store"),
        );
        synth(&world, &output, &["--naming", naming, "--quant", "Q5_K"]);
        let gguf = header(&world.path(&output));
        let names: Vec<&str> = gguf.tensors.iter().map(|t| t.name.as_str()).collect();
        assert!(names.contains(&tensor), "{naming}: {names:?}");
        let alike = names.iter().filter(|name| name.contains(part));
        assert_eq!(alike.count(), count, "{naming}: {names:?}");
        world.done(&["convert", text_of(&world.path(&output)), text_of(&store)]);
        stores.push(weights(&store));
    }
    assert!(stores[0].len() > 16);
    assert!(stores[0] == stores[1] && stores[0] == stores[2]);
    let folder = world.path("folder");
    let fixed = ["synth", "toy", "--naming", "legacy", "--output"];
    let told = world.refused(2, &[&fixed[..], &[text_of(&folder)]].concat());
    assert!(told.contains(".gguf") && !folder.exists(), "{told}");
}

#[test]
fn a_set_is_replaced_only_when_asked() {
    let world = World::new();
    let three = ["--split", "3"];
    let made = synth(&world, "set/m.gguf", &three);
    let parts = [1, 2, 3].map(|part| format!("m-0000{part}-of-00003.gguf"));
    assert_eq!(names(&world.path("set")), parts);
    assert_eq!(made["files"].as_array().unwrap().len(), 3);
    let first = world.path("set").join(&parts[0]);
    assert_eq!(made["output"], text_of(&first));
    let read = || {
        parts
            .each_ref()
            .map(|part| std::fs::read(world.path("set").join(part)).unwrap())
    };
    let before = read();

    let output = world.path("set/m.gguf");
    let again = ["synth", "toy", "--seed", "1", "--split", "3", "--output"];
    let again = [&again[..], &[text_of(&output)]].concat();
    let told = world.refused(1, &again);
    assert!(told.contains("--overwrite") && read() == before, "{told}");
    world.done(&[&again[..], &["--overwrite"]].concat());
    assert_eq!(names(&world.path("set")), parts);
    assert!(read() != before);
    let report = json(&world.done(&["inspect", "--json", text_of(&first)]));
    assert_eq!(report["parameters"], made["parameters"]);
}

#[test]
fn an_output_without_gguf_at_its_end_is_a_hugging_face_folder() {
    let world = World::new();
    let flags = ["--split", "2", "--layers", "3", "--quant", "F16"];
    synth(&world, "toy", &flags);
    let found = names(&world.path("toy"));
    for name in [
        "config.json",
        "tokenizer.json",
        "model-00002-of-00002.safetensors",
    ] {
        assert!(found.iter().any(|found| found == name), "{found:?}");
    }
    let folder = world.path("toy");
    let report = json(&world.done(&["inspect", "--json", text_of(&folder)]));
    assert_eq!(report["kind"], "Hugging Face folder");
    assert_eq!(report["config"]["num_hidden_layers"], 3);
    assert_eq!(report["tensors_by_format"].as_array().unwrap().len(), 1);
    assert_eq!(report["tensors_by_format"][0]["format"], "F16");
    let fixed = ["synth", "toy", "--output", text_of(&folder)];
    assert!(world.refused(1, &fixed).contains("--overwrite"));
    // Fewer files than before: none of the old ones may be left.
    world.done(&[&fixed[..], &["--overwrite"]].concat());
    let found = names(&folder);
    assert!(!found.iter().any(|name| name.contains("-of-")), "{found:?}");
    let report = json(&world.done(&["inspect", "--json", text_of(&folder)]));
    assert_eq!(report["tensors_by_format"][0]["format"], "BF16");
    let told = world.refused(2, &[&fixed[..], &["--quant", "Q8_0"]].concat());
    assert!(told.contains("F32, F16 or BF16"), "{told}");
}

#[test]
fn reuse_that_chance_would_have_is_refused() {
    let world = World::new();
    let output = world.path("m.gguf");
    let fixed = [
        "synth",
        "toy",
        "--routing",
        "reuse",
        "--output",
        text_of(&output),
    ];
    let told = world.refused(2, &[&fixed[..], &["--experts", "4"]].concat());
    assert!(told.contains("--routing reuse: 2 of 4"), "{told}");
    let told = world.refused(2, &[&fixed[..], &["--hidden", "64"]].concat());
    assert!(told.contains("hidden is 64"), "{told}");
    assert!(!output.exists());
}
