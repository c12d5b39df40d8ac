#!/usr/bin/env python3
"""Makes the GGUF oracle models and their golden values.

Each model is a small random GGUF file, or a set of parts, as llama.cpp's converter and quantiser would write it. Two
references stand beside it: llama.cpp on the very file, and the family's stock model of `transformers` in fp32 on the
values that the file's bytes stand for. Their difference is what llama.cpp's rounding of activations costs.

    python3 -m venv /tmp/oracle && /tmp/oracle/bin/pip install -r requirements.txt -r requirements-gguf.txt
    /tmp/oracle/bin/python make_gguf_goldens.py [NAME ...]      # writes gguf/
    /tmp/oracle/bin/python make_gguf_goldens.py --check         # compares gguf/ with fresh runs on its files

The layout of what is written is described in README.md beside this file.
"""

import argparse
import importlib.metadata
import json
import pathlib
import shutil
import sys
import tempfile

import llama_cpp
import numpy as np
import torch
import transformers

from families import configuration, experts, random_weights, write_checkpoint
from gguf_files import TYPES, llama_quantise, read_tensors, write_gguf
from llama_cpp_run import LlamaCpp
from reference import (forward, greedy_margins, load_reference, router_gaps, router_record, sha256, write_provenance)

HERE = pathlib.Path(__file__).resolve().parent
SCRIPTS = [HERE / name for name in (
    "make_gguf_goldens.py", "gguf_files.py", "llama_cpp_run.py", "families.py", "reference.py")]
# Another CPU sums in another order, which turns a few roundings of activations; this bounds what --check accepts.
CHECK_TOLERANCE = {"float": 1e-4, "half": 2e-2, "quantised": 5e-2}

# Small shapes with remainders for files of floats; widths of whole super-blocks for K-quants.
SMALL = {"hidden_size": 36, "num_hidden_layers": 2, "vocab_size": 269, "num_attention_heads": 6, "rms_norm_eps": 1e-5}
BLOCKS = {"hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 272, "num_attention_heads": 4}
SUPER = {"hidden_size": 256, "num_hidden_layers": 2, "vocab_size": 288, "num_attention_heads": 4,
         "num_key_value_heads": 2, "rms_norm_eps": 1e-5}

LLAMA3_ROPE = {"rope_theta": 500.0, "rope_scaling": {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64}}
LINEAR_ROPE = {"rope_scaling": {"rope_type": "linear", "factor": 4.0}}
THREE_EXPERTS = {"num_experts_per_tok": 2, "num_experts": 3}

SHAPES = {
    "llama": {"model_type": "llama", "num_key_value_heads": 2, "intermediate_size": 100} | LLAMA3_ROPE,
    "llama-moe": {
        "model_type": "mixtral", "num_key_value_heads": 3, "intermediate_size": 28, "num_local_experts": 5,
        "num_experts_per_tok": 2},
    "qwen2moe": {
        "model_type": "qwen2_moe", "num_key_value_heads": 3, "num_experts": 5, "num_experts_per_tok": 3,
        "moe_intermediate_size": 20, "shared_expert_intermediate_size": 44, "intermediate_size": 84},
    "qwen3": {
        "model_type": "qwen3", "num_key_value_heads": 2, "head_dim": 18, "intermediate_size": 100,
        "tie_word_embeddings": True} | LINEAR_ROPE,
    "qwen3moe": {
        "model_type": "qwen3_moe", "num_key_value_heads": 1, "head_dim": 20, "num_experts": 6,
        "num_experts_per_tok": 2, "moe_intermediate_size": 20, "intermediate_size": 84},
    "olmoe": {
        "model_type": "olmoe", "num_key_value_heads": 6, "num_experts": 7, "num_experts_per_tok": 3,
        "intermediate_size": 20},
}
WIDE = {
    "llama": {"intermediate_size": 512},
    "llama-moe": {"num_local_experts": 4, "intermediate_size": 256},
    "qwen2moe": THREE_EXPERTS | {
        "moe_intermediate_size": 256, "shared_expert_intermediate_size": 256, "intermediate_size": 512},
    "qwen3": {"head_dim": 64, "intermediate_size": 512},
    "qwen3moe": {"head_dim": 64, "num_experts": 6, "moe_intermediate_size": 256, "intermediate_size": 512},
    "olmoe": THREE_EXPERTS | {"num_key_value_heads": 4, "intermediate_size": 256},
}
Q4_K_M = llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_K_M


def cycle(*names):
    """Gives the matrices of a file these types in turn, experts' roles each by layer."""
    roles = ("ffn_gate_exps", "ffn_up_exps", "ffn_down_exps")
    turn = [0]

    def type_of(name):
        parts = name.split(".")
        if parts[0] == "blk" and parts[2] in roles:
            place = int(parts[1]) * len(roles) + roles.index(parts[2])
        else:
            turn[0] += 1
            place = turn[0]
        return TYPES[names[place % len(names)]]

    return type_of


# name -> (seed, kind, configuration, types of matrices or a mixture of llama.cpp's, tensors a part or 0)
MODELS = {
    f"{name}-f32": (2000 + seed, "float", SMALL | shape, cycle("F32"), 0)
    for seed, (name, shape) in enumerate(SHAPES.items())
} | {
    "llama-moe-f16-bf16": (2100, "half", SMALL | SHAPES["llama-moe"], cycle("F16", "BF16", "F32"), 0),
    "qwen2moe-bf16-f16": (2101, "half", SMALL | SHAPES["qwen2moe"], cycle("BF16", "F16"), 0),
    "qwen3moe-blocks": (2200, "quantised", BLOCKS | SHAPES["qwen3moe"] | {
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "moe_intermediate_size": 64},
        cycle("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "MXFP4"), 10),
    "llama-moe-k": (2201, "quantised", SUPER | SHAPES["llama-moe"] | WIDE["llama-moe"] | {
        "num_key_value_heads": 2, "num_local_experts": 3},
        cycle("Q2_K", "Q3_K", "Q5_K", "Q3_K", "Q5_K", "Q2_K", "Q4_K", "Q6_K", "Q5_K"), 0),
    "olmoe-iq4": (2202, "quantised", SUPER | SHAPES["olmoe"] | WIDE["olmoe"], cycle("IQ4_NL", "IQ4_XS"), 0),
} | {
    f"{name}-q4_k_m": (2300 + seed, "quantised", SHAPES[name] | SUPER | wide, Q4_K_M, 0)
    for seed, (name, wide) in enumerate(WIDE.items())
}

# Prompt and greedy tokens. A choice of experts or of a token that rounding may turn would make the rest of the
# sequence incomparable, so every position is chosen to lead by these gaps in probability and in logits.
LENGTHS = {"float": (26, 10), "half": (24, 8), "quantised": (24, 5)}
LEAST_GAPS = {"float": (1e-3, 1e-2), "half": (1e-2, 5e-2), "quantised": (2e-2, 0.15)}


def write_files(folder, name):
    """The GGUF files of a model, in order."""
    seed, _, shape, types, per_part = MODELS[name]
    folder.mkdir(parents=True, exist_ok=True)
    config = configuration(shape)
    tensors = random_weights(config, seed, torch.float32)
    path = folder / f"{name}.gguf"
    if types == Q4_K_M:
        with tempfile.TemporaryDirectory() as scratch:
            whole = pathlib.Path(scratch) / "f32.gguf"
            write_gguf(whole, shape, tensors, cycle("F32"))
            llama_quantise(whole, path, types)
    else:
        write_gguf(path, shape, tensors, types, per_part)
    return model_files(folder)


def model_files(folder):
    return sorted(folder.glob("*.gguf"))


def load_values(files, config):
    """The stock model on the values that the files' bytes stand for, and how many tensors there are of each type."""
    tensors, types = read_tensors(files, config)
    with tempfile.TemporaryDirectory() as scratch:
        write_checkpoint(pathlib.Path(scratch), config | {"torch_dtype": "float32"}, tensors)
        model = load_reference(pathlib.Path(scratch))
    return model, {kind: list(types.values()).count(kind) for kind in sorted(set(types.values()))}


def is_decided(model, config, ids, positions, gap):
    """Whether the experts of the last `positions` of a sequence lead by `gap`."""
    _, routers = forward(model, ids)
    top_k = config.get("num_experts_per_tok", 0)
    return all(router_gaps(router, top_k)[-positions:].min() >= gap for router in routers)


def choose_ids(model, config, kind, seed):
    """A random prompt and its greedy continuation, decided at every position."""
    rng = np.random.default_rng(seed)
    prompt_tokens, greedy_tokens = LENGTHS[kind]
    gap, margin = LEAST_GAPS[kind]
    prompt = []
    while len(prompt) < prompt_tokens - 1:
        candidate = prompt + [int(rng.integers(config["vocab_size"]))]
        if not experts(config) or is_decided(model, config, candidate, 1, gap):
            prompt = candidate
    for _ in range(5000):
        ids = prompt + [int(rng.integers(config["vocab_size"]))]
        for step in range(greedy_tokens + 1):
            logits, routers = forward(model, ids)
            best, second = -np.sort(-logits[-1])[:2]
            top_k = config.get("num_experts_per_tok", 0)
            if best - second < margin or any(router_gaps(r, top_k)[-1] < gap for r in routers):
                break
            if step == greedy_tokens:
                return ids
            ids.append(int(logits[-1].argmax()))
    raise AssertionError("no prompt is decided at every position")


def log_softmax(logits):
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def difference(a, b):
    """Between the logprobs of two sets of logits."""
    apart = np.abs(log_softmax(a) - log_softmax(b))
    return {"largest": round(float(apart.max()), 7), "root_mean_square": round(float(np.sqrt((apart**2).mean())), 8)}


def make_model(root, name):
    """Writes one model with its golden values; returns them."""
    seed, kind, shape, _, _ = MODELS[name]
    folder = root / name
    shutil.rmtree(folder, ignore_errors=True)
    files = write_files(folder, name)
    config = configuration(shape)
    model, types = load_values(files, config)
    ids = choose_ids(model, config, kind, seed + 1)
    prompt_tokens = LENGTHS[kind][0]

    reference, routers = forward(model, ids)
    peer = LlamaCpp(files[0])
    logits, at_once = peer.forward(ids, 1), peer.forward(ids, len(ids))
    peer.close()
    for step, token in enumerate(ids[prompt_tokens:]):
        assert int(logits[prompt_tokens - 1 + step].argmax()) == token, f"{name}: greedy step {step}"
    logits.astype("<f4").tofile(folder / "logits.f32")
    reference.astype("<f4").tofile(folder / "reference.f32")
    golden = {
        "kind": kind,
        "model": files[0].name,
        "tensor_types": types,
        "ids": ids,
        "prompt_tokens": prompt_tokens,
        "greedy_top2_margin": greedy_margins(logits, prompt_tokens),
        "logits": {"file": "logits.f32", "shape": list(logits.shape), "std": round(float(logits.std()), 4)},
        "reference": {"file": "reference.f32", "difference": difference(logits, reference)},
        "llama_cpp_at_once": difference(logits, at_once),
        "router": router_record(routers, config),
    }
    (folder / "golden.json").write_text(json.dumps(golden, separators=(",", ":")) + "\n")
    versions = {p: importlib.metadata.version(p) for p in ("gguf", "llama_cpp_python", "safetensors")}
    write_provenance(folder, seed, SCRIPTS, versions | {"transformers": transformers.__version__},
                     "logits.f32: llama.cpp, CPU, one token at a time, F32 keys and values; "
                     "reference.f32: fp32 on the stored values, eager attention and experts, CPU")
    return golden


def summarise(name, golden, folder):
    size = sum(p.stat().st_size for p in folder.iterdir())
    print(f"{name}: {size / 1000:.0f} kB, {golden['tensor_types']}, logits std {golden['logits']['std']}, from fp32 "
          f"{golden['reference']['difference']}, llama.cpp's own at once {golden['llama_cpp_at_once']}", flush=True)


def check(root, name):
    """Fails where a fresh run on the kept files differs by more than another CPU explains."""
    _, kind, shape, types, _ = MODELS[name]
    folder = root / name
    golden = json.loads((folder / "golden.json").read_text())
    files = model_files(folder)
    peer = LlamaCpp(files[0])
    fresh = {"logits.f32": peer.forward(golden["ids"], 1)}
    peer.close()
    model, _ = load_values(files, configuration(shape))
    fresh["reference.f32"], _ = forward(model, golden["ids"])
    for file, logits in fresh.items():
        kept = np.fromfile(folder / file, "<f4").reshape(golden["logits"]["shape"])
        worst = difference(kept, logits)["largest"]
        assert worst <= CHECK_TOLERANCE[kind], f"{name}/{file}: logprobs differ by {worst}"
    with tempfile.TemporaryDirectory() as scratch:
        same = [sha256(file) for file in files] == [sha256(f) for f in write_files(pathlib.Path(scratch), name)]
    # A quantiser's search for scales may end elsewhere on another CPU; that of a float file has none.
    assert same or kind == "quantised", f"{name}: the files differ"
    print(f"{name}: same logits, files {'same' if same else 'DIFFER'}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare gguf/ with fresh runs on its files")
    parser.add_argument("names", nargs="*", default=list(MODELS), help="models; all by default")
    arguments = parser.parse_args()
    torch.use_deterministic_algorithms(True)
    root = HERE / "gguf"
    for name in arguments.names or MODELS:
        if arguments.check:
            check(root, name)
        else:
            summarise(name, make_model(root, name), root / name)


if __name__ == "__main__":
    sys.exit(main())
