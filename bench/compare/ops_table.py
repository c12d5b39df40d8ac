"""The ops that `cargo bench` has measured, as a markdown table with the fraction of their limit.

    python bench/compare/ops_table.py TARGET/criterion --limits TARGET/release/examples/limits [--only avx512]

An op's limit is the longer of two times: its bytes at the memory's speed, and its operations at the peak of the
arithmetic that its format allows. What lies in the CPU's caches may be faster than the first.
"""

import argparse
import json
import subprocess
from pathlib import Path

FLOATS = ("F32", "F16", "BF16")
HEADER = ["kernels", "op", "format", "tokens", "us", "GB/s", "GFLOP/s", "of its limit"]


def measured(folder):
    """(name parts, seconds, bytes, operations): the fastest sample, since others on the machine only ever add time."""
    for path in sorted(folder.rglob("new/benchmark.json")):
        about = json.loads(path.read_text())
        sample = json.loads(path.with_name("sample.json").read_text())
        seconds = min(time / count for time, count in zip(sample["times"], sample["iters"])) / 1e9
        throughput = about["throughput"]["ElementsAndBytes"]
        yield about["full_id"].split("/"), seconds, throughput["bytes"], throughput["elements"]


def peak(limits, op, form):
    """Operations a second at best: matrix units where the machine has them, for whatever can be integers."""
    integer = [limits.get(f"{unit}_int8_ops_per_s") for unit in ("amx", "vnni")]
    floats = limits.get("f32_ops_per_s")
    return floats if form.startswith(FLOATS) or op == "paged_attention" else next((p for p in integer if p), floats)


def row(name, seconds, size, operations, limits):
    kernels, op, form, tokens = (name + [""])[:4]
    least = max(size / limits["read_bytes_per_s"], operations / (peak(limits, op, form) or float("inf")))
    return [kernels, op, form, tokens, f"{seconds * 1e6:.1f}", f"{size / seconds / 1e9:.1f}",
            f"{operations / seconds / 1e9:.0f}", f"{least / seconds:.2f}"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("criterion", type=Path, help="criterion's folder of results")
    parser.add_argument("--limits", type=Path, required=True, help="the example `limits` of odmoe-backend-cpu")
    parser.add_argument("--only", default="", help="rows whose names contain this")
    arguments = parser.parse_args()
    limits = json.loads(subprocess.run([arguments.limits], check=True, capture_output=True).stdout)
    found = [entry for entry in measured(arguments.criterion) if arguments.only in "/".join(entry[0])]
    number = lambda text: (not text.isdigit(), int(text) if text.isdigit() else 0, text)
    found.sort(key=lambda entry: [number(part) for part in entry[0]])
    lines = [HEADER, ["---"] * len(HEADER)] + [row(*entry, limits) for entry in found]
    print("".join(f"| {' | '.join(line)} |\n" for line in lines), end="")
    print(f"\nLimits: {json.dumps(limits)}")


if __name__ == "__main__":
    main()
