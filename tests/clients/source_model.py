"""A Hugging Face folder of a tiny qwen3moe model whose weights are all zero: for what must be converted first."""

import json
import math
import struct

HIDDEN, HEADS, HEAD_DIM, EXPERTS, EXPERT_FFN, VOCABULARY = 64, 2, 32, 4, 32, 257


def tensors():
    attention = {"q_proj": [HEADS * HEAD_DIM, HIDDEN], "k_proj": [HEADS * HEAD_DIM, HIDDEN],
                 "v_proj": [HEADS * HEAD_DIM, HIDDEN], "o_proj": [HIDDEN, HEADS * HEAD_DIM],
                 "q_norm": [HEAD_DIM], "k_norm": [HEAD_DIM]}
    expert = {"gate_proj": [EXPERT_FFN, HIDDEN], "up_proj": [EXPERT_FFN, HIDDEN], "down_proj": [HIDDEN, EXPERT_FFN]}
    shapes = {"model.embed_tokens": [VOCABULARY, HIDDEN], "lm_head": [VOCABULARY, HIDDEN], "model.norm": [HIDDEN]}
    layer = {f"self_attn.{name}": shape for name, shape in attention.items()}
    layer |= {"input_layernorm": [HIDDEN], "post_attention_layernorm": [HIDDEN], "mlp.gate": [EXPERTS, HIDDEN]}
    layer |= {f"mlp.experts.{index}.{name}": shape for index in range(EXPERTS) for name, shape in expert.items()}
    return shapes | {f"model.layers.0.{name}": shape for name, shape in layer.items()}


def characters():
    """The characters that byte-level BPE writes the 256 bytes with."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return [chr(byte) for byte in plain] + [chr(256 + number) for number in range(256 - len(plain))]


def write(folder):
    folder.mkdir()
    header, end = {}, 0
    for name, shape in tensors().items():
        begin, end = end, end + 2 * math.prod(shape)
        header[f"{name}.weight"] = {"dtype": "BF16", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(end))
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    end_of_text = {"id": 256, "content": "<|end|>", "single_word": False, "lstrip": False, "rstrip": False,
                   "normalized": False, "special": True}
    (folder / "tokenizer.json").write_text(json.dumps({
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [end_of_text], "normalizer": None,
        "pre_tokenizer": byte_level, "post_processor": None, "decoder": byte_level,
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                  "vocab": {character: number for number, character in enumerate(characters())}, "merges": []}}))
    (folder / "config.json").write_text(json.dumps({
        "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "attention_bias": False,
        "decoder_sparse_step": 1, "eos_token_id": 256, "head_dim": HEAD_DIM, "hidden_act": "silu",
        "hidden_size": HIDDEN, "intermediate_size": 64, "max_position_embeddings": 512, "mlp_only_layers": [],
        "moe_intermediate_size": EXPERT_FFN, "norm_topk_prob": True, "num_attention_heads": HEADS,
        "num_experts": EXPERTS, "num_experts_per_tok": 2, "num_hidden_layers": 1, "num_key_value_heads": HEADS,
        "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
        "vocab_size": VOCABULARY}))
    return folder
