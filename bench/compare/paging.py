"""Compares paging with its physical limit, and with llama.cpp on the same GGUF file under the same memory limit.

    cargo build --release
    python bench/compare/paging.py --odmoe target/release/odmoe --folder FOLDER --output FOLDER/paging

Needs root, for a memory control group and cold files, an idle machine, and 16 GB in FOLDER for each model. Writes
FOLDER/paging.md and FOLDER/paging.json, anew after each round. The interpreter has requirements.txt; --python names
another one for llama.cpp.

The limit of a run is 1 / max(compute, missed bytes / disk bandwidth) a token. Compute is what odmoe takes with every
expert in memory. Disk bandwidth is what the same program reaches on the same shards with nothing else to do, measured
before and after each run. Missed bytes are those of experts that no earlier use had left in memory, whether or not
they were foreseen.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import paging_table
from cgroup import MemoryGroup, cold_files, free_bytes, read_ahead, touch_memory

HERE = Path(__file__).parent
SHAPE = ["qwen3-30b-a3b", "--layers", "20"]
MODELS = {"uniform": [*SHAPE, "--routing", "uniform"], "reuse": [*SHAPE, "--routing", "reuse"]}
SHARES = [50, 25, 12.5]
# As many as fit: below, llama.cpp takes minutes a token.
PEER_SHARES = [50, 25]
# Beside the model's resident bytes and its experts' share: what either program needs to run in.
ROOM_BYTES = 256 << 20
# A long prompt, and the answer right after it; one stream; eight.
WORKS = ["1x16+49", "1x512+33", "8x16+13"]
# Done before them where everything is to be in memory: a prompt leaves few experts of a layer unread.
WARM_UP = ["1x512+1"] * 3
PEER_WORK = "1x16+17"
KV_TOKENS = 2048
# What is not touched before a cold start.
KEPT_FREE_BYTES = 3 << 30
# What llama.cpp's map of the file reads at a fault; the best that was found for it.
READ_AHEAD_KIB = 128


class Model:
    """One model's files and what was measured on it."""

    def __init__(self, name, arguments):
        self.name, self.arguments = name, arguments
        self.gguf, self.store = arguments.folder / f"{name}.gguf", arguments.folder / f"{name}.store"
        self.rounds = []

    def make(self):
        odmoe = self.arguments.odmoe
        if not self.gguf.exists() and not (self.store.exists() and self.arguments.without_peer):
            command(odmoe, "synth", *MODELS[self.name], "--quant", "Q4_K_M", "--output", self.gguf)
        if not self.store.exists():
            command(odmoe, "convert", self.gguf, self.store)
        self.facts = json.loads(command(odmoe, "inspect", "--json", self.store))

    def memory_limit(self, share):
        return int(self.facts["resident_bytes"] + self.facts["experts"]["bytes"] * share / 100 + ROOM_BYTES)

    def bench(self, *flags, group=None):
        line = [self.arguments.odmoe, "bench", "--model", self.store, "--repeats", 1, "--json", "--kv-cache", KV_TOKENS,
                "--threads", self.arguments.threads, *flags]
        return [json.loads(report) for report in command(*line, group=group).splitlines()]

    def works(self, *flags, warm_up=(), group=None):
        works = [*warm_up, *WORKS]
        reports = self.bench(*(flag for work in works for flag in ("--work", work)), *flags, group=group)
        return dict(zip(WORKS, reports[len(warm_up):], strict=True))

    def resident(self):
        """What everything takes without a read."""
        works = self.works("--expert-cache", "100%", warm_up=WARM_UP)
        read = sum(report["bytes_read"]["median"] for report in works.values())
        if read > 0:
            raise RuntimeError(f"{read} bytes were read though everything fits: warm up longer")
        return works

    def disk(self):
        """Bytes a second of shards at random, verified as they are when they are served."""
        return json.loads(command(self.arguments.odmoe, "bench", "--disk", "--model", self.store, "--json"))

    def paged(self, share):
        with MemoryGroup("paging", self.memory_limit(share)) as group:
            cold_files()
            flags = ["--memory-limit", self.memory_limit(share), "--expert-cache", "auto", *self.arguments.odmoe_flags.split()]
            return {"works": self.works(*flags, group=group), "peak_bytes": group.peak_bytes()}

    def cold_start(self, share):
        """From the start of the process to the first token of a prompt, and what was read from the disk meanwhile."""
        with MemoryGroup("paging", self.memory_limit(share)) as group:
            cold_files()
            touch_memory(free_bytes() - KEPT_FREE_BYTES)
            line = [self.arguments.odmoe, "generate", "--model", self.store, "--prompt", "a b c d e f g h", "--max-tokens", 1,
                    "--memory-limit", self.memory_limit(share), "--kv-cache", KV_TOKENS, "--threads", self.arguments.threads]
            before, began = disk_bytes_of_children(), time.monotonic()
            with subprocess.Popen([str(word) for word in line], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                                  preexec_fn=group.enter) as process:
                if not process.stdout.read(1):
                    raise RuntimeError("no token came")
                seconds = time.monotonic() - began
            return {"seconds": seconds, "bytes": disk_bytes_of_children() - before}

    def peer(self, share, repeat):
        with MemoryGroup("paging", self.memory_limit(share)) as group, read_ahead(self.gguf, READ_AHEAD_KIB):
            cold_files()
            line = [self.arguments.python, HERE / "llama_cpp_peer.py", "--model", self.gguf, "--work", PEER_WORK,
                    "--threads", self.arguments.threads, "--repeat", repeat]
            return json.loads(command(*line, group=group))

    def round(self, repeat):
        """Disk, everything in memory, and each share, with the disk measured between them."""
        round_ = {"resident": self.resident(), "shares": {}}
        disk = self.disk()
        for share in self.arguments.share or SHARES:
            measured = {"disk": [disk], "limit_bytes": self.memory_limit(share), **self.paged(share)}
            measured["cold_start"] = self.cold_start(share)
            disk = self.disk()
            measured["disk"].append(disk)
            if share in PEER_SHARES and not self.arguments.without_peer:
                measured["llama.cpp"] = self.peer(share, repeat)
            round_["shares"][share] = measured
        self.rounds.append(round_)

    def report(self):
        return {"model": self.name, "facts": {key: self.facts[key] for key in ("resident_bytes", "experts")},
                "rounds": self.rounds}


def disk_bytes_of_children():
    """What ended children have read from disks, in blocks of 512."""
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_inblock * 512


def command(*line, group=None):
    """Standard output; standard error is shown if it fails."""
    enter = group.enter if group else None
    done = subprocess.run([str(word) for word in line], capture_output=True, text=True, preexec_fn=enter)
    if done.returncode != 0:
        print(done.stderr[-2000:], file=sys.stderr)
        done.check_returncode()
    return done.stdout


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--odmoe", type=Path, required=True, help="a release build")
    parser.add_argument("--folder", type=Path, required=True, help="where models are, or are made")
    parser.add_argument("--output", type=Path, required=True, help="without its ending")
    parser.add_argument("--python", type=Path, default=sys.executable, help="an interpreter with requirements.txt")
    parser.add_argument("--only", action="append", choices=MODELS, help="this model alone")
    parser.add_argument("--share", action="append", type=float, choices=SHARES, help="this percentage of the experts alone")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--odmoe-flags", default="", help="more flags of odmoe bench under a limit, in one string")
    parser.add_argument("--without-peer", action="store_true", help="odmoe alone")
    return parser.parse_args()


def main():
    arguments = parse()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    models = [Model(name, arguments) for name in arguments.only or MODELS]
    for model in models:
        model.make()
    began = time.time()
    for repeat in range(1, arguments.repeats + 1):
        for model in models:
            model.round(repeat)
            report = {"threads": arguments.threads, "flags": arguments.odmoe_flags, "models": [m.report() for m in models]}
            arguments.output.with_suffix(".json").write_text(json.dumps(report, indent=1))
            arguments.output.with_suffix(".md").write_text(paging_table.render(report))
            print(f"{model.name}: round {repeat}, {time.time() - began:.0f} s", file=sys.stderr, flush=True)
    print(paging_table.render(report))


if __name__ == "__main__":
    main()
