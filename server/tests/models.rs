//! The commands over real models: the embedded one, and random ones made here.

mod support;

use odmoe_convert::random_model::RandomModel;
use odmoe_formats::gguf::{GgufLayout, Metadata, Value as Entry};
use serde_json::Value;
use std::path::Path;
use support::{World, names};

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn text_of(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn the_embedded_model_answers_alike_however_it_is_paged() {
    let world = World::new();
    let ask = |more: &[&str]| {
        let fixed = [
            "generate",
            "--chat",
            "--prompt",
            "What does a rabbit eat?",
            "--json",
            "--seed",
            "7",
        ];
        let answer = json(&world.done(&[&fixed, more].concat()));
        (answer["text"].clone(), answer["token_ids"].clone())
    };
    let paged = ask(&[]);
    assert!(paged.0.as_str().unwrap().contains(' '), "{paged:?}");
    assert_eq!(ask(&["--expert-cache", "auto"]), paged);
    assert_eq!(
        ask(&["--expert-cache", "1%", "--no-prefetch", "--threads", "1"]),
        paged
    );
    assert_eq!(
        names(&world.path("cache/odmoe/embedded")).len(),
        1,
        "unpacked once"
    );
}

#[test]
fn prompts_of_a_file_are_answered_in_order_and_stop_strings_end_them() {
    let world = World::new();
    let file = world.write(
        "prompts",
        "Once upon a time\n\n\"One day,\\nthe king\"\nHello\n",
    );
    let fixed = [
        "generate",
        "--prompts",
        text_of(&file),
        "--max-tokens",
        "12",
        "--temperature",
        "0",
    ];
    let lines = world.done(&[&fixed[..], &["--json"]].concat());
    let prompts: Vec<Value> = lines
        .lines()
        .map(|line| json(line)["prompt"].clone())
        .collect();
    assert_eq!(prompts, ["Once upon a time", "One day,\nthe king", "Hello"]);

    let first = json(lines.lines().next().unwrap());
    let text = first["text"].as_str().unwrap();
    let word = text.split_whitespace().nth(2).unwrap();
    let stopped = [
        "generate",
        "--prompt",
        "Once upon a time",
        "--temperature",
        "0",
        "--json",
        "--stop",
        word,
    ];
    let stopped = json(&world.done(&stopped));
    assert_eq!(stopped["finish_reason"], "stop");
    assert_eq!(
        stopped["text"].as_str().unwrap(),
        &text[..text.find(word).unwrap()]
    );
}

#[test]
fn bench_says_what_the_disk_gives() {
    let world = World::new();
    let alone = json(&world.done(&["bench", "--disk", "--repeats", "1", "--json"]));
    assert_eq!(alone["read_plan"], "default", "too little to measure");
    let forced = [
        "bench",
        "--disk",
        "--work",
        "1x8+2",
        "--repeats",
        "1",
        "--readers",
        "3",
        "--read-method",
        "threads",
        "--read-access",
        "buffered",
        "--json",
    ];
    let forced = json(&world.done(&forced));
    assert_eq!(forced["read_plan"], "flags");
    assert_eq!(forced["read_method"], "threads");
    assert_eq!(forced["read_access"], "buffered");
    assert_eq!(forced["reads_at_once"], 3);
    assert!(forced["decode_tokens_per_s"]["median"].as_f64() > Some(0.0));
    for report in [alone, forced] {
        for figure in ["disk_bytes_per_s", "disk_bytes_per_s_unverified"] {
            assert!(report[figure]["median"].as_f64() > Some(0.0), "{report}");
        }
    }
}

#[test]
fn bench_prints_one_object_with_the_agreed_fields() {
    let world = World::new();
    let small = [
        "bench",
        "--prompt-tokens",
        "8",
        "--generate-tokens",
        "4",
        "--repeats",
        "2",
        "--streams",
        "2",
        "--json",
    ];
    let report = json(&world.done(&small));
    let mut fields: Vec<&String> = report.as_object().unwrap().keys().collect();
    fields.sort();
    let mut expected = vec![
        "streams",
        "prompt_tokens",
        "generate_tokens",
        "prefill_tokens_per_s",
        "decode_tokens_per_s",
        "ttft_s",
        "hit_rate_prefill",
        "hit_rate_decode",
        "bytes_read",
        "missed_bytes_prefill",
        "missed_bytes_decode",
        "prefetch_used_bytes",
        "prefetch_wasted_bytes",
        "recall_on_misses",
        "stall_s",
        "peak_rss_bytes",
        "expert_cache_bytes",
        "threads",
        "model",
        "commit",
        "machine",
    ];
    expected.sort_unstable();
    assert_eq!(fields, expected);
    for measured in [
        "prefill_tokens_per_s",
        "decode_tokens_per_s",
        "ttft_s",
        "hit_rate_decode",
        "bytes_read",
    ] {
        let [least, median, most] =
            ["min", "median", "max"].map(|k| report[measured][k].as_f64().unwrap());
        assert!(
            0.0 < least && least <= median && median <= most,
            "{measured}: {report}"
        );
    }
    assert_eq!(report["model"], "tiny-moe");
}

#[test]
fn bench_prints_a_line_for_each_work() {
    let world = World::new();
    let printed = world.done(&[
        "bench",
        "--work",
        "1x12+1",
        "--work",
        "2x4+3",
        "--repeats",
        "1",
        "--json",
    ]);
    let reports: Vec<Value> = printed.lines().map(json).collect();
    let shapes: Vec<_> = reports
        .iter()
        .map(|report| ["streams", "prompt_tokens", "generate_tokens"].map(|k| report[k].as_u64()))
        .collect();
    let wanted = [[1, 12, 1], [2, 4, 3]].map(|shape| shape.map(Some));
    assert_eq!(shapes, wanted);
    assert!(
        reports[0]["decode_tokens_per_s"]["median"].is_null(),
        "one new token comes from the prompt: {printed}"
    );
    assert!(reports[1]["decode_tokens_per_s"]["median"].is_f64());
}

#[test]
fn a_folder_is_inspected_converted_and_inspected_again() {
    let world = World::new();
    let (folder, store) = (world.path("hf"), world.path("store"));
    RandomModel {
        hidden: 64,
        expert_ffn: 32,
        ..RandomModel::default()
    }
    .write(&folder)
    .unwrap();
    let before = json(&world.done(&["inspect", "--json", text_of(&folder)]));

    let converted = world.run(&[
        "convert",
        text_of(&folder),
        text_of(&store),
        "--name",
        "small",
    ]);
    assert!(converted.status.success());
    let told = String::from_utf8_lossy(&converted.stderr).into_owned();
    assert!(
        told.contains(text_of(&store)) && told.contains("needs") && told.contains("free"),
        "{told}"
    );
    assert!(
        world
            .refused(1, &["convert", text_of(&folder), text_of(&store)])
            .contains("already")
    );
    world.done(&[
        "convert",
        text_of(&folder),
        text_of(&store),
        "--overwrite",
        "--weights",
        "q8_0",
    ]);

    let after = json(&world.done(&["inspect", "--json", text_of(&store)]));
    assert_eq!(after["kind"], "store");
    for same in ["architecture", "parameters", "active_parameters", "config"] {
        assert_eq!(after[same], before[same], "{same}");
    }
    assert!(
        after["bytes_a_token"].as_u64() < before["bytes_a_token"].as_u64(),
        "8 bits are less"
    );
    let sums = after["memory_to_run"]["sums"].as_array().unwrap();
    assert_eq!(sums.len(), 3);
    let total = |sum: &Value| sum["total_bytes"].as_u64().unwrap();
    assert!(total(&sums[0]) < total(&sums[1]) && total(&sums[1]) < total(&sums[2]));
    assert!(
        world
            .done(&["inspect", text_of(&store)])
            .contains("parameters")
    );
}

#[test]
fn gguf_files_that_cannot_be_taken_are_refused_in_a_sentence() {
    let world = World::new();
    let write = |name: &str, key: &str, value: Entry| {
        let mut metadata = Metadata::default();
        metadata.insert(key, value);
        let layout = GgufLayout::new(&metadata, &[]).unwrap();
        let path = world.path(name);
        std::fs::write(&path, layout.header).unwrap();
        path
    };
    let foreign = Entry::String("deepseek2".into());
    let foreign = write("foreign.gguf", "general.architecture", foreign);
    let part = write("m-00001-of-00002.gguf", "split.count", Entry::U16(2));
    let broken = world.write("broken.gguf", "GGUF");
    let cases = [
        (
            foreign,
            "architecture \"deepseek2\" is not supported; supported: llama, ",
        ),
        (part, "1 are missing: m-00002-of-00002.gguf; download them"),
        (broken, "broken.gguf: the file ends at byte 4"),
    ];
    for (path, expected) in cases {
        let (path, store) = (text_of(&path), world.path("store"));
        let commands: [&[&str]; 3] = [
            &["inspect", path],
            &["convert", path, text_of(&store)],
            &["generate", "--model", path, "--prompt", "x"],
        ];
        for command in commands {
            let told = world.refused(1, command);
            assert!(told.contains(expected), "{command:?}: {told}");
        }
        assert!(!store.exists(), "nothing is written");
    }
}

/// Hours of conversion must not end in a refusal that could have come first.
#[test]
fn what_cannot_be_served_is_refused_before_it_is_converted() {
    let world = World::new();
    let gguf = world.path("toy.gguf");
    world.done(&["synth", "toy", "--output", text_of(&gguf)]);
    let generate = ["generate", "--model", text_of(&gguf), "--prompt", "x"];
    let small = [&generate[..], &["--memory-limit", "1MiB"]].concat();
    let told = world.refused(1, &small);
    assert!(told.contains("--memory-limit"), "{told}");
    let folder = world.path("hf");
    RandomModel::default().write(&folder).unwrap();
    std::fs::write(folder.join("chat_template.jinja"), "{% for %}").unwrap();
    let template = ["generate", "--model", text_of(&folder), "--prompt", "x"];
    let told = world.refused(1, &template);
    assert!(told.contains("chat template"), "{told}");
    assert!(!world.path("cache/odmoe/stores").exists());
    world.done(&[&generate[..], &["--max-tokens", "1"]].concat());
    assert_eq!(
        names(&world.path("cache/odmoe/stores")).len(),
        2,
        "a store and a lock"
    );
}

#[test]
fn a_model_that_lacks_a_tensor_is_refused_by_inspect_too() {
    let world = World::new();
    let gguf = world.path("toy.gguf");
    world.done(&["synth", "toy", "--output", text_of(&gguf)]);
    let mut bytes = std::fs::read(&gguf).unwrap();
    let name = b"blk.1.ffn_norm.weight";
    let at = bytes.windows(name.len()).position(|window| window == name);
    bytes[at.unwrap() + 4] = b'7';
    std::fs::write(&gguf, bytes).unwrap();
    let told = world.refused(1, &["inspect", text_of(&gguf)]);
    assert_eq!(
        told,
        world.refused(1, &["convert", text_of(&gguf), text_of(&world.path("s"))])
    );
}

/// A file may hold a terminal's commands; what is shown has none.
#[test]
fn what_a_refused_file_says_is_shown_without_control_characters() {
    let world = World::new();
    let mut metadata = Metadata::default();
    let name = format!("x\u{1b}[2J{}", "y".repeat(1000));
    metadata.insert("general.architecture", Entry::String(name.into()));
    let layout = GgufLayout::new(&metadata, &[]).unwrap();
    let path = world.path("odd.gguf");
    std::fs::write(&path, layout.header).unwrap();
    let output = world.run(&["inspect", text_of(&path)]);
    let told = [output.stdout, output.stderr].concat();
    assert!(!told.contains(&0x1b) && told.len() < 1000);
}

#[test]
fn a_prompt_that_is_too_long_takes_no_answer_from_the_others() {
    let world = World::new();
    let prompts = world.write("prompts", &format!("One\nTwo\n{}\n", "long ".repeat(5000)));
    let arguments = [
        "generate",
        "--prompts",
        text_of(&prompts),
        "--max-tokens",
        "2",
        "--json",
    ];
    let output = world.run(&arguments);
    assert_eq!(output.status.code(), Some(1));
    let answers = String::from_utf8(output.stdout).unwrap();
    let prompts: Vec<Value> = answers
        .lines()
        .map(|line| json(line)["prompt"].clone())
        .collect();
    assert_eq!(prompts, ["One", "Two"]);
}

/// Commands that make no model say which flag is at fault.
#[test]
fn shapes_that_no_model_has_are_refused_by_their_flag() {
    let world = World::new();
    let output = world.path("m.gguf");
    let refuse = |code: i32, more: &[&str]| {
        let fixed = ["synth", "--output", text_of(&output)];
        let told = world.refused(code, &[&fixed, more].concat());
        assert!(!output.exists());
        told
    };
    assert!(refuse(2, &["toys"]).contains("qwen3-30b-a3b"));
    assert!(refuse(2, &["llama-1b", "--experts", "4"]).contains("is dense"));
    assert!(refuse(2, &["toy", "--quant", "Q9"]).contains("Q4_K_M"));
    assert!(refuse(2, &["toy", "--top-k", "9"]).contains("num_experts_per_tok"));
    assert!(refuse(1, &["toy", "--vocab", "100"]).contains("259"));
    assert!(refuse(2, &["toy", "--layers", "1024", "--experts", "65536"]).contains("--experts"));
}

/// Not at a terminal, so in lines: where to, how much, then how far and how long yet.
#[test]
fn serving_a_source_tells_of_its_conversion_once() {
    let world = World::new();
    let folder = world.path("hf");
    RandomModel::default().write(&folder).unwrap();
    let serve = || {
        let mut server = world.serve(&["--model", text_of(&folder)]);
        server.until_ready();
        let (code, told) = server.stop_and_read();
        assert_eq!(code, Some(0), "{told}");
        told
    };
    let told = serve();
    let stores = world.path("cache/odmoe/stores");
    let planned = told
        .lines()
        .position(|line| {
            line.contains(text_of(&stores)) && line.contains("needs") && line.contains("are free")
        })
        .unwrap_or_else(|| panic!("no plan in: {told}"));
    let first = told.lines().position(|line| line.contains(" % ("));
    assert!(
        first.is_some_and(|first| planned < first),
        "the plan comes before the work: {told}"
    );
    let last = told.lines().rfind(|line| line.contains(" % (")).unwrap();
    assert!(
        last.starts_with("100 % (") && last.contains(" left): "),
        "{told}"
    );
    let again = serve();
    assert!(
        !again.contains("needs") && !again.contains(" % ("),
        "{again}"
    );
}

#[test]
fn a_packed_store_is_the_same_archive_each_time() {
    let world = World::new();
    let (folder, store) = (world.path("hf"), world.path("store"));
    RandomModel::default().write(&folder).unwrap();
    world.done(&["convert", text_of(&folder), text_of(&store)]);
    for name in ["a.tar", "b.tar"] {
        world.done(&["pack", text_of(&store), text_of(&world.path(name))]);
    }
    assert!(
        std::fs::read(world.path("a.tar")).unwrap() == std::fs::read(world.path("b.tar")).unwrap()
    );
    let hash = std::fs::read_to_string(world.path("a.tar.sha256")).unwrap();
    assert_eq!(hash.trim().len(), 64);
}
