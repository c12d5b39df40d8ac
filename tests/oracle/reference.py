"""The reference: stock models of `transformers` in fp32 on the CPU, and what is recorded of them."""

import hashlib
import json
import platform

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from families import experts, is_sparse


def load_reference(folder):
    """The stock model in fp32. Refuses a checkpoint that it does not use to the last tensor."""
    config = json.loads((folder / "config.json").read_text())
    options = {"experts_implementation": "eager"} if experts(config) else {}
    model, info = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True, **options)
    leftovers = {kind: sorted(names) for kind, names in info.items() if names}
    assert not leftovers, f"{folder}: {leftovers}"
    return model.eval()


def forward(model, ids):
    """Logits [T][V] of a sequence and, by sparse layer, router logits [T][E]."""
    sparse = {"output_router_logits": True} if experts(model.config.to_dict()) else {}
    with torch.no_grad():
        out = model(torch.tensor([ids]), use_cache=False, **sparse)
    routers = [r.reshape(len(ids), -1).double().numpy() for r in out.router_logits] if sparse else []
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


def probabilities(logits):
    """Softmax over the last axis."""
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)


def router_gaps(router, top_k):
    """By position, the gap in probability between the last expert chosen and the best one not chosen."""
    ranked = -np.sort(-probabilities(router), axis=-1)
    return ranked[:, top_k - 1] - ranked[:, top_k]


def router_record(routers, config):
    """The chosen experts, by falling probability, and the gap in probability to the best one not chosen."""
    layers = [l for l in range(config["num_hidden_layers"]) if is_sparse(config, l)]
    assert len(layers) == len(routers)
    record = []
    for layer, logits in zip(layers, routers):
        top_k = config["num_experts_per_tok"]
        order = np.argsort(-probabilities(logits), axis=-1, kind="stable")
        gaps = None if top_k == experts(config) else [round(float(g), 7) for g in router_gaps(logits, top_k)]
        record.append({"layer": layer, "experts": order[:, :top_k].tolist(), "gap_to_next": gaps})
    return record


def greedy_margins(logits, prompt_tokens):
    """By greedy step, the gap between the two best logits."""
    best_two = -np.sort(-logits, axis=-1)[:, :2]
    return [round(float(a - b), 6) for a, b in best_two[prompt_tokens - 1:-1]]


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_provenance(folder, seed, scripts, versions, arithmetic):
    """What made the files of a folder, and what they are."""
    files = sorted(p for p in folder.iterdir() if p.name != "provenance.json")
    for file in files:
        file.chmod(0o644)
    provenance = {
        "script_sha256": {script.name: sha256(script) for script in scripts},
        "seed": seed,
        "versions": {"python": platform.python_version(), "numpy": np.__version__, "torch": torch.__version__}
        | versions,
        "arithmetic": arithmetic,
        "sha256": {p.name: sha256(p) for p in files},
    }
    (folder / "provenance.json").write_text(json.dumps(provenance, indent=2) + "\n")
