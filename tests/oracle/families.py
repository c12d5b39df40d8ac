"""Shapes and random weights of the families, under the names that their published checkpoints use."""

import json
import math

import numpy as np
import torch
from safetensors.torch import save_file

COMMON = {
    "attention_dropout": 0.0, "bos_token_id": None, "eos_token_id": None, "pad_token_id": None,
    "hidden_act": "silu", "initializer_range": 0.02, "max_position_embeddings": 1024, "rms_norm_eps": 1e-6,
    "rope_scaling": None, "rope_theta": 10000.0, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
    "use_cache": True,
}
SPARSE = {"output_router_logits": False, "router_aux_loss_coef": 0.001}
QWEN_SPARSE = SPARSE | {
    "decoder_sparse_step": 1, "intermediate_size": 0, "mlp_only_layers": [], "sliding_window": None,
    "use_sliding_window": False,
}

# model_type -> what its configurations have in common
DEFAULTS = {
    "llama": {"architectures": ["LlamaForCausalLM"], "attention_bias": False, "mlp_bias": False, "pretraining_tp": 1},
    "mistral": {"architectures": ["MistralForCausalLM"], "sliding_window": None},
    "mixtral": SPARSE | {
        "architectures": ["MixtralForCausalLM"], "router_jitter_noise": 0.0, "sliding_window": None},
    "qwen2_moe": QWEN_SPARSE | {
        "architectures": ["Qwen2MoeForCausalLM"], "max_window_layers": 28, "norm_topk_prob": False, "qkv_bias": True},
    "qwen3": {
        "architectures": ["Qwen3ForCausalLM"], "attention_bias": False, "max_window_layers": 28,
        "sliding_window": None, "use_sliding_window": False},
    "qwen3_moe": QWEN_SPARSE | {
        "architectures": ["Qwen3MoeForCausalLM"], "attention_bias": False, "norm_topk_prob": True},
    "olmoe": SPARSE | {
        "architectures": ["OlmoeForCausalLM"], "attention_bias": False, "clip_qkv": None, "norm_topk_prob": False},
}


def configuration(shape):
    """A whole config.json from what a model says of itself."""
    return {"model_type": shape["model_type"]} | COMMON | DEFAULTS[shape["model_type"]] | shape


def head_dim(config):
    return config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]


def experts(config):
    """Routed experts a layer; 0 in a dense model."""
    return config.get("num_experts", config.get("num_local_experts", 0))


def expert_width(config):
    """Two of the families write their experts' width where others write that of a dense layer."""
    return config.get("moe_intermediate_size", config["intermediate_size"])


def is_sparse(config, layer):
    """Whether a layer has experts, by the rule of the reference implementation."""
    return experts(config) > 0 and layer not in config.get("mlp_only_layers", []) \
        and (layer + 1) % config.get("decoder_sparse_step", 1) == 0


def random_weights(config, seed, dtype=torch.bfloat16, router_gain=2.0):
    """Checkpoint tensors by their published names.

    Matrices have unit gain, so that activations neither vanish nor grow; the router and the head get more, so that
    routing is decided and the two best logits are apart; norm weights differ from one.
    """
    rng = np.random.default_rng(seed)
    family = config["model_type"]
    hidden = config["hidden_size"]
    q_width = config["num_attention_heads"] * head_dim(config)
    kv_width = config["num_key_value_heads"] * head_dim(config)
    tensors = {}

    def matrix(name, rows, columns, gain=1.0):
        values = rng.standard_normal((rows, columns), dtype=np.float32) * (gain / math.sqrt(columns))
        tensors[name] = torch.from_numpy(values).to(dtype)

    def norm(name, width, gain=1.0):
        values = gain * (1.0 + 0.25 * rng.standard_normal(width, dtype=np.float32))
        tensors[name] = torch.from_numpy(values).to(dtype)

    def bias(name, width):
        tensors[name] = torch.from_numpy(0.5 * rng.standard_normal(width, dtype=np.float32)).to(dtype)

    def mlp(prefix, width, names=("gate_proj", "up_proj", "down_proj")):
        gate, up, down = (f"{prefix}.{name}.weight" for name in names)
        matrix(gate, width, hidden, 1.5)
        matrix(up, width, hidden, 1.5)
        matrix(down, hidden, width)

    def sparse(prefix):
        if family == "mixtral":
            matrix(f"{prefix}.block_sparse_moe.gate.weight", experts(config), hidden, router_gain)
            for expert in range(experts(config)):
                mlp(f"{prefix}.block_sparse_moe.experts.{expert}", expert_width(config), ("w1", "w3", "w2"))
            return
        matrix(f"{prefix}.mlp.gate.weight", experts(config), hidden, router_gain)
        for expert in range(experts(config)):
            mlp(f"{prefix}.mlp.experts.{expert}", expert_width(config))
        if family == "qwen2_moe":
            mlp(f"{prefix}.mlp.shared_expert", config["shared_expert_intermediate_size"])
            matrix(f"{prefix}.mlp.shared_expert_gate.weight", 1, hidden, 2.0)

    # A tied table is also the head: small rows, or each token would predict itself; the last norm makes up for it.
    tied = config["tie_word_embeddings"]
    matrix("model.embed_tokens.weight", config["vocab_size"], hidden, 1.0 if tied else math.sqrt(hidden))
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}"
        attention = f"{prefix}.self_attn"
        norm(f"{prefix}.input_layernorm.weight", hidden)
        matrix(f"{attention}.q_proj.weight", q_width, hidden)
        matrix(f"{attention}.k_proj.weight", kv_width, hidden)
        matrix(f"{attention}.v_proj.weight", kv_width, hidden)
        matrix(f"{attention}.o_proj.weight", hidden, q_width)
        if config.get("qkv_bias"):
            bias(f"{attention}.q_proj.bias", q_width)
            bias(f"{attention}.k_proj.bias", kv_width)
            bias(f"{attention}.v_proj.bias", kv_width)
        if family in ("qwen3", "qwen3_moe"):
            norm(f"{attention}.q_norm.weight", head_dim(config))
            norm(f"{attention}.k_norm.weight", head_dim(config))
        if family == "olmoe":
            norm(f"{attention}.q_norm.weight", q_width)
            norm(f"{attention}.k_norm.weight", kv_width)
        norm(f"{prefix}.post_attention_layernorm.weight", hidden)
        if is_sparse(config, layer):
            sparse(prefix)
        else:
            mlp(f"{prefix}.mlp", config["intermediate_size"])
    norm("model.norm.weight", hidden, 3.0 if tied else 1.0)
    if not tied:
        matrix("lm_head.weight", config["vocab_size"], hidden, 3.0)
    return tensors


def fuse_experts(config, tensors):
    """The experts of each layer as the two stacked tensors that `transformers` holds: [E, 2F, H] and [E, H, F]."""
    fused = {name: value for name, value in tensors.items() if ".mlp.experts." not in name}
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}.mlp.experts"
        if f"{prefix}.0.gate_proj.weight" not in tensors:
            continue

        def stack(role):
            return torch.stack([tensors[f"{prefix}.{e}.{role}.weight"] for e in range(experts(config))])

        fused[f"{prefix}.gate_up_proj"] = torch.cat([stack("gate_proj"), stack("up_proj")], dim=1)
        fused[f"{prefix}.down_proj"] = stack("down_proj")
    return fused


def word_tokenizer(vocab_size):
    """A tokenizer whose words are t0, t1 and so on: a checkpoint needs one, though goldens speak in ids."""
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
        "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": None, "decoder": None,
        "model": {"type": "WordLevel", "unk_token": "t0", "vocab": {f"t{i}": i for i in range(vocab_size)}},
    }


def write_checkpoint(folder, config, tensors, files=1):
    """A Hugging Face folder, of one safetensors file or of several with an index."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    (folder / "tokenizer.json").write_text(json.dumps(word_tokenizer(config["vocab_size"])) + "\n")
    if files == 1:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return
    names = list(tensors)
    per_file = -(-len(names) // files)
    weight_map = {}
    for part in range(files):
        file = f"model-{part + 1:05}-of-{files:05}.safetensors"
        chunk = {name: tensors[name] for name in names[part * per_file:(part + 1) * per_file]}
        save_file(chunk, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(chunk, file)
    total = sum(t.numel() * t.element_size() for t in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
