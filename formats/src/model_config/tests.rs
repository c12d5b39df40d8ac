use super::*;

pub(crate) fn small() -> ModelConfig {
    ModelConfig {
        architecture: "qwen3moe".into(),
        num_hidden_layers: 2,
        hidden_size: 64,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        head_dim: 16,
        vocab_size: 40,
        rms_norm_eps: 1e-6,
        rope_theta: 10_000.0,
        max_position_embeddings: 128,
        tie_word_embeddings: false,
        intermediate_size: 0,
        attention_bias: false,
        rope_frequency_divisors: Vec::new(),
        moe: Some(MoeConfig {
            num_experts: 3,
            num_experts_per_tok: 2,
            moe_intermediate_size: 32,
            norm_topk_prob: true,
            dense_layers: Vec::new(),
            shared_expert_intermediate_size: 0,
        }),
    }
}

fn moe(config: &mut ModelConfig) -> &mut MoeConfig {
    config.moe.as_mut().expect("a sparse model")
}

#[track_caller]
fn check(change: impl FnOnce(&mut ModelConfig), expected: ConfigError) {
    let mut config = small();
    assert_eq!(config.check(), Ok(()));
    change(&mut config);
    assert_eq!(config.check(), Err(expected));
}

#[test]
fn each_implausible_value_has_its_error() {
    use ConfigError as E;
    check(
        |c| c.hidden_size = 0,
        E::Zero {
            field: "hidden_size",
        },
    );
    check(
        |c| moe(c).num_experts_per_tok = 0,
        E::Zero {
            field: "num_experts_per_tok",
        },
    );
    check(
        |c| c.num_hidden_layers = u32::MAX,
        E::TooLarge {
            field: "num_hidden_layers",
            found: u32::MAX.into(),
            limit: 1024,
        },
    );
    check(
        |c| (c.num_attention_heads, c.head_dim) = (1 << 20, 64),
        E::TooLarge {
            field: "num_attention_heads * head_dim",
            found: 1 << 26,
            limit: 1 << 24,
        },
    );
    check(
        |c| c.num_key_value_heads = 3,
        E::HeadGroups {
            attention: 4,
            key_value: 3,
        },
    );
    check(|c| c.head_dim = 15, E::OddHeadDim(15));
    check(
        |c| moe(c).num_experts_per_tok = 4,
        E::TopK {
            chosen: 4,
            experts: 3,
        },
    );
    check(
        |c| c.rope_theta = -1.0,
        E::NotPositive {
            field: "rope_theta",
            found: -1.0,
        },
    );
    check(
        |c| c.rms_norm_eps = f32::INFINITY,
        E::NotPositive {
            field: "rms_norm_eps",
            found: f64::INFINITY,
        },
    );
    check(
        |c| c.architecture = "a b".into(),
        E::ArchitectureName("a b".into()),
    );
}

#[test]
fn dense_layers_are_ascending_and_not_all() {
    use ConfigError as E;
    let dense = |layers: &'static [u32]| {
        move |c: &mut ModelConfig| {
            c.intermediate_size = 8;
            moe(c).dense_layers = layers.to_vec();
        }
    };
    check(
        dense(&[2]),
        E::DenseLayers {
            found: 2,
            layers: 2,
        },
    );
    check(
        dense(&[0, 0]),
        E::DenseLayers {
            found: 0,
            layers: 2,
        },
    );
    check(
        dense(&[1, 0]),
        E::DenseLayers {
            found: 0,
            layers: 2,
        },
    );
    check(dense(&[0, 1]), E::NoSparseLayer);
    check(
        |c| moe(c).dense_layers = vec![1],
        E::Zero {
            field: "intermediate_size",
        },
    );

    let mut config = small();
    dense(&[1])(&mut config);
    assert_eq!(config.check(), Ok(()));
    assert!(config.is_sparse(0) && !config.is_sparse(1));
    assert_eq!((config.sparse_layers(), config.routed_experts()), (1, 3));
}

#[test]
fn an_architecture_decides_about_experts() {
    use ConfigError as E;
    let named = |name: &str, experts: bool, shared: u32| {
        let mut config = small();
        config.architecture = name.into();
        config.intermediate_size = 8;
        config.moe = config.moe.filter(|_| experts);
        if let Some(moe) = &mut config.moe {
            moe.shared_expert_intermediate_size = shared;
        }
        config.check()
    };
    let experts = |architecture, experts| {
        Err(E::Experts {
            architecture,
            experts,
        })
    };
    let shared = |architecture, found| {
        Err(E::SharedExpert {
            architecture,
            found,
        })
    };
    assert_eq!(named("llama", true, 0), Ok(()));
    assert_eq!(named("llama", false, 0), Ok(()));
    assert_eq!(named("llama", true, 16), shared("llama", 16));
    assert_eq!(named("qwen3", false, 0), Ok(()));
    assert_eq!(named("qwen3", true, 0), experts("qwen3", true));
    assert_eq!(named("qwen3moe", false, 0), experts("qwen3moe", false));
    assert_eq!(named("olmoe", false, 0), experts("olmoe", false));
    assert_eq!(named("qwen2moe", true, 16), Ok(()));
    assert_eq!(named("qwen2moe", true, 0), shared("qwen2moe", 0));
    assert_eq!(named("unknown", false, 0), Ok(()));
}

#[test]
fn a_dense_model_has_a_width_and_no_experts() {
    let mut config = small();
    config.architecture = "llama".into();
    config.moe = None;
    let field = "intermediate_size";
    assert_eq!(config.check(), Err(ConfigError::Zero { field }));
    config.intermediate_size = 8;
    assert_eq!(config.check(), Ok(()));
    assert!(!config.is_sparse(0));
    assert_eq!((config.sparse_layers(), config.routed_experts()), (0, 0));
}

#[test]
fn rotary_divisors_are_one_a_pair_and_positive() {
    check(
        |c| c.rope_frequency_divisors = vec![1.0; 7],
        ConfigError::RopeDivisors { found: 7, pairs: 8 },
    );
    check(
        |c| c.rope_frequency_divisors = [vec![1.0; 7], vec![0.0]].concat(),
        ConfigError::NotPositive {
            field: "rope_frequency_divisors",
            found: 0.0,
        },
    );
}

#[test]
fn what_is_absent_is_left_out_of_json() {
    let mut config = small();
    config.architecture = "llama".into();
    (config.moe, config.intermediate_size) = (None, 8);
    let json = serde_json::to_string(&config).unwrap();
    for key in ["moe", "attention_bias", "rope_frequency_divisors"] {
        assert!(!json.contains(key), "{json}");
    }
    assert_eq!(serde_json::from_str::<ModelConfig>(&json).unwrap(), config);
}
