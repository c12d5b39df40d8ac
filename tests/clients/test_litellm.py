"""What users of LiteLLM do: the client, and the proxy in front of this server."""

import json
import os
import pathlib
import secrets
import subprocess
import sys
import time
import urllib.request

# Else it fetches prices when it is imported.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

import litellm
import openai
import pytest
from conftest import free_port

QUESTION = [{"role": "user", "content": "What color is the sky?"}]
STORY = [{"role": "user", "content": "Tell me a story about a cat and a bird."}]
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {
    "type": "object", "properties": {"city": {"enum": ["Rome", "Oslo"]}}, "required": ["city"]}}}
PROXY_LIMIT_S = 120


@pytest.fixture
def ask(server, model):
    """The providers under which LiteLLM speaks to servers like this one."""
    def ask(messages=QUESTION, provider="hosted_vllm", **fields):
        fields = {"temperature": 0, "max_tokens": 32, "num_retries": 0} | fields
        return litellm.completion(model=f"{provider}/{model}", api_base=f"{server.url}/v1", api_key="none",
                                  messages=messages, **fields)
    return ask


@pytest.mark.parametrize("provider", ["hosted_vllm", "openai"])
def test_chat(ask, client, model, provider):
    answer = ask(provider=provider)
    direct = client.chat.completions.create(model=model, messages=QUESTION, temperature=0, max_tokens=32)
    assert answer.choices[0].message.content == direct.choices[0].message.content
    assert answer.usage.total_tokens == direct.usage.total_tokens


def test_stream(ask):
    whole = ask(STORY)
    chunks = list(ask(STORY, stream=True, stream_options={"include_usage": True}))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) \
        == whole.choices[0].message.content
    rebuilt = litellm.stream_chunk_builder(chunks, messages=STORY)
    assert rebuilt.usage.completion_tokens == whole.usage.completion_tokens
    assert rebuilt.choices[0].finish_reason == whole.choices[0].finish_reason


def test_forced_call(ask):
    answer = ask(tools=[TOOL], tool_choice="required", max_tokens=128)
    assert answer.choices[0].finish_reason == "tool_calls"
    assert answer.choices[0].message.tool_calls[0].function.name == "weather"


def test_errors(ask):
    with pytest.raises(litellm.BadRequestError, match="temperature"):
        ask(temperature=99)
    with pytest.raises(litellm.ContextWindowExceededError):
        ask([{"role": "user", "content": "word " * 5000}])


def test_embedding(server, client, model):
    answer = litellm.embedding(model=f"hosted_vllm/{model}", api_base=f"{server.url}/v1", api_key="none",
                               input=["a cat", "a dog"])
    direct = client.embeddings.create(model=model, input=["a cat", "a dog"], encoding_format="float")
    for one, other in zip(answer.data, direct.data, strict=True):
        assert one["embedding"] == pytest.approx(other.embedding)


@pytest.fixture(scope="module")
def proxy(server, tmp_path_factory):
    """LiteLLM's proxy before the server, as an SDK's client."""
    folder, port = tmp_path_factory.mktemp("proxy"), free_port()
    with urllib.request.urlopen(f"{server.url}/v1/models") as reply:
        model = json.load(reply)["data"][0]["id"]
    config = folder / "config.yaml"
    config.write_text(
        "model_list:\n- model_name: paged\n  litellm_params:\n"
        f"    model: hosted_vllm/{model}\n    api_base: {server.url}/v1\n    api_key: none\n"
        "litellm_settings:\n  num_retries: 2\n")
    key = "sk-" + secrets.token_hex(16)
    environment = os.environ | {"HOME": str(folder), "LITELLM_MASTER_KEY": key}
    command = [str(pathlib.Path(sys.executable).with_name("litellm")), "--config", str(config), "--host", "127.0.0.1",
               "--port", str(port), "--telemetry", "False"]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, env=environment, cwd=folder, stdout=log, stderr=log)
    try:
        url, deadline = f"http://127.0.0.1:{port}", time.monotonic() + PROXY_LIMIT_S
        while True:
            try:
                urllib.request.urlopen(f"{url}/health/liveliness").close()
                break
            except OSError:
                assert process.poll() is None and time.monotonic() < deadline, (folder / "log").read_text()
                time.sleep(0.2)
        yield openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0, timeout=120)
    finally:
        process.terminate()
        process.wait(timeout=30)


def test_proxy(proxy, client, model):
    fields = {"messages": STORY, "temperature": 0, "max_tokens": 32}
    direct = client.chat.completions.create(model=model, **fields).choices[0].message.content
    assert proxy.chat.completions.create(model="paged", **fields).choices[0].message.content == direct
    chunks = proxy.chat.completions.create(model="paged", stream=True, **fields)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == direct


def test_an_error_passes_the_proxy(proxy):
    with pytest.raises(openai.BadRequestError):
        proxy.chat.completions.create(model="paged", messages=QUESTION, temperature=99)
