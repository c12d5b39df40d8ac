//! `odmoe inspect`: its figures against those of the file's own header, its lines against its fields, and its memory
//! sums against those of `odmoe serve`.

mod support;

use odmoe_backend_cpu::KernelSet;
use odmoe_formats::ByteCount;
use odmoe_formats::gguf::Gguf;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use support::World;

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn text_of(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn fields(value: &Value) -> Vec<&str> {
    let mut names: Vec<&str> = value.as_object().unwrap().keys().map(|k| &**k).collect();
    names.sort_unstable();
    names
}

#[track_caller]
fn number(report: &Value, pointer: &str) -> u64 {
    let found = report.pointer(pointer).and_then(Value::as_u64);
    found.unwrap_or_else(|| panic!("{pointer} is no number in {report}"))
}

/// The names that programs read, whatever the model is kept in.
#[test]
fn a_report_has_these_fields() {
    let world = World::new();
    let (gguf, folder, store) = (
        world.path("toy.gguf"),
        world.path("hf"),
        world.path("store"),
    );
    let made = json(&world.done(&["synth", "toy", "--output", text_of(&gguf), "--json"]));
    world.done(&["synth", "toy", "--output", text_of(&folder)]);
    world.done(&["convert", text_of(&gguf), text_of(&store)]);
    assert_eq!(made["bytes"], std::fs::metadata(&gguf).unwrap().len());
    for (path, kind) in [
        (gguf, "GGUF file"),
        (folder, "Hugging Face folder"),
        (store, "store"),
    ] {
        let report = json(&world.done(&["inspect", text_of(&path), "--json"]));
        let names = [
            "active_parameters",
            "architecture",
            "bytes_a_token",
            "chat_template_bytes",
            "config",
            "conversion",
            "experts",
            "kind",
            "layout",
            "memory_to_run",
            "name",
            "parameters",
            "refused",
            "resident_bytes",
            "store_bytes",
            "tensors_by_format",
            "tokenizer",
        ];
        assert_eq!(fields(&report), names, "{kind}");
        let experts = ["bytes", "count", "largest_bytes", "smallest_bytes"];
        assert_eq!(fields(&report["experts"]), experts, "{kind}");
        let memory = ["least", "limit_bytes", "limit_source", "sums"];
        assert_eq!(fields(&report["memory_to_run"]), memory, "{kind}");
        let tokenizer = ["kind", "special_tokens", "vocabulary"];
        assert_eq!(fields(&report["tokenizer"]), tokenizer, "{kind}");
        assert_eq!(report["kind"], kind);
        assert_eq!(report["architecture"], "qwen3moe", "{kind}");
        assert_eq!(report["parameters"], made["parameters"], "{kind}");
        assert_eq!(report["config"]["moe"], made["config"]["moe"], "{kind}");
        let is_store = kind == "store";
        assert_eq!(report["conversion"].is_null(), is_store, "{kind}");
        if !is_store {
            let conversion = ["folder", "free_bytes", "needed_bytes", "store"];
            assert_eq!(fields(&report["conversion"]), conversion, "{kind}");
            let needed = number(&report, "/conversion/needed_bytes");
            assert!(needed > number(&report, "/store_bytes"), "{kind}");
        }
    }
}

/// A checkpoint has no layout yet; a store has the one that was asked for, or that of this machine.
#[test]
fn a_stores_layout_is_shown() {
    let world = World::new();
    let gguf = world.path("toy.gguf");
    world.done(&["synth", "toy", "--output", text_of(&gguf)]);
    let inspected = |path: &Path| json(&world.done(&["inspect", text_of(path), "--json"]));
    assert!(inspected(&gguf)["layout"].is_null());
    let best = KernelSet::best().weight_layout().name();
    for (asked, expected) in [
        ("rows", "row-major-1"),
        ("lanes", "lanes-16-1"),
        ("auto", best),
    ] {
        let store = world.path(asked);
        let (from, to) = (text_of(&gguf), text_of(&store));
        world.done(&["convert", from, to, "--layout", asked]);
        assert_eq!(inspected(&store)["layout"], expected);
        let lines = world.done(&["inspect", to]);
        let line = format!("  layout        {expected}\n");
        assert!(lines.contains(&line), "{lines}");
    }
}

/// What a header says, counted without the code under test.
#[derive(Default)]
struct Counted {
    /// Tensors as a store has them, elements and bytes, by format.
    formats: BTreeMap<String, [u64; 3]>,
    resident: [u64; 2],
    experts: [u64; 2],
    embedding: [u64; 2],
    /// By layer, of one expert.
    expert_bytes: BTreeMap<String, u64>,
}

const EXPERTS: u64 = 8;

fn count(path: &Path) -> Counted {
    let bytes = std::fs::read(path).unwrap();
    let header = Gguf::read(&mut bytes.as_slice(), bytes.len() as u64).unwrap();
    let mut counted = Counted::default();
    for tensor in &header.tensors {
        let elements: u64 = tensor.shape.iter().product();
        let bytes = tensor.range.end - tensor.range.start;
        let is_stack = tensor.name.contains("_exps.");
        let format = counted.formats.entry(tensor.kind.name().to_owned());
        let format = format.or_default();
        format[0] += if is_stack { EXPERTS } else { 1 };
        format[1] += elements;
        format[2] += bytes;
        let sums = match is_stack {
            true => &mut counted.experts,
            false => &mut counted.resident,
        };
        *sums = [sums[0] + elements, sums[1] + bytes];
        if tensor.name == "token_embd.weight" {
            counted.embedding = [elements, bytes];
        }
        if is_stack {
            let layer = tensor.name.split('.').nth(1).unwrap().to_owned();
            *counted.expert_bytes.entry(layer).or_default() += bytes / EXPERTS;
        }
    }
    counted
}

#[test]
fn figures_are_those_of_the_header() {
    let world = World::new();
    let gguf = world.path("toy.gguf");
    world.done(&["synth", "toy", "--output", text_of(&gguf)]);
    let report = json(&world.done(&["inspect", text_of(&gguf), "--json"]));
    let counted = count(&gguf);
    let [resident, experts] = [counted.resident, counted.experts];

    assert_eq!(number(&report, "/parameters"), resident[0] + experts[0]);
    // Two of eight experts a token, and one row of the embedding, which is not counted.
    let used = |place: usize| resident[place] - counted.embedding[place] + experts[place] / 4;
    assert_eq!(number(&report, "/active_parameters"), used(0));
    assert_eq!(number(&report, "/active_parameters"), 1_316_352);
    assert_eq!(number(&report, "/bytes_a_token"), used(1));
    assert_eq!(number(&report, "/resident_bytes"), resident[1]);
    assert_eq!(number(&report, "/experts/count"), 16);
    assert_eq!(number(&report, "/experts/bytes"), experts[1]);
    // Each begins at a multiple of 4096.
    let each = counted.expert_bytes.values();
    let each: Vec<u64> = each.map(|bytes| bytes.next_multiple_of(4096)).collect();
    let [smallest, largest] = [each.iter().min().unwrap(), each.iter().max().unwrap()];
    assert_eq!(number(&report, "/experts/smallest_bytes"), *smallest);
    assert_eq!(number(&report, "/experts/largest_bytes"), *largest);
    let store = resident[1] + EXPERTS * each.iter().sum::<u64>();
    assert_eq!(number(&report, "/store_bytes"), store);

    let mut formats = BTreeMap::new();
    for format in report["tensors_by_format"].as_array().unwrap() {
        let of = |field: &str| format[field].as_u64().unwrap();
        let name = format["format"].as_str().unwrap().to_owned();
        formats.insert(name, ["tensors", "parameters", "bytes"].map(of));
    }
    assert_eq!(formats, counted.formats);
}

/// A line of the memory sum from its fields.
fn memory_line(label: &str, sum: &Value) -> String {
    let bytes = |field: &str| ByteCount(sum[field].as_u64().unwrap());
    format!(
        "  memory        {label} experts: {} = base {} + KV {} ({} tokens) + experts {} + scratch {} + overhead {}",
        bytes("total_bytes"),
        bytes("base_bytes"),
        bytes("kv_bytes"),
        sum["kv_tokens"],
        bytes("expert_bytes"),
        bytes("scratch_bytes"),
        bytes("overhead_bytes"),
    )
}

#[test]
fn lines_for_people_say_the_same() {
    let world = World::new();
    let gguf = world.path("toy.gguf");
    world.done(&["synth", "toy", "--output", text_of(&gguf)]);
    let report = json(&world.done(&["inspect", text_of(&gguf), "--json"]));
    let said = world.done(&["inspect", text_of(&gguf)]);
    let lines: Vec<&str> = said.lines().collect();
    let counted = count(&gguf);
    let formats = counted.formats.iter();
    let formats: Vec<String> = formats
        .map(|(name, [tensors, _, bytes])| {
            format!("  {name:<13} {tensors} tensors, {}", ByteCount(*bytes))
        })
        .collect();
    let [base, experts] = [counted.resident[1], counted.experts[1]].map(ByteCount);
    let memory = &report["memory_to_run"];
    let expected = [
        "toy: GGUF file".to_owned(),
        "  architecture  qwen3moe: 2 layers, hidden 256, 4 query and 2 key/value heads of 64, vocabulary 512, context 512"
            .into(),
        "  parameters    3.8 M, 1.3 M of them used by a token, which touches 888.0 KiB".into(),
        format!("  experts       16 (8 a layer, 2 a token), {experts} in all, 108.0 KiB to 128.0 KiB each"),
        format!("  resident      {base}"),
        memory_line("fewest", &memory["least"]),
        memory_line(" 25 % of", &memory["sums"][0]),
        memory_line(" 50 % of", &memory["sums"][1]),
        memory_line("100 % of", &memory["sums"][2]),
        "  tokenizer     byte-level BPE, 512 tokens, 3 of them special".into(),
        format!("  template      {} bytes: chat and completions", report["chat_template_bytes"]),
    ];
    for line in expected.iter().chain(&formats) {
        assert!(lines.contains(&&**line), "{line:?} is not in\n{said}");
    }
    // Free space and the limit change meanwhile.
    let stores = world.path("cache/odmoe/stores");
    let disk = format!(
        "  disk          {} as a store; ",
        ByteCount(number(&report, "/store_bytes"))
    );
    let place = format!(" are free in {}", stores.display());
    let is_disk = |line: &&str| line.starts_with(&disk) && line.ends_with(&place);
    assert!(lines.iter().any(is_disk), "{said}");
    let limited = lines
        .iter()
        .any(|line| line.starts_with("  limit here    "));
    assert_eq!(limited, memory["limit_bytes"].is_u64(), "{said}");
}

#[test]
fn memory_sums_are_what_serving_takes() {
    let world = World::new();
    let gguf = world.path("toy.gguf");
    world.done(&["synth", "toy", "--output", text_of(&gguf)]);
    let inspected = json(&world.done(&["inspect", text_of(&gguf), "--json"]));
    let sum = &inspected["memory_to_run"]["sums"][1];
    let mut server = world.serve(&["--model", text_of(&gguf), "--expert-cache", "50%"]);
    let told = server.until_ready();
    for (label, field) in [
        ("base", "base_bytes"),
        ("KV cache", "kv_bytes"),
        ("experts", "expert_bytes"),
        ("scratch", "scratch_bytes"),
        ("overhead", "overhead_bytes"),
        ("in all  =", "total_bytes"),
    ] {
        let bytes = ByteCount(sum[field].as_u64().unwrap()).to_string();
        let says = |line: &str| {
            let at = line.find(label);
            at.is_some_and(|at| line[at + label.len()..].trim_start().starts_with(&bytes))
        };
        assert!(told.lines().any(says), "{label} {bytes} is not in\n{told}");
    }
    assert!(
        told.contains(&format!("{} tokens in f16", sum["kv_tokens"])),
        "{told}"
    );
    assert_eq!(server.stop(), Some(0));

    // What serving converted is found again.
    let report = json(&world.done(&["inspect", text_of(&gguf), "--json"]));
    let store = report["conversion"]["store"].as_str().unwrap();
    assert!(Path::new(store).join("manifest.json").exists(), "{store}");
    let said = world.done(&["inspect", text_of(&gguf)]);
    assert!(
        said.contains(&format!("as a store, which is there: {store}")),
        "{said}"
    );
}
