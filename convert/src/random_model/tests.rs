mod routing;

use super::*;
use crate::source::{ModelSource, TensorId};
use crate::test_support::{StopAt, fixture, source_values};
use odmoe_formats::ExpertKey;
use odmoe_formats::gguf::Gguf;
use odmoe_formats::names::ExpertRole;

fn resident(name: &str) -> TensorId {
    TensorId::Resident(name.into())
}

fn mean_square(values: &[f32]) -> f32 {
    values.iter().map(|x| x * x).sum::<f32>() / values.len() as f32
}

#[test]
fn values_depend_on_seed_and_name_alone() {
    let base = RandomModel::default();
    let (one, sharded) = (
        fixture(&base),
        fixture(&RandomModel {
            shards: 5,
            ..base.clone()
        }),
    );
    let other = fixture(&RandomModel { seed: 1, ..base });
    let (one, sharded, other) = (one.open(), sharded.open(), other.open());
    assert!(
        sharded
            .files()
            .iter()
            .any(|file| file.name == "model-00005-of-00005.safetensors")
    );
    for tensor in one.tensors() {
        let values = source_values(&one, &tensor.id);
        assert_eq!(values, source_values(&sharded, &tensor.id), "{}", tensor.id);
        assert_ne!(values, source_values(&other, &tensor.id), "{}", tensor.id);
    }
    let expert = |index| TensorId::Expert(ExpertKey::routed(0, index), ExpertRole::UpProj);
    assert_ne!(
        source_values(&one, &expert(0)),
        source_values(&one, &expert(1))
    );
}

#[test]
fn scales_keep_the_size_of_activations() {
    let model = RandomModel {
        hidden: 256,
        expert_ffn: 96,
        format: BlockFormat::F32,
        ..RandomModel::default()
    };
    let fixture = fixture(&model);
    let source = fixture.open();
    // A matrix times a vector of mean square 1 gives one of about mean square 1.
    for (name, columns) in [
        ("layers.0.q_proj", 256.0),
        ("layers.1.o_proj", 64.0),
        ("lm_head", 256.0),
    ] {
        let gain = mean_square(&source_values(&source, &resident(name))) * columns;
        assert!((0.8..1.25).contains(&gain), "{name}: {gain}");
    }
    let norm = source_values(&source, &resident("norm"));
    assert!(norm.iter().all(|x| (0.7..=1.3).contains(x)));
    let embedding = mean_square(&source_values(&source, &resident("embed_tokens")));
    assert!((0.8..1.25).contains(&embedding), "{embedding}");
}

#[test]
fn shapes_that_no_model_has_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let refuse = |model: RandomModel| {
        let path = folder.path().join("model");
        let error = model.write(&path).unwrap_err();
        assert!(!path.exists(), "something was written");
        error.to_string()
    };
    let base = RandomModel::default();
    assert!(
        refuse(RandomModel {
            kv_heads: 3,
            ..base.clone()
        })
        .contains("not a multiple")
    );
    assert!(
        refuse(RandomModel {
            vocab: 258,
            ..base.clone()
        })
        .contains("the tokenizer needs 259")
    );
    assert!(
        refuse(RandomModel {
            shards: 0,
            ..base.clone()
        })
        .contains("at least one file")
    );
    assert!(
        refuse(RandomModel {
            format: BlockFormat::Q8_0,
            ..base
        })
        .contains("choose F32")
    );
}

#[test]
fn more_shards_than_tensors_is_one_tensor_a_file() {
    let model = RandomModel {
        layers: 1,
        experts: 2,
        shards: 1000,
        ..RandomModel::default()
    };
    let fixture = fixture(&model);
    let source = fixture.open();
    let shards = source
        .files()
        .iter()
        .filter(|file| file.name.ends_with(".safetensors"));
    assert_eq!(shards.count(), source.tensors().len());
}

/// A GGUF file read back: its description and its bytes.
fn written(model: &RandomModel, options: GgufOptions, name: &str) -> (Gguf, Vec<u8>) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    model
        .write_gguf(&path, options, WriteOptions::default())
        .unwrap();
    let bytes = std::fs::read(&path).unwrap();
    let gguf = Gguf::read(&mut bytes.as_slice(), bytes.len() as u64).unwrap();
    (gguf, bytes)
}

fn stacked(quantisation: Quantisation) -> GgufOptions {
    GgufOptions {
        quantisation,
        naming: ExpertNaming::Stacked,
    }
}

/// The bytes of the tensor of that name.
fn tensor_bytes<'a>(gguf: &Gguf, bytes: &'a [u8], name: &str) -> &'a [u8] {
    let tensor = gguf.tensors.iter().find(|tensor| tensor.name == name);
    let tensor = tensor.unwrap_or_else(|| panic!("{name} is not there"));
    &bytes[tensor.range.start as usize..tensor.range.end as usize]
}

#[test]
fn the_same_seed_gives_the_same_bytes_and_another_gives_others() {
    let toy = Preset::Toy.model();
    let options = stacked(Quantisation::Q4KM);
    let (_, first) = written(&toy, options, "m.gguf");
    assert!(
        (1_700_000..2_600_000).contains(&first.len()),
        "{}",
        first.len()
    );
    assert!(first == written(&toy, options, "m.gguf").1);
    assert!(first != written(&RandomModel { seed: 1, ..toy }, options, "m.gguf").1);
}

#[test]
fn names_of_experts_change_no_weight() {
    let toy = Preset::Toy.model();
    let quantisation = Quantisation::All(BlockFormat::Q4_K);
    let (gguf, bytes) = written(&toy, stacked(quantisation), "m.gguf");
    for naming in [ExpertNaming::PerExpert, ExpertNaming::Legacy] {
        let options = GgufOptions {
            quantisation,
            naming,
        };
        let (other, other_bytes) = written(&toy, options, "m.gguf");
        assert_eq!(other.metadata, gguf.metadata);
        for (role, older) in [("gate", "w1"), ("down", "w2"), ("up", "w3")] {
            let all = tensor_bytes(&gguf, &bytes, &format!("blk.1.ffn_{role}_exps.weight"));
            let one = all.len() / toy.experts as usize;
            let name = match naming {
                ExpertNaming::Legacy => format!("blk.1.ffn.experts.5.{older}.weight"),
                _ => format!("blk.1.ffn_{role}.5.weight"),
            };
            assert!(
                tensor_bytes(&other, &other_bytes, &name) == &all[5 * one..6 * one],
                "{name}"
            );
        }
    }
}

#[test]
fn parts_hold_the_tensors_of_the_whole() {
    let toy = Preset::Toy.model();
    let options = stacked(Quantisation::All(BlockFormat::Q8_0));
    let (whole, bytes) = written(&toy, options, "m.gguf");
    let folder = tempfile::tempdir().unwrap();
    let three = WriteOptions {
        parts: 3,
        ..WriteOptions::default()
    };
    let path = folder.path().join("m.gguf");
    let parts = toy.write_gguf(&path, options, three).unwrap().files;
    assert!(parts[2].ends_with("m-00003-of-00003.gguf"));
    let mut seen = 0;
    for (number, part) in parts.iter().enumerate() {
        let part = std::fs::read(part).unwrap();
        let gguf = Gguf::read(&mut part.as_slice(), part.len() as u64).unwrap();
        assert_eq!(gguf.metadata.integer("split.no"), Ok(Some(number as u64)));
        assert_eq!(gguf.metadata.integer("split.count"), Ok(Some(3)));
        assert!(part.len() < bytes.len() / 2, "{}", part.len());
        for tensor in &gguf.tensors {
            let found = tensor_bytes(&gguf, &part, &tensor.name);
            assert!(found == tensor_bytes(&whole, &bytes, &tensor.name));
        }
        seen += gguf.tensors.len();
    }
    assert_eq!(seen, whole.tensors.len());
}

#[test]
fn a_file_that_is_there_is_kept_and_a_stopped_one_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    let (toy, options) = (Preset::Toy.model(), stacked(Quantisation::Q4KM));
    let stop = StopAt::report(2);
    let stopped = WriteOptions {
        progress: &stop,
        ..WriteOptions::default()
    };
    let error = toy.write_gguf(&path, options, stopped).unwrap_err();
    assert!(matches!(error, RandomModelError::Cancelled));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    std::fs::write(&path, "mine").unwrap();
    let error = toy.write_gguf(&path, options, WriteOptions::default());
    assert!(matches!(error, Err(RandomModelError::Exists { .. })));
    assert_eq!(std::fs::read(&path).unwrap(), b"mine");
    let overwrite = WriteOptions {
        overwrite: true,
        ..WriteOptions::default()
    };
    toy.write_gguf(&path, options, overwrite).unwrap();
    assert!(std::fs::metadata(&path).unwrap().len() > 1_000_000);
}

#[test]
fn what_gguf_or_a_routing_cannot_have_is_refused() {
    let refuse = |model: RandomModel| {
        let options = stacked(Quantisation::Q4KM);
        let path = Path::new("/nowhere/m.gguf");
        let error = model.write_gguf(path, options, WriteOptions::default());
        error.unwrap_err().to_string()
    };
    let base = RandomModel::default();
    let dense = RandomModel {
        dense_layers: vec![0],
        ..base.clone()
    };
    assert!(refuse(dense).contains("dense layers"));
    let narrow = RandomModel {
        routing: Routing::Reuse,
        ..base
    };
    assert!(refuse(narrow).contains("from 128 on"));
    let many = RandomModel {
        experts: 4,
        routing: Routing::Reuse,
        ..Preset::Toy.model()
    };
    assert!(refuse(many).contains("2 of 4 experts"));
    let olmoe = RandomModel {
        heads: 8,
        kv_heads: 8,
        ..Preset::Olmoe7b.model()
    };
    assert!(refuse(olmoe).contains("olmoe"));
    let llama = RandomModel {
        routing: Routing::Reuse,
        ..Preset::Llama1b.model()
    };
    assert!(refuse(llama).contains("dense"));
}
