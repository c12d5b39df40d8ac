"""The paging comparison as markdown: what each run reached of its own limit, and beside llama.cpp."""

import json
import statistics
import sys
from pathlib import Path

HEADER = ["model", "fits", "work", "tokens/s", "limit", "of the limit", "hit rate", "bound by", "llama.cpp", "ratio"]
# work -> (shown as, its rate, its missed bytes, tokens that the rate counts).
ROWS = {
    ("1x16+49", "decode_tokens_per_s"): ("decode, 1 stream", "missed_bytes_decode", "hit_rate_decode", 48),
    ("1x512+33", "prefill_tokens_per_s"): ("prefill of 512", "missed_bytes_prefill", "hit_rate_prefill", 512),
    ("1x512+33", "decode_tokens_per_s"): ("decode after it", "missed_bytes_decode", "hit_rate_decode", 32),
    ("8x16+13", "decode_tokens_per_s"): ("decode, 8 streams", "missed_bytes_decode", "hit_rate_decode", 96),
}


def disk_bandwidth(measured):
    """Bytes a second: what the disk gave right before and right after the run."""
    return statistics.mean(disk["disk_bytes_per_s"]["median"] for disk in measured["disk"])


def fraction(rate, resident_rate, missed_bytes, tokens, bandwidth):
    """Of 1 / max(compute, missed bytes / bandwidth); with what the maximum was, and the limit."""
    compute, disk = 1 / resident_rate, missed_bytes / tokens / bandwidth
    limit = 1 / max(compute, disk)
    return rate / limit, "disk" if disk > compute else "compute", limit


def spread(values, digits=1):
    low, middle, high = (f"{v:.{digits}f}" for v in (min(values), statistics.median(values), max(values)))
    return f"{middle} ({low} to {high})" if len(values) > 1 else middle


def rows(model):
    shares = model["rounds"][0]["shares"]
    for share in shares:
        for (work, figure), (shown, missed, hits, tokens) in ROWS.items():
            yield row(model, share, work, figure, shown, missed, hits, tokens)
        yield cold_start(model, share)


def row(model, share, work, figure, shown, missed, hits, tokens):
    rates, limits, fractions, bounds, hit_rates, peers = [], [], [], [], [], []
    resident = statistics.median(round_["resident"][work][figure]["median"] for round_ in model["rounds"])
    for round_ in model["rounds"]:
        measured = round_["shares"][share]
        report = measured["works"][work]
        rates.append(report[figure]["median"])
        part, bound, limit = fraction(rates[-1], resident, report[missed]["median"], tokens, disk_bandwidth(measured))
        fractions.append(part), limits.append(limit), bounds.append(bound)
        hit_rates.append(report[hits]["median"])
        if shown == "decode, 1 stream" and "llama.cpp" in measured:
            peers.append(measured["llama.cpp"]["decode_tokens_per_s"])
    ratio = f"{statistics.median(rates) / statistics.median(peers):.1f}" if peers else ""
    return [model["model"], f"{float(share):g} %", shown, spread(rates), f"{statistics.median(limits):.1f}", spread(fractions, 2),
            f"{statistics.median(hit_rates):.3f}", statistics.mode(bounds), spread(peers, 2) if peers else "", ratio]


def cold_start(model, share):
    """Seconds to the first token; its limit is the bytes that were read."""
    measured = [round_["shares"][share] for round_ in model["rounds"]]
    seconds = [m["cold_start"]["seconds"] for m in measured]
    limits = [m["cold_start"]["bytes"] / disk_bandwidth(m) for m in measured]
    fractions = [limit / s for limit, s in zip(limits, seconds)]
    return [model["model"], f"{float(share):g} %", "cold start to first token", f"{spread(seconds, 2)} s",
            f"{statistics.median(limits):.2f} s", spread(fractions, 2), "", "disk", "", ""]


def render(report):
    lines = [HEADER, ["---"] * len(HEADER)]
    lines += [line for model in report["models"] if model["rounds"] for line in rows(model)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


if __name__ == "__main__":
    print(render(json.loads(Path(sys.argv[1]).read_text())))
