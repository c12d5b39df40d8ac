#!/usr/bin/env python3
"""What masks cost in a running server: decode with and without them, in turn, in one run.

    python3 bench/masks.py target/release/odmoe [arguments of `odmoe serve`, such as --model STORE --expert-cache 100%]

Three kinds of answers of the same number of tokens: free ones, the same ones under a regular expression that allows any
text (the tokens are equal, and so are their experts: the ratio is what masks cost), and answers in a JSON schema, whose
tokens are others. Decode time is the server's own (`vllm:request_decode_time_seconds`), from the first token to the end.
Prints one JSON object: milliseconds a token, min, median and max over the rounds, and the ratio of the first two medians.
"""

import json
import statistics
import subprocess
import sys
import threading
import urllib.request

TOKENS = 96
ROUNDS = 15
STREAMS = (1, 4)
NAME = {"type": "object", "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
        "required": ["name", "age"], "additionalProperties": False}
SCHEMA = {"type": "object", "properties": {"people": {"type": "array", "items": NAME, "minItems": TOKENS}},
          "required": ["people"], "additionalProperties": False}
KINDS = {
    "free": {},
    "any_text": {"guided_regex": r"(.|\n)*"},
    "schema": {"response_format": {
        "type": "json_schema", "json_schema": {"name": "people", "strict": True, "schema": SCHEMA}}},
}


def start(binary, arguments):
    process = subprocess.Popen(
        [binary, "serve", "--port", "0", "--no-prefetch", *arguments], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    url = process.stdout.readline().rsplit(" ", 1)[1].strip()
    while "  curl " not in (line := process.stdout.readline()):
        assert line, "the server ended before it was ready"
    return process, url


def get(url):
    with urllib.request.urlopen(url) as reply:
        return reply.read().decode()


def decode_seconds(url):
    lines = get(f"{url}/metrics").splitlines()
    series = [line for line in lines if line.startswith("vllm:request_decode_time_seconds_sum")]
    return sum(float(line.rsplit(" ", 1)[1]) for line in series)


def ask(url, model, stream, kind, said):
    question = "Tell me a long story about " + ("a cat", "a bird", "a boy", "a girl")[stream] + "."
    body = {"model": model, "messages": [{"role": "user", "content": question}], "temperature": 0,
            "max_tokens": TOKENS} | KINDS[kind]
    request = urllib.request.Request(
        f"{url}/v1/chat/completions", json.dumps(body).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(request) as reply:
        answer = json.load(reply)
    assert answer["usage"]["completion_tokens"] == TOKENS, answer
    said[stream] = answer["choices"][0]["message"]["content"]


def measure(url, model, streams, kind):
    """Milliseconds a token, and what was said."""
    before, said = decode_seconds(url), [None] * streams
    threads = [threading.Thread(target=ask, args=(url, model, stream, kind, said)) for stream in range(streams)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return 1000 * (decode_seconds(url) - before) / streams / (TOKENS - 1), said


def main():
    process, url = start(sys.argv[1], sys.argv[2:])
    model = json.loads(get(f"{url}/v1/models"))["data"][0]["id"]
    report = {"tokens": TOKENS, "rounds": ROUNDS}
    for streams in STREAMS:
        said = {kind: measure(url, model, streams, kind)[1] for kind in KINDS}
        assert said["free"] == said["any_text"] != said["schema"]
        figures = {kind: [] for kind in KINDS}
        for turn in range(ROUNDS):
            order = list(KINDS)[:: 1 if turn % 2 else -1]
            for kind in order:
                figures[kind].append(measure(url, model, streams, kind)[0])
        median = {kind: statistics.median(all) for kind, all in figures.items()}
        report[f"{streams} streams"] = {
            f"{kind}_ms": [round(figure, 3) for figure in (min(all), median[kind], max(all))]
            for kind, all in figures.items()
        } | {"ratio": round(median["any_text"] / median["free"], 4)}
    print(json.dumps(report))
    process.terminate()
    process.wait()


main()
