"""A real Prometheus scrapes the server; the folder of its programs is ODMOE_PROMETHEUS."""

import json
import os
import pathlib
import subprocess
import time
import urllib.parse
import urllib.request

from conftest import free_port

# One expression of each kind that dashboards use.
PANELS = [
    "up",
    "sum(rate(vllm:generation_tokens_total[1m]))",
    "histogram_quantile(0.95, sum by (le) (vllm:time_to_first_token_seconds_bucket))",
    "histogram_quantile(0.5, sum by (le) (odmoe_expert_load_seconds_bucket))",
    'sum(odmoe_expert_cache_lookups_total{result=~"hit|prefetch_hit"}) / sum(odmoe_expert_cache_lookups_total)',
    "odmoe_expert_cache_resident_bytes / odmoe_expert_cache_capacity_bytes",
]


def program(name):
    return pathlib.Path(os.environ["ODMOE_PROMETHEUS"]) / name


def test_the_text_format_is_right(server, client, model):
    client.completions.create(model=model, prompt="Once upon a time", max_tokens=8)
    with urllib.request.urlopen(f"{server.url}/metrics") as reply:
        text = reply.read()
    checked = subprocess.run([program("promtool"), "check", "metrics"], input=text, capture_output=True, check=False)
    complaints = [line for line in checked.stderr.decode().splitlines()
                  # vLLM's names are what they are; everything of our own follows the conventions.
                  if not line.startswith("vllm:")]
    assert complaints == []


def test_dashboards_find_values(server, client, model, tmp_path):
    config = {"scrape_configs": [{
        "job_name": "odmoe", "scrape_interval": "1s",
        "static_configs": [{"targets": [server.url.removeprefix("http://")]}],
    }]}
    (tmp_path / "prometheus.yml").write_text(json.dumps(config))
    address = f"127.0.0.1:{free_port()}"
    with (tmp_path / "log").open("w") as log:
        prometheus = subprocess.Popen(
            [program("prometheus"), "--config.file=prometheus.yml", "--storage.tsdb.path=data",
             f"--web.listen-address={address}"], cwd=tmp_path, stdout=log, stderr=log)
    try:
        waiting = set(PANELS)
        deadline = time.monotonic() + 60
        while waiting:
            assert time.monotonic() < deadline, f"no value: {waiting}\n{(tmp_path / 'log').read_text()}"
            # Rates need traffic between two scrapes.
            client.completions.create(model=model, prompt="Once upon a time", max_tokens=8)
            time.sleep(0.5)
            waiting = {panel for panel in waiting if not has_value(address, panel)}
    finally:
        prometheus.terminate()
        prometheus.wait(timeout=30)


def has_value(address, expression):
    """Whether an expression gives a number now. The first may come before Prometheus listens."""
    query = urllib.parse.urlencode({"query": expression})
    try:
        with urllib.request.urlopen(f"http://{address}/api/v1/query?{query}") as reply:
            series = json.load(reply)["data"]["result"]
    except OSError:
        return False
    return any(value["value"][1] not in ("NaN", "0") for value in series)
