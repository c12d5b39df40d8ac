"""Compares odmoe with llama.cpp on the same GGUF files: alternating runs, one program at a time, medians and spread.

    cargo build --release -p odmoe -p odmoe-backend-cpu --bins --examples
    python bench/compare/compare.py --odmoe target/release/odmoe --limits target/release/examples/limits \\
        --folder FOLDER --output FOLDER/compare

writes FOLDER/compare.md and FOLDER/compare.json, anew after each model. The interpreter has requirements.txt; --python
names another one for llama.cpp. Models are made in the folder by `odmoe synth` and `odmoe convert` as they come up;
with --tidy they are removed again, so that the disk holds one at a time. Have the machine idle.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import table

HERE = Path(__file__).parent
ONE_STREAM = "decode, 1 stream"
# The work of each run, and the rows that come of it. The first warms both programs up.
WORKS = {
    "1x128+33": {"prefill of 128": "prefill_tokens_per_s", ONE_STREAM: "decode_tokens_per_s"},
    "1x512+1": {"prefill of 512": "prefill_tokens_per_s"},
    "4x16+13": {"decode, 4 streams": "decode_tokens_per_s"},
    "8x16+9": {"decode, 8 streams": "decode_tokens_per_s"},
}
# More tokens where a token takes microseconds.
SMALL_WORKS = {
    "1x128+257": {"prefill of 128": "prefill_tokens_per_s", ONE_STREAM: "decode_tokens_per_s"},
    "1x512+1": {"prefill of 512": "prefill_tokens_per_s"},
    "4x16+129": {"decode, 4 streams": "decode_tokens_per_s"},
    "8x16+129": {"decode, 8 streams": "decode_tokens_per_s"},
}
DENSE, SPARSE = ["llama-1b"], ["qwen3-30b-a3b", "--layers", "20"]
# In Q8_0 twenty layers are 14 GB, which a machine of 24 GB cannot hold and keep the file's pages as well.
LESS_DEEP = ["qwen3-30b-a3b", "--layers", "12"]
MODELS = {
    "tiny-moe.q8_0": (None, None, SMALL_WORKS),
    "llama-1b.q4_k_m": (DENSE, "Q4_K_M", WORKS),
    "llama-1b.q8_0": (DENSE, "Q8_0", WORKS),
    "qwen3-30b-a3b-20.q4_k_m": (SPARSE, "Q4_K_M", WORKS),
    "qwen3-30b-a3b-20.q4_0": (SPARSE, "Q4_0", WORKS),
    "qwen3-30b-a3b-12.q8_0": (LESS_DEEP, "Q8_0", WORKS),
}
OURS, PLAIN, REPACKED = "odmoe", "llama.cpp", "llama.cpp, repacked"
# After so many rounds a setting of llama.cpp stops running the rows in which the other one is so much faster.
SETTLED_AFTER, SETTLED_BY = 2, 1.15


class Model:
    """One model's files and what was measured on it."""

    def __init__(self, name, arguments):
        self.name, self.arguments = name, arguments
        self.preset, self.quantisation, self.works = MODELS[name]
        self.gguf, self.store = arguments.folder / f"{name}.gguf", arguments.folder / f"{name}.store"
        # (program, row) -> one figure a round.
        self.figures, self.failures = {}, {}
        # program -> for each round, what part of the memory's bandwidth around it one stream's decode takes.
        self.memory_shares = {}

    def make(self):
        if not self.gguf.exists() and self.preset is None:
            command(self.arguments.python, HERE / "tiny_moe.py", self.arguments.tiny, self.gguf)
        elif not self.gguf.exists():
            model = [*self.preset, "--quant", self.quantisation, "--output", self.gguf]
            command(self.arguments.odmoe, "synth", *model, "--overwrite")
        if not self.store.exists():
            command(self.arguments.odmoe, "convert", self.gguf, self.store)
        self.facts = json.loads(command(self.arguments.odmoe, "inspect", "--json", self.store))

    def remove(self):
        self.gguf.unlink(missing_ok=True)
        shutil.rmtree(self.store, ignore_errors=True)

    def run(self, program, repeat):
        """One run of one program: a figure for each row that it has not lost. Returns the figures."""
        works = [w for w, rows in self.works.items() if any(not self.settled(program, row) for row in rows)]
        if not works or program in self.failures:
            return {}
        flags = [flag for work in works for flag in ("--work", work)]
        if program == OURS:
            line = [self.arguments.odmoe, "bench", "--model", self.store, "--repeats", 1, "--json", *flags,
                    "--threads", self.arguments.threads, *self.arguments.odmoe_flags.split()]
        else:
            line = [self.arguments.python, HERE / "llama_cpp_peer.py", "--model", self.gguf, *flags,
                    "--threads", self.arguments.threads, "--repeat", repeat,
                    *(["--repack"] if program == REPACKED else [])]
        try:
            reports = [json.loads(report) for report in command(*line).splitlines()]
        except subprocess.CalledProcessError as failed:
            if program == OURS:
                raise
            # llama.cpp's repacking crashes on some machines, and runs out of memory on others.
            self.failures[program] = f"status {failed.returncode}"
            return {}
        new = {}
        for work, report in zip(works, reports, strict=True):
            for row, figure in self.works[work].items():
                new[row] = report[figure]["median"] if program == OURS else report[figure]
                self.figures.setdefault((program, row), []).append(new[row])
        return new

    def round(self, repeat):
        """Each program once. Memory is measured between them: on a shared host it changes within a round."""
        before = measure_memory(self.arguments)
        for program in (OURS, PLAIN, REPACKED):
            figures = self.run(program, repeat)
            if ONE_STREAM not in figures:
                continue
            after = measure_memory(self.arguments)
            share = figures[ONE_STREAM] * self.facts["bytes_a_token"] / statistics.mean((before, after))
            self.memory_shares.setdefault(program, []).append(share)
            before = after

    def settled(self, program, row):
        mine, other = (self.figures.get((p, row), []) for p in (program, PLAIN if program == REPACKED else REPACKED))
        return program != OURS and min(len(mine), len(other)) >= SETTLED_AFTER \
            and statistics.median(mine) * SETTLED_BY < statistics.median(other)

    def report(self):
        rows = [row for rows in self.works.values() for row in rows]
        figures = {row: {p: self.figures[p, row] for p in (OURS, PLAIN, REPACKED) if (p, row) in self.figures}
                   for row in rows}
        facts = {key: self.facts[key] for key in ("active_parameters", "bytes_a_token")}
        config = self.facts["config"]
        # A prompt's tokens do not pass the output head, but for the last.
        facts["prefill_parameters"] = facts["active_parameters"] - config["vocab_size"] * config["hidden_size"]
        return {"model": self.name, "file_bytes": self.gguf.stat().st_size, **facts, "tokens_per_s": figures,
                "memory_shares": self.memory_shares, "failures": self.failures}


def command(*line):
    """Standard output; standard error is shown if it fails."""
    done = subprocess.run([str(word) for word in line], capture_output=True, text=True)
    if done.returncode != 0:
        print(done.stderr[-2000:], file=sys.stderr)
        done.check_returncode()
    return done.stdout


def measure_limits(arguments):
    return json.loads(command(arguments.limits, "--threads", arguments.threads))


def measure_memory(arguments):
    """Bytes per second over about a second, as long as a decode row takes."""
    report = command(arguments.limits, "--threads", arguments.threads, "--memory-alone", "--runs", 16)
    return json.loads(report)["mean_read_bytes_per_s"]


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--odmoe", type=Path, required=True, help="a release build")
    parser.add_argument("--limits", type=Path, required=True, help="the example `limits` of odmoe-backend-cpu")
    parser.add_argument("--folder", type=Path, required=True, help="where models are, or are made")
    parser.add_argument("--output", type=Path, required=True, help="without its ending")
    parser.add_argument("--tiny", type=Path, help="the embedded model's checkpoint; without it that model is left out")
    parser.add_argument("--python", type=Path, default=sys.executable, help="an interpreter with requirements.txt")
    parser.add_argument("--only", action="append", default=[], metavar="PART", help="models whose names contain this")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--odmoe-flags", default="--expert-cache 100% --prefill-chunk 512",
                        help="of odmoe bench, in one string")
    parser.add_argument("--tidy", action="store_true", help="remove each model when it is measured")
    return parser.parse_args()


def main():
    arguments = parse()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    wanted = [name for name, (preset, *_) in MODELS.items()
              if (preset or arguments.tiny) and (not arguments.only or any(part in name for part in arguments.only))]
    began, report = time.time(), {"threads": arguments.threads, "odmoe_flags": arguments.odmoe_flags, "models": []}
    for name in wanted:
        model = Model(name, arguments)
        model.make()
        limits = [measure_limits(arguments)]
        for repeat in range(1, arguments.repeats + 1):
            model.round(repeat)
            print(f"{name}: round {repeat}, {time.time() - began:.0f} s", file=sys.stderr, flush=True)
        limits.append(measure_limits(arguments))
        report["models"].append(model.report() | {"limits": limits})
        arguments.output.with_suffix(".json").write_text(json.dumps(report, indent=1))
        arguments.output.with_suffix(".md").write_text(table.render(report))
        if arguments.tidy:
            model.remove()
    print(table.render(report))


if __name__ == "__main__":
    main()
