//! Files that are missing, elsewhere, or not what they seem.

use super::*;

#[test]
fn missing_files_are_named() {
    let cases = [
        ("config.json", "config.json is missing"),
        ("tokenizer.json", "tokenizer.json is missing"),
        (
            "model.safetensors",
            "model.safetensors is missing; there is no model.safetensors.index.json",
        ),
    ];
    for (file, expected) in cases {
        let fixture = default_fixture();
        fs::remove_file(fixture.model.join(file)).unwrap();
        let error = error_of(&fixture);
        assert!(error.contains(expected), "{error}");
    }
    let folder = tempfile::tempdir().unwrap();
    let open = |path: &Path| open_source(path).err().unwrap().to_string();
    assert!(open(&folder.path().join("nowhere")).contains("No such file"));
    fs::write(folder.path().join("model.bin"), "x").unwrap();
    assert!(open(&folder.path().join("model.bin")).contains("or a Hugging Face folder"));
}

#[test]
fn an_index_that_lies_is_refused() {
    let sharded = || {
        fixture(&RandomModel {
            shards: 2,
            ..RandomModel::default()
        })
    };
    let check = |change: &dyn Fn(&mut Value), expected: &str| {
        let fixture = sharded();
        fixture.edit_json("model.safetensors.index.json", |index| change(index));
        let error = error_of(&fixture);
        assert!(
            error.contains(expected),
            "{error:?} does not say {expected:?}"
        );
    };
    let set = |file: Value| {
        move |index: &mut Value| index["weight_map"]["model.norm.weight"] = file.clone()
    };
    for outside in [
        "../model.safetensors",
        "/etc/passwd",
        "a/b",
        "",
        ".hidden",
        "a\\b",
        "a\0b",
    ] {
        check(&set(outside.into()), "is in no plainly named file");
    }
    check(&set(7.into()), "is in no plainly named file");
    check(
        &set("other.safetensors".into()),
        "other.safetensors: the index names it but it is not there",
    );
    let second = "model-00002-of-00002.safetensors";
    check(
        &set(second.into()),
        "\"model.norm.weight\" is not in model-00002-of-00002.safetensors",
    );
    check(
        &|index| index["weight_map"] = Value::Null,
        "there is no weight_map object",
    );
    check(
        &|index| {
            drop(
                index["weight_map"]
                    .as_object_mut()
                    .unwrap()
                    .remove("model.norm.weight"),
            )
        },
        "tensor norm is missing",
    );

    // A file that is no regular one could keep a read waiting for ever.
    let fixture = sharded();
    fs::remove_file(fixture.model.join(second)).unwrap();
    fs::create_dir(fixture.model.join(second)).unwrap();
    assert!(error_of(&fixture).contains("not a regular file"));
}

#[test]
fn chat_templates_are_found_wherever_they_are() {
    let template = |change: &dyn Fn(&Fixture)| {
        let fixture = default_fixture();
        change(&fixture);
        HuggingFaceFolder::open(&fixture.model).map(|source| source.metadata.text.chat_template)
    };
    let in_config = |value: Value| {
        move |fixture: &Fixture| {
            let value = value.clone();
            fixture.edit_json("tokenizer_config.json", |config| {
                config["chat_template"] = value
            });
        }
    };
    let named = json!([{"name": "rag", "template": "no"}, {"name": "default", "template": "yes"}]);
    assert_eq!(
        template(&in_config("plain".into())).unwrap().unwrap(),
        "plain"
    );
    assert_eq!(template(&in_config(named)).unwrap().unwrap(), "yes");
    assert_eq!(template(&in_config(json!([]))).unwrap(), None);
    assert_eq!(template(&in_config(Value::Null)).unwrap(), None);
    let error = template(&in_config(7.into())).unwrap_err().to_string();
    assert!(
        error.contains("\"chat_template\" must be a string or a list"),
        "{error}"
    );
    let file = |contents: &'static [u8]| {
        move |fixture: &Fixture| {
            fs::write(fixture.model.join("chat_template.jinja"), contents).unwrap()
        }
    };
    assert_eq!(
        template(&file(b"from the file")).unwrap().unwrap(),
        "from the file"
    );
    assert!(
        template(&file(b"\xff\xfe"))
            .unwrap_err()
            .to_string()
            .contains("not UTF-8")
    );
}

#[test]
fn special_tokens_and_ends_of_sequence_are_found_wherever_they_are() {
    let fixture = default_fixture();
    fixture.edit_json("tokenizer_config.json", |config| {
        config["eos_token"] = Value::Null;
        config["bos_token"] = json!({"content": "<s>", "lstrip": false});
    });
    let map = json!({"eos_token": "<end>", "bos_token": "ignored", "additional": []});
    fs::write(
        fixture.model.join("special_tokens_map.json"),
        map.to_string(),
    )
    .unwrap();
    let tokens = fixture.open().metadata.text.special_tokens;
    assert_eq!(
        (tokens["eos_token"].as_str(), tokens["bos_token"].as_str()),
        ("<end>", "<s>")
    );

    let ends = |generation: Value, config: Value| {
        let fixture = default_fixture();
        fixture.edit_json("generation_config.json", |file| {
            file["eos_token_id"] = generation
        });
        fixture.edit_json("config.json", |file| file["eos_token_id"] = config);
        let source = HuggingFaceFolder::open(&fixture.model);
        source
            .map(|source| source.metadata.text.end_of_sequence_ids)
            .map_err(|e| e.to_string())
    };
    assert_eq!(ends(json!([3, 4, 3]), json!(5)), Ok(vec![3, 4]));
    assert_eq!(ends(json!(3), json!(5)), Ok(vec![3]));
    assert_eq!(ends(Value::Null, json!(5)), Ok(vec![5]));
    assert_eq!(ends(Value::Null, Value::Null), Ok(vec![]));
    assert!(
        ends(json!(300), json!(5))
            .unwrap_err()
            .contains("300 is not below vocab_size 300")
    );
    assert!(
        ends(Value::Null, json!("x"))
            .unwrap_err()
            .contains("config.json: \"eos_token_id\" must")
    );
}

#[test]
fn the_fingerprint_follows_the_files_and_nothing_else() {
    let fixture = default_fixture();
    let of = |fixture: &Fixture| fixture.open().fingerprint();
    let before = of(&fixture);
    assert_eq!(of(&fixture), before);
    let copy = fixture.folder.path().join("unrelated");
    fs::write(copy, "x").unwrap();
    assert_eq!(of(&fixture), before);
    fixture.edit_json("config.json", |config| config["rms_norm_eps"] = 1e-5.into());
    let after = of(&fixture);
    assert_ne!(after, before);
    // The same size, another time.
    let path = fixture.model.join("model.safetensors");
    let time = fs::metadata(&path).unwrap().modified().unwrap();
    let file = fs::File::options().write(true).open(&path).unwrap();
    file.set_modified(time + std::time::Duration::from_secs(2))
        .unwrap();
    assert_ne!(of(&fixture), after);
}

#[test]
fn contents_tell_models_apart_whose_files_have_equal_times() {
    let of = |seed, change: &dyn Fn(&Path)| {
        let model = RandomModel {
            seed,
            ..RandomModel::default()
        };
        let fixture = fixture(&model);
        change(&fixture.model);
        for entry in fs::read_dir(&fixture.model).unwrap() {
            let path = entry.unwrap().path();
            let file = fs::File::options().write(true).open(path).unwrap();
            file.set_modified(std::time::UNIX_EPOCH).unwrap();
        }
        fixture.open().fingerprint()
    };
    let before = of(1, &|_| {});
    assert_eq!(of(1, &|_| {}), before, "a copy");
    assert_ne!(of(2, &|_| {}), before, "other weights");
    let other_token = |model: &Path| {
        let path = model.join("tokenizer.json");
        let text = fs::read_to_string(&path).unwrap();
        fs::write(path, text.replacen("<|im_end|>", "<|im_END|>", 1)).unwrap();
    };
    assert_ne!(of(1, &other_token), before, "another tokenizer");
}

#[test]
fn cut_and_scrambled_files_give_errors_and_never_panics() {
    let model = RandomModel {
        layers: 1,
        experts: 2,
        format: BlockFormat::F32,
        ..RandomModel::default()
    };
    let files = [
        "config.json",
        "model.safetensors",
        "tokenizer_config.json",
        "generation_config.json",
    ];
    let fixture = fixture(&model);
    for (number, file) in files.iter().enumerate() {
        let path = fixture.model.join(file);
        let whole = fs::read(&path).unwrap();
        let limit = whole.len().min(4000);
        for step in 0..60 {
            let at = (step * 7919 + number * 13) % limit;
            fs::write(&path, &whole[..at]).unwrap();
            assert!(
                HuggingFaceFolder::open(&fixture.model).is_err(),
                "{file} cut at {at}"
            );
            let mut changed = whole.clone();
            changed[at] ^= 1 << (step % 8);
            fs::write(&path, changed).unwrap();
            // A changed byte may leave a valid model; it may not do worse.
            let _ = HuggingFaceFolder::open(&fixture.model);
        }
        fs::write(&path, whole).unwrap();
    }
    fixture.open();
}
