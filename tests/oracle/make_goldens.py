#!/usr/bin/env python3
"""Makes the oracle models and their golden values.

Each model is a small random `qwen3moe` checkpoint whose shapes exercise remainders: no width is a multiple of a
vector register, and every switch of the configuration is set in some model. The reference is the stock
`Qwen3MoeForCausalLM` of `transformers`, in fp32 arithmetic from the same bf16 weights.

    python3 -m venv /tmp/oracle && /tmp/oracle/bin/pip install -r requirements.txt
    /tmp/oracle/bin/python make_goldens.py                      # writes models/
    /tmp/oracle/bin/python make_goldens.py --check              # compares models/ with a fresh run
    /tmp/oracle/bin/python make_goldens.py --fixture DIR        # checks a fixture's golden.json, writes fixture.json

The layout of what is written is described in README.md beside this file.
"""

import argparse
import hashlib
import json
import math
import pathlib
import platform
import sys

import numpy as np
import safetensors
import torch
import transformers
from safetensors.torch import save_file
from tokenizers import Tokenizer
from transformers import Qwen3MoeForCausalLM

HERE = pathlib.Path(__file__).resolve().parent
# Two runs on different CPUs sum in different orders; this bounds what --check accepts.
CHECK_TOLERANCE = 1e-4
# Perplexity: windows of this many tokens, each starting this many after the one before.
WINDOW, STRIDE = 512, 256

BASE_CONFIG = {
    "architectures": ["Qwen3MoeForCausalLM"],
    "model_type": "qwen3_moe",
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
    "decoder_sparse_step": 1,
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "intermediate_size": 0,
    "max_position_embeddings": 1024,
    "mlp_only_layers": [],
    "norm_topk_prob": True,
    "output_router_logits": False,
    "rms_norm_eps": 1e-6,
    "rope_scaling": None,
    "rope_theta": 10000.0,
    "router_aux_loss_coef": 0.001,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "use_sliding_window": False,
}

# name -> (seed, prompt tokens, greedy tokens, safetensors files, configuration)
MODELS = {
    "remainders": (101, 41, 24, 1, {
        "hidden_size": 60, "num_hidden_layers": 3, "vocab_size": 211,
        "num_attention_heads": 3, "num_key_value_heads": 1, "head_dim": 20,
        "num_experts": 7, "num_experts_per_tok": 3, "moe_intermediate_size": 20,
    }),
    "tied-unnormalised": (202, 33, 24, 1, {
        "hidden_size": 96, "num_hidden_layers": 2, "vocab_size": 333,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
        "num_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 24,
        "tie_word_embeddings": True, "norm_topk_prob": False,
        "rope_theta": 1000000.0, "rms_norm_eps": 1e-3,
    }),
    "dense-layers": (303, 29, 24, 2, {
        "hidden_size": 40, "num_hidden_layers": 6, "vocab_size": 333,
        "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 18,
        "num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 22,
        "intermediate_size": 52, "decoder_sparse_step": 2, "mlp_only_layers": [3],
    }),
    "long-context": (404, 601, 16, 1, {
        "hidden_size": 36, "num_hidden_layers": 2, "vocab_size": 65,
        "num_attention_heads": 6, "num_key_value_heads": 3, "head_dim": 10,
        "num_experts": 5, "num_experts_per_tok": 5, "moe_intermediate_size": 26,
    }),
}


def is_sparse(config, layer):
    """Whether a layer has experts, by the rule of the reference implementation."""
    return layer not in config["mlp_only_layers"] and (layer + 1) % config["decoder_sparse_step"] == 0


def random_weights(config, seed):
    """Checkpoint tensors by their published names, in bf16.

    Matrices have unit gain, so that activations neither vanish nor grow; the router and the head get more, so that
    routing is decided and the two best logits are apart; norm weights differ from one.
    """
    rng = np.random.default_rng(seed)
    hidden = config["hidden_size"]
    q_width = config["num_attention_heads"] * config["head_dim"]
    kv_width = config["num_key_value_heads"] * config["head_dim"]
    tensors = {}

    def matrix(name, rows, columns, gain=1.0):
        values = rng.standard_normal((rows, columns), dtype=np.float32) * (gain / math.sqrt(columns))
        tensors[name] = torch.from_numpy(values).to(torch.bfloat16)

    def norm(name, width, gain=1.0):
        values = gain * (1.0 + 0.25 * rng.standard_normal(width, dtype=np.float32))
        tensors[name] = torch.from_numpy(values).to(torch.bfloat16)

    def mlp(prefix, width):
        matrix(f"{prefix}.gate_proj.weight", width, hidden, 1.5)
        matrix(f"{prefix}.up_proj.weight", width, hidden, 1.5)
        matrix(f"{prefix}.down_proj.weight", hidden, width)

    # A tied table is also the head: small rows, or each token would predict itself; the last norm makes up for it.
    tied = config["tie_word_embeddings"]
    matrix("model.embed_tokens.weight", config["vocab_size"], hidden, 1.0 if tied else math.sqrt(hidden))
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}"
        norm(f"{prefix}.input_layernorm.weight", hidden)
        matrix(f"{prefix}.self_attn.q_proj.weight", q_width, hidden)
        matrix(f"{prefix}.self_attn.k_proj.weight", kv_width, hidden)
        matrix(f"{prefix}.self_attn.v_proj.weight", kv_width, hidden)
        matrix(f"{prefix}.self_attn.o_proj.weight", hidden, q_width)
        norm(f"{prefix}.self_attn.q_norm.weight", config["head_dim"])
        norm(f"{prefix}.self_attn.k_norm.weight", config["head_dim"])
        norm(f"{prefix}.post_attention_layernorm.weight", hidden)
        if is_sparse(config, layer):
            matrix(f"{prefix}.mlp.gate.weight", config["num_experts"], hidden, 2.0)
            for expert in range(config["num_experts"]):
                mlp(f"{prefix}.mlp.experts.{expert}", config["moe_intermediate_size"])
        else:
            mlp(f"{prefix}.mlp", config["intermediate_size"])
    norm("model.norm.weight", hidden, 3.0 if tied else 1.0)
    if not tied:
        matrix("lm_head.weight", config["vocab_size"], hidden, 3.0)
    return tensors


def word_tokenizer(vocab_size):
    """A tokenizer whose words are t0, t1 and so on: a checkpoint needs one, though goldens speak in ids."""
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
        "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": None, "decoder": None,
        "model": {"type": "WordLevel", "unk_token": "t0", "vocab": {f"t{i}": i for i in range(vocab_size)}},
    }


def write_checkpoint(folder, config, tensors, files):
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


def load_reference(folder):
    """The stock model in fp32. Refuses a checkpoint that it does not use to the last tensor."""
    model, info = Qwen3MoeForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", experts_implementation="eager",
        output_loading_info=True)
    leftovers = {kind: sorted(names) for kind, names in info.items() if names}
    assert not leftovers, f"{folder}: {leftovers}"
    return model.eval()


def forward(model, ids):
    """Logits [T][V] of a sequence and, by sparse layer, router logits [T][E]."""
    with torch.no_grad():
        out = model(torch.tensor([ids]), output_router_logits=True, use_cache=False)
    routers = [r.reshape(len(ids), -1).double().numpy() for r in out.router_logits]
    return out.logits[0].float().numpy(), routers


def greedy(model, prompt, count):
    """Greedy tokens through the KV cache, one at a time."""
    ids, cache, fed = [], None, prompt
    with torch.no_grad():
        while len(ids) < count:
            out = model(torch.tensor([fed]), past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            ids.append(int(out.logits[0, -1].argmax()))
            fed = ids[-1:]
    return ids


def router_record(routers, config):
    """The chosen experts, by falling probability, and the gap in probability to the best one not chosen."""
    top_k = config["num_experts_per_tok"]
    layers = [l for l in range(config["num_hidden_layers"]) if is_sparse(config, l)]
    assert len(layers) == len(routers)
    record = []
    for layer, logits in zip(layers, routers):
        shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
        probabilities = shifted / shifted.sum(axis=-1, keepdims=True)
        order = np.argsort(-probabilities, axis=-1, kind="stable")
        ranked = np.take_along_axis(probabilities, order, axis=-1)
        gaps = None if top_k == config["num_experts"] else [
            round(float(g), 7) for g in ranked[:, top_k - 1] - ranked[:, top_k]]
        record.append({"layer": layer, "experts": order[:, :top_k].tolist(), "gap_to_next": gaps})
    return record


def make_model(root, name):
    """Writes one model with its golden values; returns them."""
    seed, prompt_tokens, greedy_tokens, files, shape = MODELS[name]
    config = BASE_CONFIG | shape
    folder = root / name
    write_checkpoint(folder, config, random_weights(config, seed), files)
    model = load_reference(folder)

    prompt = np.random.default_rng(seed + 1).integers(0, config["vocab_size"], prompt_tokens).tolist()
    continuation = greedy(model, prompt, greedy_tokens)
    ids = prompt + continuation
    logits, routers = forward(model, ids)
    best_two = -np.sort(-logits, axis=-1)[:, :2]
    margins = best_two[:, 0] - best_two[:, 1]
    for step, token in enumerate(continuation):
        assert int(logits[prompt_tokens - 1 + step].argmax()) == token, f"{name}: step {step} differs without cache"

    logits.astype("<f4").tofile(folder / "logits.f32")
    golden = {
        "ids": ids,
        "prompt_tokens": prompt_tokens,
        "greedy_top2_margin": [round(float(m), 6) for m in margins[prompt_tokens - 1:-1]],
        "logits": {"file": "logits.f32", "shape": list(logits.shape), "std": round(float(logits.std()), 4)},
        "router": router_record(routers, config),
    }
    (folder / "golden.json").write_text(json.dumps(golden, separators=(",", ":")) + "\n")
    write_provenance(folder, seed)
    return golden


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_provenance(folder, seed):
    """What made the files, and what they are."""
    files = sorted(p for p in folder.iterdir() if p.name != "provenance.json")
    for file in files:
        file.chmod(0o644)
    provenance = {
        "script_sha256": sha256(pathlib.Path(__file__)),
        "seed": seed,
        "versions": {
            "python": platform.python_version(), "numpy": np.__version__, "torch": torch.__version__,
            "safetensors": safetensors.__version__, "transformers": transformers.__version__,
        },
        "arithmetic": "fp32 from bf16 weights, eager attention and experts, CPU",
        "sha256": {p.name: sha256(p) for p in files},
    }
    (folder / "provenance.json").write_text(json.dumps(provenance, indent=2) + "\n")


def summarise(name, golden, folder):
    margins = golden["greedy_top2_margin"]
    used = [len({e for row in layer["experts"] for e in row}) for layer in golden["router"]]
    size = sum(p.stat().st_size for p in folder.iterdir())
    print(f"{name}: {size / 1000:.0f} kB, logits std {golden['logits']['std']}, "
          f"least greedy margin {min(margins):.4f}, experts used by sparse layer {used}")


def check(root, fresh_root):
    """Fails where a fresh run differs by more than summation order explains."""
    for name in MODELS:
        kept, fresh = (json.loads((r / name / "golden.json").read_text()) for r in (root, fresh_root))
        assert kept["ids"] == fresh["ids"], f"{name}: token ids differ"
        a, b = (np.fromfile(r / name / "logits.f32", "<f4") for r in (root, fresh_root))
        worst = float(np.abs(a - b).max())
        assert worst <= CHECK_TOLERANCE, f"{name}: logits differ by {worst}"
        for file in root.joinpath(name).glob("*.safetensors"):
            assert sha256(file) == sha256(fresh_root / name / file.name), f"{file}: weights differ"
        print(f"{name}: same ids and weights, largest logit difference {worst:.2e}")


def check_fixture(folder):
    """Compares a fixture's golden.json with this reference, and writes the fixture's perplexities to fixture.json."""
    model = load_reference(folder / "model")
    worst = 0.0
    for prompt in json.loads((folder / "golden.json").read_text())["prompts"]:
        ids, continuation = prompt["ids"], prompt["greedy_ids"]
        assert greedy(model, ids, len(continuation)) == continuation, f"{prompt['name']}: greedy tokens differ"
        logits, _ = forward(model, ids)
        top = prompt["last_logits_top20"]
        worst = max(worst, float(np.abs(logits[-1][top["ids"]] - np.array(top["values"])).max()))
    print(f"{folder}: greedy tokens equal, largest difference of a top-20 logit {worst:.2e}")

    tokenizer = Tokenizer.from_file(str(folder / "model" / "tokenizer.json"))
    record = {"window": WINDOW, "stride": STRIDE, "sha256": {"model.safetensors": sha256(folder / "model/model.safetensors")}}
    for path in sorted(folder.glob("heldout*.txt")):
        ids = tokenizer.encode(path.read_text(), add_special_tokens=False).ids
        losses = window_losses(model, ids)
        record["sha256"][path.name] = sha256(path)
        record[path.stem] = {"scored": len(losses), "nll": sum(losses) / len(losses)}
        print(f"{path.name}: perplexity {math.exp(record[path.stem]['nll']):.4f} over {len(losses)} tokens")
    (HERE / "fixture.json").write_text(json.dumps(record, indent=2) + "\n")


def window_losses(model, ids):
    """Negative log-likelihoods of all tokens but the first, each in the first window that holds it."""
    losses, scored_to = [], 1
    for begin in range(0, len(ids), STRIDE):
        end = min(begin + WINDOW, len(ids))
        logits, _ = forward(model, ids[begin:end])
        log_probabilities = torch.log_softmax(torch.from_numpy(logits).double(), -1)
        losses += [-float(log_probabilities[t - 1 - begin, ids[t]]) for t in range(scored_to, end)]
        scored_to = end
        if end == len(ids):
            return losses
    return losses


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare models/ with a fresh run")
    parser.add_argument("--fixture", type=pathlib.Path, help="check a fixture's golden.json and write fixture.json instead")
    arguments = parser.parse_args()
    torch.use_deterministic_algorithms(True)
    if arguments.fixture:
        return check_fixture(arguments.fixture)
    root = HERE / "models"
    if not arguments.check:
        for name in MODELS:
            summarise(name, make_model(root, name), root / name)
        return None
    import tempfile
    with tempfile.TemporaryDirectory() as fresh:
        for name in MODELS:
            make_model(pathlib.Path(fresh), name)
        check(root, pathlib.Path(fresh))
    return None


if __name__ == "__main__":
    sys.exit(main())
