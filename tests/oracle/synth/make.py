"""Makes `expected.json`: what llama.cpp makes of small models by `odmoe synth`: `python make.py ODMOE`.

Pinned: llama-cpp-python 0.3.36, numpy 2.4.6. `ODMOE` is the binary. For each family: the SHA-256 of the file, and of a
prompt's first token on, llama.cpp's logprob of the token that follows; every logit has been seen to be finite. The
vocabulary of the first model gives the token ids of the texts.
"""

import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import llama_cpp
import numpy as np

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from llama_cpp_run import LlamaCpp  # noqa: E402

NARROW = ["--layers", "2", "--hidden", "256", "--vocab", "512"]
MODELS = {
    "toy": ["toy"],
    "mixtral": ["mixtral-8x7b", *NARROW, "--expert-ffn", "256", "--seed", "7"],
    "olmoe": ["olmoe-7b", *NARROW, "--expert-ffn", "256", "--experts", "16", "--top-k", "4", "--quant", "Q5_K_M"],
    "llama": ["llama-1b", *NARROW, "--expert-ffn", "512", "--quant", "Q8_0"],
}
TEXTS = [
    "", " ", "\n\n", "Hello world", " Hello  world\n", "It isn't; THEY'LL say: 'sing 's", "1 22 333 1,234.5",
    "if (x == y) {\n\t\tz += 1;\n    }\r\n", "caf\u00e9 cafe\u0301 na\u00efve", "\u4f60\u597d\uff0c\u4e16\u754c",
    "\U0001f680 \U0001f468\u200d\U0001f469", "eeeeeeeee the there then tttt", "<|im_start|>user\nhi<|im_end|>\n",
    "<|endoftext|>a<|endoftext|>", "\u0000\u0001\u007f\u0085\u00a0\u200b", " " * 9 + "x   ",
]
# Any ids will do.
IDS = [(place * 7919 + 13) % 512 for place in range(48)]


def token_ids(model, text):
    """Special tokens are looked for in the text, none are put around it."""
    vocab = llama_cpp.llama_model_get_vocab(model)
    encoded = text.encode()
    room = (llama_cpp.llama_token * (len(encoded) + 8))()
    count = llama_cpp.llama_tokenize(vocab, encoded, len(encoded), room, len(room), False, True)
    assert count >= 0, text
    return list(room[:count])


def logprobs(logits):
    """Of the tokens that follow, after each of IDS but the last."""
    logits = logits.astype(np.float64)
    shifted = logits - logits.max(axis=1, keepdims=True)
    normalised = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return [round(float(row[token]), 6) for row, token in zip(normalised, IDS[1:])]


def main(odmoe):
    expected = {
        "versions": {"llama_cpp_python": llama_cpp.__version__, "numpy": np.__version__},
        "ids": IDS,
        "models": {},
    }
    with tempfile.TemporaryDirectory() as folder:
        for name, arguments in MODELS.items():
            path = Path(folder) / f"{name}.gguf"
            subprocess.run([odmoe, "synth", *arguments, "--output", str(path)], check=True, capture_output=True)
            llama = LlamaCpp(path)
            logits = llama.forward(IDS, 1)
            assert np.isfinite(logits).all(), name
            if "texts" not in expected:
                expected["texts"] = {text: token_ids(llama.model, text) for text in TEXTS}
            llama.close()
            expected["models"][name] = {
                "arguments": arguments,
                "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
                "logits_deviation": round(float(logits.std()), 3),
                "next_logprobs": logprobs(logits),
            }
    (HERE / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
