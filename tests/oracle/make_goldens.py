#!/usr/bin/env python3
"""Makes the oracle models and their golden values.

Each model is a small random checkpoint of one family whose shapes exercise remainders: no width is a multiple of a
vector register, and every switch of the configuration is set in some model. The reference is the family's stock
model in `transformers`, in fp32 arithmetic from the same bf16 weights. GGUF files have a script of their own,
make_gguf_goldens.py.

    python3 -m venv /tmp/oracle && /tmp/oracle/bin/pip install -r requirements.txt
    /tmp/oracle/bin/python make_goldens.py                      # writes models/
    /tmp/oracle/bin/python make_goldens.py --check              # compares models/ with a fresh run
    /tmp/oracle/bin/python make_goldens.py --fixture DIR        # checks a fixture's golden.json, writes fixture.json

The layout of what is written is described in README.md beside this file.
"""

import argparse
import json
import math
import pathlib
import sys
import tempfile

import numpy as np
import safetensors
import torch
import transformers
from tokenizers import Tokenizer

from families import configuration, fuse_experts, random_weights, write_checkpoint
from reference import (forward, greedy, greedy_margins, load_reference, router_record, sha256, write_provenance)

HERE = pathlib.Path(__file__).resolve().parent
# Two runs on different CPUs sum in different orders; this bounds what --check accepts.
CHECK_TOLERANCE = 1e-4
LEAST_ROUTER_GAP = 2e-5
# Perplexity: windows of this many tokens, each starting this many after the one before.
WINDOW, STRIDE = 512, 256

# name -> (seed, prompt tokens, greedy tokens, safetensors files, configuration)
MODELS = {
    "remainders": (101, 41, 24, 1, {
        "model_type": "qwen3_moe", "hidden_size": 60, "num_hidden_layers": 3, "vocab_size": 211,
        "num_attention_heads": 3, "num_key_value_heads": 1, "head_dim": 20,
        "num_experts": 7, "num_experts_per_tok": 3, "moe_intermediate_size": 20,
    }),
    "tied-unnormalised": (202, 33, 24, 1, {
        "model_type": "qwen3_moe", "hidden_size": 96, "num_hidden_layers": 2, "vocab_size": 333,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
        "num_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 24,
        "tie_word_embeddings": True, "norm_topk_prob": False,
        "rope_theta": 1000000.0, "rms_norm_eps": 1e-3,
    }),
    "dense-layers": (303, 29, 24, 2, {
        "model_type": "qwen3_moe", "hidden_size": 40, "num_hidden_layers": 6, "vocab_size": 333,
        "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 18,
        "num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 22,
        "intermediate_size": 52, "decoder_sparse_step": 2, "mlp_only_layers": [3],
    }),
    "long-context": (404, 601, 16, 1, {
        "model_type": "qwen3_moe", "hidden_size": 36, "num_hidden_layers": 2, "vocab_size": 65,
        "num_attention_heads": 6, "num_key_value_heads": 3, "head_dim": 10,
        "num_experts": 5, "num_experts_per_tok": 5, "moe_intermediate_size": 26,
    }),
    "fused-experts": (505, 27, 16, 1, {
        "model_type": "qwen3_moe", "hidden_size": 44, "num_hidden_layers": 2, "vocab_size": 151,
        "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 22,
        "num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 28,
    }),
    # Prompts longer than the original context, so that slow rotary pairs turn far enough to tell the divisors.
    "llama-rope3": (606, 181, 24, 1, {
        "model_type": "llama", "hidden_size": 72, "num_hidden_layers": 3, "vocab_size": 211,
        "num_attention_heads": 6, "num_key_value_heads": 2, "intermediate_size": 100, "rms_norm_eps": 1e-5,
        "rope_theta": 500.0,
        "rope_scaling": {
            "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64},
    }),
    "mistral-wide-heads": (707, 37, 24, 1, {
        "model_type": "mistral", "hidden_size": 50, "num_hidden_layers": 2, "vocab_size": 151,
        "num_attention_heads": 3, "num_key_value_heads": 3, "head_dim": 26, "intermediate_size": 76,
        "rope_theta": 1000000.0,
    }),
    "mixtral": (808, 35, 24, 2, {
        "model_type": "mixtral", "hidden_size": 60, "num_hidden_layers": 3, "vocab_size": 211,
        "num_attention_heads": 5, "num_key_value_heads": 1, "intermediate_size": 44, "rms_norm_eps": 1e-5,
        "num_local_experts": 5, "num_experts_per_tok": 2, "rope_theta": 1000000.0,
    }),
    "qwen2-moe": (909, 39, 24, 1, {
        "model_type": "qwen2_moe", "hidden_size": 66, "num_hidden_layers": 3, "vocab_size": 211,
        "num_attention_heads": 3, "num_key_value_heads": 3, "num_experts": 7, "num_experts_per_tok": 3,
        "moe_intermediate_size": 20, "shared_expert_intermediate_size": 52,
        "intermediate_size": 46, "mlp_only_layers": [1],
    }),
    "qwen3-linear-rope": (1010, 141, 24, 1, {
        "model_type": "qwen3", "hidden_size": 84, "num_hidden_layers": 3, "vocab_size": 333,
        "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 18, "intermediate_size": 92,
        "tie_word_embeddings": True, "rope_scaling": {"rope_type": "linear", "factor": 4.0},
    }),
    "olmoe": (1112, 35, 24, 1, {
        "model_type": "olmoe", "hidden_size": 60, "num_hidden_layers": 3, "vocab_size": 211,
        "num_attention_heads": 6, "num_key_value_heads": 3, "num_experts": 9, "num_experts_per_tok": 4,
        "intermediate_size": 22, "rms_norm_eps": 1e-5,
    }),
}
# Stored as the stacked tensors that newer checkpoints may have.
FUSED = {"fused-experts"}
SCRIPTS = [HERE / name for name in ("make_goldens.py", "families.py", "reference.py")]


def make_model(root, name):
    """Writes one model with its golden values; returns them."""
    seed, prompt_tokens, greedy_tokens, files, shape = MODELS[name]
    config = configuration(shape)
    folder = root / name
    tensors = random_weights(config, seed)
    write_checkpoint(folder, config, fuse_experts(config, tensors) if name in FUSED else tensors, files)
    model = load_reference(folder)

    prompt = np.random.default_rng(seed + 1).integers(0, config["vocab_size"], prompt_tokens).tolist()
    continuation = greedy(model, prompt, greedy_tokens)
    ids = prompt + continuation
    logits, routers = forward(model, ids)
    for layer in router_record(routers, config):
        # A choice of experts that summation order can turn would make the rest incomparable.
        assert min(layer["gap_to_next"] or [1.0]) > LEAST_ROUTER_GAP, f"{name}: choose another seed"
    for step, token in enumerate(continuation):
        assert int(logits[prompt_tokens - 1 + step].argmax()) == token, f"{name}: step {step} differs without cache"

    logits.astype("<f4").tofile(folder / "logits.f32")
    golden = {
        "ids": ids,
        "prompt_tokens": prompt_tokens,
        "greedy_top2_margin": greedy_margins(logits, prompt_tokens),
        "logits": {"file": "logits.f32", "shape": list(logits.shape), "std": round(float(logits.std()), 4)},
        "router": router_record(routers, config),
    }
    (folder / "golden.json").write_text(json.dumps(golden, separators=(",", ":")) + "\n")
    versions = {"safetensors": safetensors.__version__, "transformers": transformers.__version__}
    write_provenance(folder, seed, SCRIPTS, versions, "fp32 from bf16 weights, eager attention and experts, CPU")
    return golden


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
    with tempfile.TemporaryDirectory() as fresh:
        for name in MODELS:
            make_model(pathlib.Path(fresh), name)
        check(root, pathlib.Path(fresh))
    return None


if __name__ == "__main__":
    sys.exit(main())
