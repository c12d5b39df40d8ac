"""Hugging Face tensors as GGUF files with llama.cpp's names, metadata and layout, and back again as fp32 tensors."""

import ctypes
import math

import gguf
import llama_cpp
import numpy as np
import torch

from families import configuration, expert_width, experts, head_dim

ARCHITECTURES = {
    "llama": "llama", "mixtral": "llama", "qwen2_moe": "qwen2moe", "qwen3": "qwen3", "qwen3_moe": "qwen3moe",
    "olmoe": "olmoe",
}
# What llama.cpp's own converter writes for each family's tokenizer.
PRE_TOKENIZERS = {"llama": "llama-bpe", "qwen2moe": "qwen2", "qwen3": "qwen2", "qwen3moe": "qwen2", "olmoe": "olmo"}
TYPES = gguf.GGMLQuantizationType

LAYER_NAMES = {
    "attn_norm.weight": "input_layernorm.weight", "attn_q.weight": "self_attn.q_proj.weight",
    "attn_k.weight": "self_attn.k_proj.weight", "attn_v.weight": "self_attn.v_proj.weight",
    "attn_output.weight": "self_attn.o_proj.weight", "attn_q.bias": "self_attn.q_proj.bias",
    "attn_k.bias": "self_attn.k_proj.bias", "attn_v.bias": "self_attn.v_proj.bias",
    "attn_q_norm.weight": "self_attn.q_norm.weight", "attn_k_norm.weight": "self_attn.k_norm.weight",
    "ffn_norm.weight": "post_attention_layernorm.weight", "ffn_gate.weight": "mlp.gate_proj.weight",
    "ffn_up.weight": "mlp.up_proj.weight", "ffn_down.weight": "mlp.down_proj.weight",
    "ffn_gate_inp_shexp.weight": "mlp.shared_expert_gate.weight",
    "ffn_gate_shexp.weight": "mlp.shared_expert.gate_proj.weight",
    "ffn_up_shexp.weight": "mlp.shared_expert.up_proj.weight",
    "ffn_down_shexp.weight": "mlp.shared_expert.down_proj.weight",
}
ROUTER = {"mixtral": "block_sparse_moe.gate.weight"}
EXPERT = {"mixtral": ("block_sparse_moe.experts", {"gate": "w1", "up": "w3", "down": "w2"})}
QWEN_EXPERT = ("mlp.experts", {"gate": "gate_proj", "up": "up_proj", "down": "down_proj"})


def permute(values, heads, back=False):
    """Rows of a projection so that rotary pairs are neighbours: llama.cpp's order for the architecture `llama`."""
    rows = values.shape[0] // heads // 2
    split = (heads, rows, 2) if back else (heads, 2, rows)
    return values.reshape(*split, -1).swapaxes(1, 2).reshape(values.shape)


def permuted_heads(name, config):
    """Heads of a tensor whose rows are permuted, or None."""
    if ARCHITECTURES[config["model_type"]] != "llama":
        return None
    return {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}.get(name.split(".")[2])


def expert_name(config, layer, index, role):
    folder, roles = EXPERT.get(config["model_type"], QWEN_EXPERT)
    return f"model.layers.{layer}.{folder}.{index}.{roles[role]}.weight"


def gguf_tensors(config, tensors):
    """GGUF name -> fp32 values, in llama.cpp's row order; experts stacked as [E, rows, columns]."""
    found = {"token_embd.weight": tensors["model.embed_tokens.weight"]}
    router = ROUTER.get(config["model_type"], "mlp.gate.weight")
    for layer in range(config["num_hidden_layers"]):
        for name, source in (LAYER_NAMES | {"ffn_gate_inp.weight": router}).items():
            if (values := tensors.get(f"model.layers.{layer}.{source}")) is not None:
                found[f"blk.{layer}.{name}"] = values
        for role in ("gate", "up", "down") if experts(config) else ():
            stack = [tensors[expert_name(config, layer, e, role)] for e in range(experts(config))]
            found[f"blk.{layer}.ffn_{role}_exps.weight"] = torch.stack(stack)
    found["output_norm.weight"] = tensors["model.norm.weight"]
    if not config["tie_word_embeddings"]:
        found["output.weight"] = tensors["lm_head.weight"]
    converted = {}
    for name, values in found.items():
        values = values.float().numpy()
        heads = permuted_heads(name, config) if name.startswith("blk.") else None
        values = permute(values, heads) if heads else values
        converted[name] = values.reshape(-1) if "gate_inp_shexp" in name else values
    if (scaling := config["rope_scaling"]) and scaling["rope_type"] == "llama3":
        converted["rope_freqs.weight"] = llama3_divisors(config, scaling)
    return converted


def llama3_divisors(config, scaling):
    """What llama.cpp's converter writes for Llama 3's rope scaling: a divisor for each rotary pair."""
    factor, low, high = (scaling[n] for n in ("factor", "low_freq_factor", "high_freq_factor"))
    original, width = scaling["original_max_position_embeddings"], head_dim(config)
    divisors = []
    for pair in range(width // 2):
        wavelength = 2 * math.pi * config["rope_theta"] ** (2 * pair / width)
        if wavelength < original / high:
            divisors.append(1.0)
        elif wavelength > original / low:
            divisors.append(factor)
        else:
            smooth = (original / wavelength - low) / (high - low)
            divisors.append(1 / ((1 - smooth) / factor + smooth))
    return np.array(divisors, dtype=np.float32)


def quantise(values, tensor_type):
    """Rows of blocks as bytes, by llama.cpp's own quantiser."""
    values = np.ascontiguousarray(values, dtype=np.float32)
    if tensor_type == TYPES.F32:
        return values
    rows, width = values.size // values.shape[-1], values.shape[-1]
    block, size = gguf.GGML_QUANT_SIZES[tensor_type]
    assert width % block == 0, f"rows of {width} for {tensor_type.name}"
    library = ctypes.CDLL(str(llama_cpp.__path__[0]) + "/lib/libggml-base.so")
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    library.ggml_quantize_chunk.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p] + [ctypes.c_int64] * 3 + [
        ctypes.c_void_p]
    out = np.empty(values.shape[:-1] + (width // block * size,), dtype=np.uint8)
    written = library.ggml_quantize_chunk(int(tensor_type), values.ctypes.data, out.ctypes.data, 0, rows, width, None)
    assert written == out.nbytes
    return out


def byte_letters():
    """GPT-2's letters for the 256 bytes: printable ones stand for themselves, the others move up."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters, moved = {}, 256
    for byte in range(256):
        if byte in plain:
            letters[byte] = chr(byte)
        else:
            letters[byte], moved = chr(moved), moved + 1
    return [letters[byte] for byte in range(256)]


def add_tokenizer(writer, architecture, vocab_size):
    """A byte-level BPE: the bytes, a few merges, an end-of-text token and filler tokens."""
    merges = [("t", "h"), ("i", "n"), ("a", "n"), ("e", "r"), ("th", "e"), ("\u0120", "the"), ("in", "g")]
    tokens = byte_letters() + [a + b for a, b in merges] + ["<|endoftext|>"]
    types = [gguf.TokenType.NORMAL] * (len(tokens) - 1) + [gguf.TokenType.CONTROL]
    filler = vocab_size - len(tokens)
    assert filler >= 0
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(PRE_TOKENIZERS[architecture])
    writer.add_token_list(tokens + [f"[PAD{i}]" for i in range(filler)])
    writer.add_token_types(types + [gguf.TokenType.UNUSED] * filler)
    writer.add_token_merges([f"{a} {b}" for a, b in merges])
    writer.add_bos_token_id(len(tokens) - 1)
    writer.add_eos_token_id(len(tokens) - 1)
    writer.add_add_bos_token(False)


def add_hyper_parameters(writer, config):
    """The keys that llama.cpp's converter writes for the family."""
    architecture = ARCHITECTURES[config["model_type"]]
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    if "head_dim" in config:
        writer.add_key_length(config["head_dim"])
        writer.add_value_length(config["head_dim"])
    if architecture == "llama":
        writer.add_vocab_size(config["vocab_size"])
        writer.add_rope_dimension_count(head_dim(config))
    if (scaling := config["rope_scaling"]) and scaling["rope_type"] == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(scaling["factor"])
    if experts(config):
        writer.add_expert_count(experts(config))
        writer.add_expert_used_count(config["num_experts_per_tok"])
    if "moe_intermediate_size" in config:
        writer.add_expert_feed_forward_length(expert_width(config))
    if "shared_expert_intermediate_size" in config:
        writer.add_expert_shared_feed_forward_length(config["shared_expert_intermediate_size"])


def write_gguf(path, shape, tensors, type_of, tensors_per_part=0):
    """Writes a file, or a set of parts. `type_of` gives the type of a matrix by its GGUF name; what llama.cpp's
    converter always keeps in F32 (vectors, routers) stays so."""
    config = configuration(shape)
    architecture = ARCHITECTURES[config["model_type"]]
    writer = gguf.GGUFWriter(path, architecture, split_max_tensors=tensors_per_part)
    writer.add_type(gguf.GGUFType.MODEL)
    add_hyper_parameters(writer, config)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    add_tokenizer(writer, architecture, config["vocab_size"])
    for name, values in gguf_tensors(config, tensors).items():
        kept = values.ndim == 1 or "ffn_gate_inp" in name
        tensor_type = TYPES.F32 if kept else type_of(name)
        writer.add_tensor(name, quantise(values, tensor_type), raw_dtype=tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def llama_quantise(source, target, file_type):
    """Has llama.cpp quantise a float file by its own mixture of types."""
    params = llama_cpp.llama_model_quantize_default_params()
    params.nthread, params.ftype = 1, file_type
    assert llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(params)) == 0


def read_tensors(paths, config):
    """The tensors of a set of files as a Hugging Face checkpoint in fp32: what the stored bytes stand for."""
    found, types = {}, {}
    router = ROUTER.get(config["model_type"], "mlp.gate.weight")
    layer_names = LAYER_NAMES | {"ffn_gate_inp.weight": router}
    whole = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight",
             "output.weight": "lm_head.weight"}
    for tensor in (t for path in paths for t in gguf.GGUFReader(path).tensors):
        types[tensor.name] = tensor.tensor_type.name
        shape = [int(n) for n in tensor.shape[::-1]]
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32).reshape(shape)
        if tensor.name == "rope_freqs.weight":
            continue
        if tensor.name in whole:
            found[whole[tensor.name]] = values
            continue
        _, layer, part = tensor.name.split(".", 2)
        if "_exps" in part:
            for index in range(experts(config)):
                found[expert_name(config, layer, index, part.split("_")[1])] = values[index]
            continue
        heads = permuted_heads(tensor.name, config)
        values = permute(values, heads, back=True) if heads else values
        values = values.reshape(1, -1) if "gate_inp_shexp" in part else values
        found[f"model.layers.{layer}.{layer_names[part]}"] = values
    return {name: torch.from_numpy(np.array(values)) for name, values in found.items()}, types
