use super::*;
use crate::model_config::tests::small;

/// The tensors of layer 0, `name shape use`, of a model of `architecture` in which Q * D = 64 and G * D = 32.
fn layer_0(architecture: &str, change: impl FnOnce(&mut ModelConfig)) -> Vec<String> {
    let mut config = small();
    config.architecture = architecture.into();
    config.hidden_size = 48;
    change(&mut config);
    assert_eq!(config.check(), Ok(()));
    let tensors = resident_tensors(&config).unwrap();
    assert_eq!(tensors.first().unwrap().name, names::EMBED_TOKENS);
    assert_eq!(tensors.last().unwrap().name, names::LM_HEAD);
    let in_layer = tensors.into_iter().filter_map(|tensor| {
        let name = tensor.name.strip_prefix("layers.0.")?.to_owned();
        Some(format!("{name} {:?} {:?}", tensor.shape, tensor.tensor_use))
    });
    in_layer.collect()
}

fn dense(config: &mut ModelConfig) {
    (config.moe, config.intermediate_size) = (None, 24);
}

/// What every architecture has, with `normed` before the output projection and `mlp` at the end.
fn common(normed: &[&str], mlp: &[&str]) -> Vec<String> {
    let before = [
        "input_norm [48] Norm",
        "q_proj [64, 48] Matrix",
        "k_proj [32, 48] Matrix",
        "v_proj [32, 48] Matrix",
    ];
    let between = ["o_proj [48, 64] Matrix", "post_attention_norm [48] Norm"];
    let all = [&before, normed, &between, mlp].concat();
    all.into_iter().map(str::to_owned).collect()
}

const ROUTER: &str = "router [3, 48] Router";
const DENSE: [&str; 3] = [
    "gate_proj [24, 48] Matrix",
    "up_proj [24, 48] Matrix",
    "down_proj [48, 24] Matrix",
];
const EACH_HEAD: [&str; 2] = ["q_norm [16] Norm", "k_norm [16] Norm"];
const ALL_HEADS: [&str; 2] = ["q_norm [64] Norm", "k_norm [32] Norm"];
const BIASES: [&str; 3] = ["q_bias [64] Bias", "k_bias [32] Bias", "v_bias [32] Bias"];

#[test]
fn each_architecture_has_its_tensors() {
    assert_eq!(layer_0("llama", dense), common(&[], &DENSE));
    assert_eq!(layer_0("llama", |_| {}), common(&[], &[ROUTER]));
    assert_eq!(layer_0("qwen3", dense), common(&EACH_HEAD, &DENSE));
    assert_eq!(layer_0("qwen3moe", |_| {}), common(&EACH_HEAD, &[ROUTER]));
    assert_eq!(layer_0("olmoe", |_| {}), common(&ALL_HEADS, &[ROUTER]));
}

#[test]
fn biases_and_shared_experts_come_where_they_are_configured() {
    let biased = layer_0("llama", |config| {
        dense(config);
        config.attention_bias = true;
    });
    assert_eq!(biased, common(&BIASES, &DENSE));

    let shared = layer_0("qwen2moe", |config| {
        config.attention_bias = true;
        let moe = config.moe.as_mut().unwrap();
        moe.shared_expert_intermediate_size = 20;
    });
    let mlp = [
        ROUTER,
        "shared_gate_proj [20, 48] Matrix",
        "shared_up_proj [20, 48] Matrix",
        "shared_down_proj [48, 20] Matrix",
        "shared_expert_gate [1, 48] SharedGate",
    ];
    assert_eq!(shared, common(&BIASES, &mlp));
}

#[test]
fn an_unknown_architecture_has_no_table() {
    let mut config = small();
    config.architecture = "other".into();
    assert_eq!(resident_tensors(&config), None);
}
