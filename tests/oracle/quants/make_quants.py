#!/usr/bin/env python3
"""Golden vectors of the block formats: what ggml makes of given blocks, and of given values.

Usage: make_quants.py [OUTPUT], by default formats/tests/quants. requirements.txt has the versions it ran with.

Decoding is PyPI gguf's; ggml's own C functions, from the library that llama-cpp-python brings, must agree bit for
bit or nothing is written. Encoding is that library's reference quantiser (no importance matrix); where PyPI gguf has
one too, both must agree.

In OUTPUT, all little endian:
  decode-FORMAT.blocks  blocks, one after another: random ones, and ones at the edges of every field
  decode-FORMAT.f32     their elements as binary32
  encode.f32            values, in rows of 256: ordinary weights and awkward ones, all finite
  encode-FORMAT.blocks  their blocks
  provenance.json       versions, seed, and SHA-256 of this script and of each file
"""

import ctypes
import hashlib
import importlib.metadata
import itertools
import json
import pathlib
import sys

import gguf
import llama_cpp
import numpy as np
from gguf import GGMLQuantizationType as Type

SEED = 20
ROW = 256

# For each format the offsets of its binary16 fields, and the range of its packed sub-block scales.
FORMATS = {
    Type.Q8_0: ([0], None),
    Type.Q4_0: ([0], None),
    Type.Q4_1: ([0, 2], None),
    Type.Q5_0: ([0], None),
    Type.Q5_1: ([0, 2], None),
    Type.Q2_K: ([80, 82], (0, 16)),
    Type.Q3_K: ([108], (96, 108)),
    Type.Q4_K: ([0, 2], (4, 16)),
    Type.Q5_K: ([0, 2], (4, 16)),
    Type.Q6_K: ([208], (192, 208)),
    Type.MXFP4: ([], None),
    Type.IQ4_NL: ([0], None),
    Type.IQ4_XS: ([0], (2, 8)),
}

# Zeros, smallest and largest subnormal, smallest normal, one, largest, infinity, quiet and signalling NaN.
HALVES = [0x0000, 0x8000, 0x0001, 0x8001, 0x03FF, 0x0400, 0x3C00, 0xBC00]
HALVES += [0x7BFF, 0xFBFF, 0x7C00, 0xFC00, 0x7E00, 0xFE00, 0x7C01]
BYTES = [0x00, 0xFF, 0x0F, 0xF0, 0x55, 0xAA, 0x7F, 0x80, 0x3F, 0xC0]


class Ggml:
    """The C functions, by format."""

    def __init__(self):
        folder = pathlib.Path(llama_cpp.__file__).parent / "lib"
        self.library = ctypes.CDLL(str(folder / "libggml-base.so"))
        self.library.ggml_quantize_chunk.restype = ctypes.c_size_t
        self.library.ggml_quantize_chunk.argtypes = (
            [ctypes.c_int] + [ctypes.c_void_p] * 2 + [ctypes.c_int64] * 3 + [ctypes.c_void_p]
        )

    def decode(self, kind, blocks):
        """Elements of blocks [blocks, bytes]."""
        elements, _ = gguf.GGML_QUANT_SIZES[kind]
        name = kind.name.lower().replace("_k", "_K")
        function = getattr(self.library, f"dequantize_row_{name}")
        function.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64]
        function.restype = None
        blocks = np.ascontiguousarray(blocks)
        decoded = np.empty((len(blocks), elements), np.float32)
        function(blocks.ctypes.data, decoded.ctypes.data, decoded.size)
        return decoded

    def encode(self, kind, rows):
        """Bytes of rows [rows, elements]."""
        elements, size = gguf.GGML_QUANT_SIZES[kind]
        rows = np.ascontiguousarray(rows, np.float32)
        encoded = np.zeros((len(rows), rows.shape[1] // elements * size), np.uint8)
        written = self.library.ggml_quantize_chunk(
            kind.value, rows.ctypes.data, encoded.ctypes.data, 0, *rows.shape, None
        )
        assert written == encoded.size, (kind, written)
        return encoded


def blocks_of(kind, random):
    """Blocks [blocks, bytes] of one format."""
    halves, scales = FORMATS[kind]
    _, size = gguf.GGML_QUANT_SIZES[kind]
    blocks = [np.full(size, byte, np.uint8) for byte in BYTES]

    def add(fields=(), scale_byte=None):
        block = random.integers(0, 256, size, np.uint8)
        for at, bits in zip(halves, fields):
            block[at : at + 2] = np.array([bits], "<u2").view(np.uint8)
        if scale_byte is not None:
            block[slice(*scales)] = scale_byte
        blocks.append(block)

    ordinary = np.array([0.01, -0.25, 3.0], np.float16).view(np.uint16)
    for _ in range(12 if scales else 100):
        add()
        add(random.choice(ordinary, len(halves)))
    if len(halves) == 1:
        for bits in HALVES:
            add([bits])
    elif len(halves) == 2:
        # Every edge beside an ordinary value, and the pairs that cancel or overflow.
        for bits in HALVES:
            add([bits, 0x3C00])
            add([0x3C00, bits])
        for pair in itertools.product([0x0000, 0x8000, 0x7BFF, 0xFBFF, 0x7C00, 0xFC00], repeat=2):
            add(pair)
    if scales:
        for byte in BYTES:
            add([0x3C01, 0x2E66], byte)
            add([0x7BFF, 0x7BFF], byte)
    if kind == Type.MXFP4:
        for exponent in range(256):
            add()
            blocks[-1][0] = exponent
    return np.stack(blocks)


def values(random):
    """Finite values [rows, ROW]."""
    rows = []

    def add(row):
        rows.append(np.asarray(row, np.float32))

    for exponent in range(-4, 4):
        add(random.standard_normal(ROW) * 10.0**exponent)
        add(random.standard_normal(ROW) ** 3 * 10.0**exponent)
    for _ in range(8):
        # Weights as they are: binary16 or bfloat16, whose grid makes ties.
        weights = (random.standard_normal(ROW) * 0.02).astype(np.float32)
        add(weights.astype(np.float16))
        add((weights.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32))
    for low, high in [(-1, 1), (0, 1), (-1, 0), (0.5, 0.6), (-3, -2.9), (1e-7, 2e-7), (-6e4, 6e4)]:
        add(random.uniform(low, high, ROW))
    for limit in [1, 2, 8, 31, 127]:
        add(random.integers(-limit, limit + 1, ROW))
    add(np.zeros(ROW))
    add(-np.zeros(ROW))
    add(np.ones(ROW))
    add(-np.ones(ROW) * 0.37)
    add(np.arange(ROW))
    add(np.where(np.arange(ROW) % 32 < 16, 0.0, random.standard_normal(ROW)))
    add(np.where(np.arange(ROW) < 192, 0.0, random.standard_normal(ROW)))
    for outlier in [100.0, -100.0]:
        row = random.standard_normal(ROW) * 0.01
        row[77] = outlier
        add(row)
    # Each sub-block of another size, so that the scales of sub-blocks use their whole range.
    for base in [0.5, 0.1]:
        add(random.standard_normal(ROW) * base ** (np.arange(ROW) // 16))
        add(np.abs(random.standard_normal(ROW)) * base ** (np.arange(ROW) // 32))
    return np.stack(rows)


def same_bits(left, right):
    """Equal as bits, any NaN equal to any."""
    both_nan = np.isnan(left) & np.isnan(right)
    return bool(np.all((left.view(np.uint32) == right.view(np.uint32)) | both_nan))


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def main():
    root = pathlib.Path(__file__).resolve().parents[3]
    output = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else root / "formats/tests/quants"
    output.mkdir(parents=True, exist_ok=True)
    ggml = Ggml()
    files = {"encode.f32": values(np.random.default_rng(SEED)).astype("<f4")}
    np.seterr(over="ignore", invalid="ignore", divide="ignore")
    for kind in FORMATS:
        blocks = blocks_of(kind, np.random.default_rng([SEED, kind.value]))
        decoded = gguf.quants.dequantize(blocks, kind)
        assert same_bits(decoded, ggml.decode(kind, blocks)), f"{kind.name}: decoders disagree"
        files[f"decode-{kind.name}.blocks"] = blocks
        files[f"decode-{kind.name}.f32"] = decoded.astype("<f4")

        rows = files["encode.f32"]
        encoded = ggml.encode(kind, rows)
        try:
            other = gguf.quants.quantize(rows, kind)
        except NotImplementedError:
            other = encoded
        # A block of negative zeros: PyPI gguf gives the zero scale the other sign.
        negative_zeros = (np.signbit(rows) & (rows == 0)).all(axis=1)
        differ = np.flatnonzero((encoded != other).any(axis=1) & ~negative_zeros)
        assert len(differ) == 0, f"{kind.name}: quantisers disagree in rows {differ}"
        files[f"encode-{kind.name}.blocks"] = encoded
    for name, array in files.items():
        (output / name).write_bytes(np.ascontiguousarray(array).tobytes())
    packages = ["gguf", "llama-cpp-python", "numpy"]
    provenance = {
        "versions": {name: importlib.metadata.version(name) for name in packages},
        "seed": SEED,
        "script_sha256": {"quants/make_quants.py": sha256(pathlib.Path(__file__))},
        "sha256": {name: sha256(output / name) for name in sorted(files)},
    }
    (output / "provenance.json").write_text(json.dumps(provenance, indent=1) + "\n")
    print(f"{len(files)} files, {sum(a.nbytes for a in files.values())} bytes in {output}")


if __name__ == "__main__":
    main()
