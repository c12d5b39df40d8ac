"""Compares imported tokenizers with llama.cpp over random texts: `python compare.py ENCODER FILE.gguf ...`.

ENCODER is the example `encode_gguf` of the crate `tests`, built. Texts are a mix of code, words, spaces, digits, long
runs and characters of all of Unicode, seeded. Prints how many texts differ, and the first few.
"""

import json
import random
import subprocess
import sys

import llama_cpp

TEXTS = 3000
SEED = 7
WORDS = """the of and in to is it's we've They'll CAN'T don't I'D Hello world def return self class import if else for
while {} [] () == != += -> // /* */ # TODO: print("x") camelCase snake_case HTTPServer \u0434\u043e\u0431\u0440\u043e \u043c\u0438\u0440 \u4f60\u597d \u4e16\u754c \u3053\u3093\u306b\u3061\u306f \uc548\ub155
na\u00efve \u00c9cole stra\u00dfe \u0645\u0631\u062d\u0628\u0627 \u0939\u093f\u0928\u094d\u0926\u0940 \u0e20\u0e32\u0e29\u0e32 \U0001f680 \U0001f468\u200d\U0001f469 \u20ac \u00bd x\u00b2 1,000 3.14 2024-01-02 0xFF""".split()
SPACES = [" "] * 12 + ["  ", "   ", "\t", "\n", "\n\n", "\r\n", "\u00a0", "\u3000", "\u2003", "\u2028", " \n "]
BLOCKS = [(0x20, 0x7F), (0xA0, 0x250), (0x300, 0x600), (0x900, 0xE80), (0x1E00, 0x2C00), (0x3000, 0x3100),
          (0x4E00, 0x9FFF), (0xAC00, 0xD7A4), (0xF900, 0x10000), (0x10000, 0x1F000), (0x1F300, 0x1FB00), (0, 0x110000)]


def text(draw):
    parts = []
    for _ in range(draw.randint(1, 30)):
        kind = draw.random()
        if kind < 0.45:
            parts.append(draw.choice(WORDS))
        elif kind < 0.65:
            parts.append(draw.choice(SPACES))
        elif kind < 0.75:
            parts.append("".join(draw.choice("0123456789") for _ in range(draw.randint(1, 12))))
        elif kind < 0.82:
            parts.append(draw.choice(" =-aA.\t\n\u4e00xX_*#!") * draw.randint(1, 70))
        else:
            low, high = draw.choice(BLOCKS)
            points = (draw.randrange(low, high) for _ in range(draw.randint(1, 6)))
            parts.append("".join(chr(point) for point in points if not 0xD800 <= point < 0xE000))
        if draw.random() < 0.4:
            parts.append(" ")
    return "".join(parts)


def main():
    encoder, paths = sys.argv[1], sys.argv[2:]
    draw = random.Random(SEED)
    texts = [text(draw) for _ in range(TEXTS)]
    lines = "\n".join(json.dumps(text) for text in texts)
    for path in paths:
        ran = subprocess.run([encoder, path], input=lines, capture_output=True, text=True, check=True)
        ours = [json.loads(line) for line in ran.stdout.splitlines()]
        model = llama_cpp.Llama(path, vocab_only=True, verbose=False)
        theirs = [model.tokenize(text.encode(), add_bos=False, special=True) for text in texts]
        differ = [case for case in zip(texts, ours, theirs, strict=True) if case[1] != case[2]]
        print(f"{path}: {len(differ)} of {TEXTS} differ (seed {SEED})")
        for case_text, found, expected in differ[:5]:
            at = next((i for i, (a, b) in enumerate(zip(found, expected)) if a != b), min(len(found), len(expected)))
            around = model.detokenize(expected[max(0, at - 2):at + 6]).decode(errors="replace")
            print(f"  at {at} near {around!r}: {found[at:at + 6]} for {expected[at:at + 6]}")


if __name__ == "__main__":
    main()
