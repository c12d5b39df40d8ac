use super::*;
use crate::checksum::xxh3_128_hex;
use crate::expected;
use crate::model_config::tests::small;
use crate::test_random::Random;

const OBJECT_BYTES: u64 = 12_288;

/// A whole manifest: every resident tensor in file 0, every expert in a file of its own.
fn valid() -> Manifest {
    let config = small();
    let mut files = vec![StoreFile {
        path: "base.safetensors".into(),
        bytes: 0,
    }];
    let mut resident = BTreeMap::new();
    let mut end = OBJECT_ALIGNMENT_BYTES;
    for tensor in expected::resident_tensors(&config).unwrap() {
        let format = BlockFormat::F32;
        let bytes = format.tensor_bytes(&tensor.shape).unwrap();
        let (file, offset, shape) = (FileIndex(0), end, tensor.shape);
        let xxh3_128 = xxh3_128_hex(tensor.name.as_bytes());
        end = (end + bytes).next_multiple_of(TENSOR_ALIGNMENT_BYTES);
        resident.insert(
            tensor.name,
            ResidentTensor {
                file,
                offset,
                bytes,
                shape,
                format,
                layout: WeightLayout::RowMajor,
                xxh3_128,
            },
        );
    }
    files[0].bytes = end;

    let mut objects = Vec::new();
    for (layer, index) in (0..2).flat_map(|layer| (0..3).map(move |index| (layer, index))) {
        let path = format!("experts/layer-{layer:03}/expert-{index:03}.safetensors");
        files.push(StoreFile {
            path,
            bytes: OBJECT_ALIGNMENT_BYTES + OBJECT_BYTES,
        });
        objects.push(valid_object(
            &config,
            FileIndex(files.len() as u32 - 1),
            layer,
            index,
        ));
    }
    Manifest {
        format_version: FORMAT_VERSION_ROW_MAJOR,
        name: "small".into(),
        config,
        files,
        resident,
        objects,
        text: TextFiles {
            tokenizer: Some("tokenizer.json".into()),
            ..TextFiles::default()
        },
        provenance: Provenance {
            converter: "odmoe 0.1.0".into(),
            sources: vec![SourceFile {
                name: "model.safetensors".into(),
                bytes: 9,
                sha256: "0f".repeat(32),
            }],
        },
    }
}

fn valid_object(config: &ModelConfig, file: FileIndex, layer: u32, index: u32) -> PageableObject {
    let format = BlockFormat::BF16;
    let mut tensors = BTreeMap::new();
    for (place, (role, shape)) in expected::expert_tensors(config).into_iter().enumerate() {
        let (offset, bytes) = (place as u64 * 4096, format.tensor_bytes(&shape).unwrap());
        let tensor = ObjectTensor {
            offset,
            bytes,
            shape: shape.to_vec(),
            format,
        };
        tensors.insert(role.name().into(), tensor);
    }
    PageableObject {
        key: ExpertKey::routed(layer, index),
        file,
        offset: OBJECT_ALIGNMENT_BYTES,
        bytes: OBJECT_BYTES,
        layout: WeightLayout::RowMajor,
        tensors,
        xxh3_128: "0".repeat(32),
    }
}

/// The change must be refused with an error whose text has `expected` in it.
#[track_caller]
fn refused(change: impl FnOnce(&mut Manifest), expected: &str) {
    let mut manifest = valid();
    change(&mut manifest);
    let error = Manifest::from_json(&manifest.to_json())
        .unwrap_err()
        .to_string();
    assert!(
        error.contains(expected),
        "{error:?} does not say {expected:?}"
    );
}

fn gate(manifest: &mut Manifest) -> &mut ObjectTensor {
    manifest.objects[0].tensors.get_mut("gate_proj").unwrap()
}

fn norm(manifest: &mut Manifest) -> &mut ResidentTensor {
    manifest.resident.get_mut("norm").unwrap()
}

#[test]
fn a_valid_manifest_survives_json_and_is_written_the_same_way() {
    let mut manifest = valid();
    manifest.config.rope_theta = 1_234_567.890_123_4;
    manifest.config.rms_norm_eps = 1.234_567_8e-6;
    let json = manifest.to_json();
    let read = Manifest::from_json(&json).unwrap();
    assert_eq!(read, manifest);
    assert_eq!(read.to_json(), json);
    assert_eq!(read.object_bytes(), ByteCount(6 * OBJECT_BYTES));
}

#[test]
fn another_version_is_called_that() {
    refused(
        |m| m.format_version = 3,
        "format version 3, this build reads 1 and 2",
    );
    let error = Manifest::from_json(br#"{"format_version": 77, "new": []}"#).unwrap_err();
    assert_eq!(error, ManifestError::Version { found: 77 });
}

#[test]
fn paths_stay_inside_the_store() {
    let outside = [
        "",
        "/etc/passwd",
        "..",
        "a/../b",
        "a//b",
        "a/",
        "./a",
        "a\\b",
        "a\0b",
        "c:/a",
        "a\nb",
    ];
    for path in outside {
        refused(
            |m| m.files[1].path = path.into(),
            "not a plain relative path",
        );
        refused(
            |m| m.text.tokenizer = Some(path.into()),
            "not a plain relative path",
        );
    }
    refused(
        |m| m.files[1].path = "x/".repeat(600) + "x",
        "not a plain relative path",
    );
    refused(
        |m| m.files[1].path = "base.safetensors".into(),
        "listed twice",
    );
    refused(
        |m| m.text.chat_template = Some("tokenizer.json".into()),
        "listed twice",
    );
}

#[test]
fn ranges_lie_inside_their_files_and_apart() {
    refused(|m| norm(m).file = FileIndex(99), "file 99 of 7");
    // Each file could be, but all together no sum holds.
    refused(
        |m| m.files.iter_mut().for_each(|file| file.bytes = 1 << 62),
        "together have more",
    );
    refused(|m| norm(m).offset = u64::MAX, "do not lie inside");
    refused(
        |m| m.objects[1].bytes = u64::MAX - 4095,
        "do not lie inside",
    );
    refused(
        |m| m.objects[1].file = FileIndex(1),
        "layer 0 expert 0 and layer 0 expert 1 share",
    );
    refused(|m| norm(m).offset = 4096, "share bytes");
    refused(
        |m| {
            let file = m.objects[0].file;
            (norm(m).file, norm(m).offset) = (file, 4096 + 512);
        },
        "layer 0 expert 0 and tensor norm share bytes",
    );
}

#[test]
fn objects_are_aligned_and_whole() {
    refused(|m| m.objects[0].offset = 256, "not a multiple of 4096");
    refused(|m| m.objects[0].bytes = 0, "not a multiple of 4096");
    refused(|m| gate(m).offset = 128, "not a multiple of 256");
    refused(|m| gate(m).offset = 12_288, "do not lie inside");
    refused(|m| gate(m).offset = u64::MAX - 255, "do not lie inside");
    refused(|m| gate(m).offset = 4096, "share bytes");
    refused(|m| m.objects[0].key.layer.0 = 2, "no such expert");
    refused(|m| m.objects[0].key.index.0 = 3, "no such expert");
    refused(|m| m.objects[0].key.index.0 = 1, "listed twice");
    refused(
        |m| drop(m.objects.pop()),
        "5 experts are listed where the configuration calls for 6",
    );
    refused(
        |m| m.objects[0].xxh3_128 = "A".repeat(32),
        "32 lower-case hex digits",
    );
}

#[test]
fn tensors_are_those_of_the_configuration() {
    refused(
        |m| drop(m.resident.remove("layers.1.router")),
        "tensor layers.1.router is missing",
    );
    refused(
        |m| drop(m.objects[0].tensors.remove("up_proj")),
        "expert 0 up_proj is missing",
    );
    refused(|m| m.config.tie_word_embeddings = true, "lm_head is listed");
    refused(|m| m.config.num_attention_heads = 8, "calls for [128, 64]");
    refused(|m| gate(m).shape = vec![64, 32], "calls for [32, 64]");
    refused(|m| gate(m).shape = vec![2; 1000], "calls for [32, 64]");
    refused(|m| gate(m).bytes -= 1, "does not take");
    refused(|m| gate(m).format = BlockFormat::Q8_0, "does not take");
    refused(|m| norm(m).shape = vec![], "does not take");
    refused(
        |m| (norm(m).format, norm(m).bytes) = (BlockFormat::BF16, 128),
        "never stored as BF16",
    );
    refused(
        |m| {
            let tensor = m.objects[0].tensors["gate_proj"].clone();
            m.objects[0].tensors.insert("bias".into(), tensor);
        },
        "expert 0 bias is listed",
    );
}

#[test]
fn configuration_text_and_provenance_are_checked() {
    refused(|m| m.config.hidden_size = 0, "hidden_size is 0");
    refused(|m| m.name = String::new(), "name \"\"");
    refused(|m| m.name = "a\u{1b}[2J".into(), "control characters");
    refused(
        |m| m.text.end_of_sequence_ids = vec![40],
        "id 40 is not below",
    );
    refused(
        |m| m.provenance.sources[0].sha256 = "0".repeat(63),
        "64 lower-case hex digits",
    );
}

#[test]
fn duplicate_keys_are_refused() {
    let json = String::from_utf8(valid().to_json()).unwrap();
    let twice = json.replacen("\"layers.0.k_norm\"", "\"layers.0.k_proj\"", 1);
    let error = Manifest::from_json(twice.as_bytes())
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("duplicate key \"layers.0.k_proj\""),
        "{error}"
    );
    let twice = json.replacen("\"name\": \"small\"", "\"name\": \"a\", \"name\": \"b\"", 1);
    let error = Manifest::from_json(twice.as_bytes())
        .unwrap_err()
        .to_string();
    assert!(error.contains("duplicate field"), "{error}");
}

#[test]
fn a_hostile_count_is_refused_without_the_work() {
    let layers = |m: &mut Manifest| {
        m.config.num_hidden_layers = 1024;
        m.config.moe.as_mut().expect("a sparse model").num_experts = 65_536;
    };
    refused(layers, "tensor layers.0.router: shape");
}

#[test]
fn mutated_manifests_never_panic() {
    let json = valid().to_json();
    for seed in 0..3000 {
        let mut random = Random::new(seed);
        let mut mutated = json.clone();
        random.mutate(&mut mutated);
        // What is still accepted must hold what validation promises.
        if let Ok(manifest) = Manifest::from_json(&mutated) {
            assert_eq!(manifest.validate(), Ok(()), "seed {seed}");
            for tensor in manifest.resident.values() {
                let file = manifest.file(tensor.file);
                assert!(tensor.offset + tensor.bytes <= file.bytes, "seed {seed}");
            }
        }
    }
}

/// A projection in lanes, and an expert that has one matrix in lanes.
fn with_lanes() -> Manifest {
    let mut manifest = valid();
    manifest.format_version = FORMAT_VERSION;
    let queries = manifest.resident.get_mut("layers.0.q_proj").unwrap();
    queries.format = BlockFormat::Q8_0;
    queries.bytes = queries.format.tensor_bytes(&queries.shape).unwrap();
    queries.layout = WeightLayout::Lanes16;
    let object = &mut manifest.objects[0];
    object.layout = WeightLayout::Lanes16;
    for (role, format) in [
        ("gate_proj", BlockFormat::Q8_0),
        ("down_proj", BlockFormat::F16),
    ] {
        let tensor = object.tensors.get_mut(role).unwrap();
        tensor.format = format;
        tensor.bytes = format.tensor_bytes(&tensor.shape).unwrap();
    }
    manifest
}

#[test]
fn a_manifest_with_lanes_is_of_version_2() {
    let manifest = with_lanes();
    let json = manifest.to_json();
    assert_eq!(Manifest::from_json(&json), Ok(manifest.clone()));
    assert_eq!(manifest.layout(), WeightLayout::Lanes16);
    let text = String::from_utf8(json).unwrap();
    assert_eq!(text.matches("\"layout\": \"lanes-16-1\"").count(), 2);
    // Of an object in lanes, what cannot be in lanes is not.
    let object = &manifest.objects[0];
    let layout = |role: &str| object.layout_of(&object.tensors[role]);
    assert_eq!(layout("gate_proj"), WeightLayout::Lanes16);
    assert_eq!(layout("down_proj"), WeightLayout::RowMajor);
}

/// Builds that know only version 1 read it.
#[test]
fn a_row_major_manifest_is_what_it_was_in_version_1() {
    let manifest = valid();
    assert_eq!(manifest.layout(), WeightLayout::RowMajor);
    let json: serde_json::Value = serde_json::from_slice(&manifest.to_json()).unwrap();
    assert_eq!(json["format_version"], 1);
    let resident = json["resident"].as_object().unwrap().values();
    assert!(
        resident
            .into_iter()
            .all(|tensor| tensor.get("layout").is_none())
    );
    let objects = json["objects"].as_array().unwrap();
    assert!(
        objects
            .iter()
            .all(|object| object["layout"] == "row-major-1")
    );
}

#[test]
fn a_layout_is_one_that_the_version_and_the_tensor_can_have() {
    let refused = |change: &dyn Fn(&mut Manifest), expected: &str| {
        let mut manifest = with_lanes();
        change(&mut manifest);
        let error = Manifest::from_json(&manifest.to_json()).unwrap_err();
        let said = error.to_string();
        assert!(
            said.contains(expected),
            "{said:?} does not say {expected:?}"
        );
    };
    let rows = WeightLayout::RowMajor;
    let in_rows = |m: &mut Manifest| m.resident.get_mut("layers.0.q_proj").unwrap().layout = rows;
    refused(
        &|m| m.format_version = 1,
        "tensor layers.0.q_proj: layout lanes-16-1 in a store of format version 1",
    );
    refused(
        &|m| {
            in_rows(m);
            m.format_version = 1;
        },
        "layer 0 expert 0: layout lanes-16-1 in a store of format version 1",
    );
    refused(
        &|m| norm(m).layout = WeightLayout::Lanes16,
        "tensor norm: shape [64] of F32 has no layout lanes-16-1",
    );
    let of_40_rows = |m: &mut Manifest| {
        let head = m.resident.get_mut("lm_head").unwrap();
        (head.format, head.layout) = (BlockFormat::Q8_0, WeightLayout::Lanes16);
        head.bytes = head.format.tensor_bytes(&head.shape).unwrap();
    };
    refused(
        &of_40_rows,
        "tensor lm_head: shape [40, 64] of Q8_0 has no layout",
    );
    for version in [1, 2] {
        let mut manifest = valid();
        manifest.format_version = version;
        let json = String::from_utf8(manifest.to_json()).unwrap();
        let tiled = json.replacen("row-major-1", "tiled", 1);
        let error = Manifest::from_json(tiled.as_bytes()).unwrap_err();
        assert!(matches!(error, ManifestError::Json(_)), "{error}");
        assert!(error.to_string().contains("`tiled`"), "{error}");
    }
}

/// The same model with its experts replaced by a dense MLP.
fn dense() -> Manifest {
    let mut manifest = valid();
    manifest.config.architecture = "llama".into();
    (manifest.config.moe, manifest.config.intermediate_size) = (None, 8);
    manifest.objects.clear();
    manifest.files.truncate(1);
    let donor = manifest.resident["lm_head"].clone();
    manifest.resident.clear();
    manifest.files[0].bytes = 0;
    for tensor in expected::resident_tensors(&manifest.config).unwrap() {
        let offset = manifest.files[0].bytes;
        let bytes = BlockFormat::F32.tensor_bytes(&tensor.shape).unwrap();
        manifest.files[0].bytes = offset + bytes;
        let placed = ResidentTensor {
            offset,
            bytes,
            shape: tensor.shape,
            ..donor.clone()
        };
        manifest.resident.insert(tensor.name, placed);
    }
    manifest
}

#[test]
fn a_model_without_experts_is_valid_without_objects() {
    let manifest = dense();
    let json = manifest.to_json();
    assert_eq!(Manifest::from_json(&json), Ok(manifest.clone()));
    assert_eq!(manifest.object_bytes(), ByteCount(0));

    let mut paged = dense();
    paged.objects = valid().objects[..1].to_vec();
    let error = paged.validate().unwrap_err();
    assert!(
        matches!(error, ManifestError::UnexpectedObject(_)),
        "{error}"
    );

    let mut without = valid();
    without.config.moe = None;
    without.config.intermediate_size = 8;
    let error = without.validate().unwrap_err().to_string();
    assert_eq!(
        error,
        "configuration: qwen3moe models have routed experts, but none are described"
    );
}
