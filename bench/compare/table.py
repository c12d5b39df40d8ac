"""The comparison as markdown: a row for each model and work, and the ratio to llama.cpp's better setting."""

import json
import statistics
import sys
from pathlib import Path

PEERS = ("llama.cpp", "llama.cpp, repacked")
HEADER = ["model", "work", "odmoe", "llama.cpp", "repacked", "ratio", "of the limit"]


def spread(values):
    """Median and range, in tokens a second."""
    if not values:
        return "-"
    digits = 0 if max(values) >= 100 else 1
    low, middle, high = (f"{v:.{digits}f}" for v in (min(values), statistics.median(values), max(values)))
    return f"{middle} ({low} to {high})" if len(values) > 1 else middle


def best(limits, key):
    """A limit is what was reached at best, before and after."""
    return max((limit[key] for limit in limits if limit.get(key)), default=None)


def fraction(model, row, rate):
    """Of memory bandwidth for one stream's decode, of the integer peak for prefill; empty where no single limit is.

    Bandwidth is what memory gave at best, and behind it the parts that each program took of what it gave beside it.
    """
    if row == "decode, 1 stream" and (bandwidth := best(model["limits"], "read_bytes_per_s")):
        shares = model.get("memory_shares", {})
        taken = [f"{statistics.median(shares[p]):.2f}" for p in ("odmoe", *PEERS) if p in shares]
        beside = f"; of memory beside {', '.join(taken)}" if taken else ""
        return f"{rate * model['bytes_a_token'] / bandwidth:.2f} of {bandwidth / 1e9:.1f} GB/s{beside}"
    if not row.startswith("prefill"):
        return ""
    peaks = {name: best(model["limits"], f"{name}_ops_per_s") for name in ("amx_int8", "vnni_int8", "f32")}
    name, peak = next(((n, p) for n, p in peaks.items() if p), (None, None))
    return f"{2 * rate * model['prefill_parameters'] / peak:.2f} of {peak / 1e12:.2f} TOP/s ({name})" if peak else ""


def rows(model):
    for row, programs in model["tokens_per_s"].items():
        ours = statistics.median(programs["odmoe"])
        peers = [programs.get(name, []) for name in PEERS]
        better = max((statistics.median(p) for p in peers if p), default=None)
        shown = [spread(p) if p else model["failures"].get(name, "-")
                 for p, name in zip(peers, PEERS)]
        ratio = f"{ours / better:.2f}" if better else "-"
        yield [model["model"], row, spread(programs["odmoe"]), *shown, ratio, fraction(model, row, ours)]


def render(report):
    lines = [HEADER, ["---"] * len(HEADER)] + [row for model in report["models"] for row in rows(model)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


if __name__ == "__main__":
    print(render(json.loads(Path(sys.argv[1]).read_text())))
