"""Makes two small vocabularies as GGUF files, and llama.cpp's token ids of some texts: `python make.py`.

Pinned: gguf 0.19.0, llama-cpp-python 0.3.36, tokenizers 0.23.3 (it trains the byte-level merges; llama.cpp alone
gives the ids). Every kind of pre-tokenizer is tried on the same vocabulary. Special tokens are looked for in the texts,
none are put around them.
"""

import hashlib
import json
from importlib.metadata import version
from pathlib import Path

import gguf
import llama_cpp
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

HERE = Path(__file__).parent
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6
SPACE = "\u2581"

# One name of each kind.
KINDS = [
    "default", "llama-bpe", "dbrx", "glm4", "gpt-2", "olmo", "starcoder", "qwen2", "qwen35", "ufakzeka", "minicpm5",
    "deepseek-llm", "deepseek-coder", "deepseek-v3", "falcon", "tekken", "gpt-4o", "bailingmoe", "seed-coder",
    "exaone-moe", "poro-chat", "viking",
]

CORPUS = """
The quick brown fox jumps over the lazy dog. It isn't there; we've seen it, they'll say. IT'S 1234567 or 12,345.67.
def main(argument):
    return [argument for index in range(100) if index != 3]   # a comment

    if (x == y) { z += 1; }\t\treturn;\r\n\r\n
caf\u00e9 na\u00efve \u0414\u043e\u0431\u0440\u043e \u043f\u043e\u0436\u0430\u043b\u043e\u0432\u0430\u0442\u044c \u4f60\u597d\u4e16\u754c \u3053\u3093\u306b\u3061\u306f \uc548\ub155 \u0e20\u0e32\u0e29\u0e32 \u0939\u093f\u0928\u094d\u0926\u0940
AaBbCc HTTPServer camelCase \u00c9cole \u0130stanbul 3333 33333 \u0661\u0662\u0663 \u00bd \u2167 e\u0301 \U0001f680 \U0001f468\u200d\U0001f469\u200d\U0001f467
""" * 3

TEXTS = [
    "", " ", "  ", "   ", "\t", "\n", "\n\n", "\n\n\n", " \n  \n", "\r\n\r\n ", "\t\n x", " \u00a0x", "\u3000\u3000\u4f60\u597d",
    "Hello world", " Hello  world ", "  \tHello\n\n  world\n", "the there then\nthe  the",
    "It isn't; we've, THEY'LL say: I'D 'sing 's 'S 'Ll '", "''''s 'tt",
    "1 22 333 4444 55555 1234567890 1,234.5 1\u06612\u00bd\u2167", "x1y22z333", "3.14e-10",
    "camelCase HTTPServer ABCdef \u00c9COLEs \u0130stanbul\u0131 AbCdEF\u0416\u0436\u0416",
    "caf\u00e9 cafe\u0301 na\u00efve \u0939\u093f\u0928\u094d\u0926\u0940 \u0e20\u0e32\u0e29\u0e32 \u0643\u062a\u0627\u0628",
    "\u0414\u043e\u0431\u0440\u043e \u043f\u043e\u0436\u0430\u043b\u043e\u0432\u0430\u0442\u044c", "\u4f60\u597d\uff0c\u4e16\u754c\u3002\u3053\u3093\u306b\u3061\u306f\u30ab\u30ca \uc548\ub155\ud558\uc138\uc694",
    "!!!??? ... [(x)] {y};\n// a/b\n/ $5 + 6 = \u20ac11 ~ ^ ` | < >", "a\u2026b\u2014c \u201cd\u201d \u2018e\u2019 \u00abf\u00bb",
    "\U0001f680 \U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f1e9\U0001f1ea \u2705\ufe0f", "\u0000\u0001\u007f\u0085\u00ad\u200b\ufeff\ufffd\U0010ffff\ue000\u0378",
    "if (x == y) {\n\t\tz += 1;\n    }\r\n", "aaaaaaaaaaaaaaaaaaaaaaaaa", "=" * 37, " " * 25 + "x" + " " * 12,
    "<|im_start|>user\nhi<|im_end|>\n<|im_start|>", "<|im_end|> <|im_end|>", "a<tool>b <tool> c", "<s>a</s> b<unk>", "<0x0A>",
    SPACE + "x" + SPACE + SPACE, "\u00e4" * 9 + "\u1e9e\ufb03\u017f'\u017f", "end \n", "end\n ", "end  \u2003",
    "ab abc abcd dabc aab abab", "xyzxyz zyx",
]


def printable_bytes():
    prints = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in prints]
    return {**{b: chr(b) for b in prints}, **{b: chr(256 + place) for place, b in enumerate(others)}}


def train(pre_tokenizer, alphabet, size):
    """Merges, most frequent first."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(CORPUS.splitlines(keepends=True), trainer)
    return [tuple(merge) for merge in json.loads(tokenizer.to_str())["model"]["merges"]]


def write(name, model, tokens, kinds, add):
    writer = gguf.GGUFWriter(HERE / name, "llama")
    writer.add_tokenizer_model(model)
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    add(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


def byte_level(pre, name):
    merges = train(pre_tokenizers.ByteLevel(add_prefix_space=False), pre_tokenizers.ByteLevel.alphabet(), 520)
    tokens = list(printable_bytes().values())
    # A byte that the vocabulary lacks, and a word that is a token but that no merge makes.
    tokens.remove("\u0100")
    tokens += [left + right for left, right in merges] + ["\u0120xyz", "xyzxyz"]
    kinds = [NORMAL] * len(tokens)
    tokens += ["<|im_start|>", "<|im_end|>", "<|endoftext|>", "<tool>", "    "]
    kinds += [CONTROL, CONTROL, CONTROL, USER_DEFINED, USER_DEFINED]

    def add(writer):
        writer.add_tokenizer_pre(pre)
        writer.add_token_merges([" ".join(merge) for merge in merges])
        writer.add_eos_token_id(tokens.index("<|im_end|>"))
        writer.add_bos_token_id(tokens.index("<|endoftext|>"))
        writer.add_chat_template("{{ bos_token }}{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}")

    write(name, "gpt2", tokens, kinds, add)


def sentence_piece(name):
    alphabet = sorted(set(CORPUS.replace(" ", SPACE)) - set("\n\r\t\u0130\U0001f680"))
    merges = train(pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="never"), alphabet, 420)
    pieces = list(dict.fromkeys(left + right for left, right in merges))
    pieces = [piece for piece in pieces if set(piece) <= set(alphabet)]
    pieces += ["aa", "aaa", "aaaa", SPACE * 2, SPACE * 3, SPACE * 4]
    pieces = list(dict.fromkeys(pieces))
    tokens = ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)] + pieces + alphabet
    scores = [0.0] * 259 + [-float(place) for place in range(len(pieces) + len(alphabet))]
    kinds = [UNKNOWN, CONTROL, CONTROL] + [BYTE] * 256 + [NORMAL] * (len(tokens) - 259)
    tokens += ["<tool>", "    ", "<|im_start|>", "<|im_end|>"]
    scores += [-1000.0] * 4
    kinds += [USER_DEFINED, USER_DEFINED, CONTROL, CONTROL]

    def add(writer):
        writer.add_token_scores(scores)
        writer.add_bos_token_id(1)
        writer.add_eos_token_id(2)
        writer.add_unk_token_id(0)

    write(name, "llama", tokens, kinds, add)


def ids(name, add_bos=False):
    model = llama_cpp.Llama(str(HERE / name), vocab_only=True, verbose=False)
    return [model.tokenize(text.encode(), add_bos=add_bos, special=True) for text in TEXTS]


def main():
    expected = {"texts": TEXTS, "byte_level": {}}
    for kind in KINDS:
        byte_level(kind, "scratch.gguf")
        expected["byte_level"][kind] = ids("scratch.gguf")
    (HERE / "scratch.gguf").unlink()
    byte_level("qwen2", "byte_level.gguf")
    sentence_piece("sentence_piece.gguf")
    expected["sentence_piece"] = ids("sentence_piece.gguf")
    expected["sentence_piece_with_bos"] = ids("sentence_piece.gguf", add_bos=True)
    lines = json.dumps(expected, indent=1, ensure_ascii=True)
    # A list of ids to a line.
    import re
    lines = re.sub(r"\[\s+((?:\d+,\s+)*\d+)\s+\]", lambda m: "[" + re.sub(r"\s+", "", m[1]) + "]", lines)
    (HERE / "expected.json").write_text(lines + "\n")
    provenance()


def provenance():
    """Writes what everything here was made by, and its hashes."""
    sha256 = lambda path: hashlib.sha256(path.read_bytes()).hexdigest()
    files = sorted(path for path in HERE.iterdir() if path.is_file() and path.name != "provenance.json")
    record = {
        "versions": {name: version(name) for name in ["gguf", "llama-cpp-python", "tokenizers"]},
        "script_sha256": {"vocab/make.py": sha256(HERE / "make.py")},
        "sha256": {path.name: sha256(path) for path in files},
    }
    (HERE / "provenance.json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
