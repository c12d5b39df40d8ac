use super::*;
use crate::source::{ModelSource, TensorId};
use crate::test_support::{fixture, source_values};
use odmoe_formats::ExpertKey;
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
