"""What users of openai-python do, through the SDK alone."""

import contextlib
import fcntl
import io
import math
import pathlib
import re
import shutil
import time
import urllib.error
import urllib.request

import openai
import pytest
import source_model
from conftest import Server

README = pathlib.Path(__file__).parents[2] / "README.md"

QUESTION = [{"role": "user", "content": "What color is the sky?"}]
STORY = [{"role": "user", "content": "Tell me a story about a cat and a bird."}]


def ask(client, model, messages=QUESTION, **fields):
    fields = {"temperature": 0, "max_tokens": 32} | fields
    return client.chat.completions.create(model=model, messages=messages, **fields)


def at_rest(server):
    """Whether nothing runs or waits."""
    return server.metric("vllm:num_requests_running") == server.metric("vllm:num_requests_waiting") == 0


def wait_until(condition, what):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, f"not within 30 s: {what}"
        time.sleep(0.05)


def test_chat(client, model):
    answer = ask(client, model)
    assert answer.object == "chat.completion" and answer.model == model
    assert "sky" in answer.choices[0].message.content
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer._request_id


def test_streamed_chat_equals_whole_chat(client, model):
    whole = ask(client, model, STORY).choices[0]
    chunks = list(ask(client, model, STORY, stream=True))
    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[0].choices[0].delta.role == "assistant"
    assert all(chunk.choices[0].delta.role is None for chunk in chunks[1:])
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole.message.content
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1].choices[0].finish_reason == whole.finish_reason
    assert all(chunk.usage is None for chunk in chunks)
    assert len(chunks) > 5, "a stream comes in pieces"


def test_stream_helper(client, model):
    """The helper checks the order of events more strictly than plain iteration."""
    with client.chat.completions.stream(model=model, messages=QUESTION, temperature=0, max_tokens=32) as stream:
        pieces = [event.delta for event in stream if event.type == "content.delta"]
        final = stream.get_final_completion()
    assert "".join(pieces) == final.choices[0].message.content == ask(client, model).choices[0].message.content


def test_the_beginning_of_a_prompt_is_computed_once(server, client, model):
    messages = [{"role": "user", "content": "A story that nobody has told yet, " + "of a cat and a bird " * 20}]
    found = server.metric("vllm:prefix_cache_hits_total")
    first, second, third = (
        client.chat.completions.create(model=model, messages=messages, temperature=0, max_tokens=8, logprobs=True)
        for _ in range(3))
    cached = [answer.usage.prompt_tokens_details.cached_tokens for answer in (first, second, third)]
    assert cached[0] < 32 < cached[1] == cached[2] < second.usage.prompt_tokens
    assert first.choices[0].message == second.choices[0].message
    assert first.choices[0].logprobs == second.choices[0].logprobs, "the very bits"
    assert server.metric("vllm:prefix_cache_hits_total") == found + sum(cached)


def test_usage_in_a_stream(client, model):
    whole = ask(client, model)
    chunks = list(ask(client, model, stream=True, stream_options={"include_usage": True}))
    assert chunks[-1].choices == []
    assert chunks[-1].usage.to_dict() | {"prompt_tokens_details": None} == \
        whole.usage.to_dict() | {"prompt_tokens_details": None}
    assert all(chunk.usage is None for chunk in chunks[:-1])


def test_stop_strings(client, model):
    whole = ask(client, model, STORY).choices[0].message.content
    word = whole.split()[4]
    cut = whole[:whole.index(word)]
    for stop in (word, [word, "never said"]):
        answer = ask(client, model, STORY, stop=stop).choices[0]
        assert answer.message.content == cut
        assert answer.finish_reason == "stop"
    streamed = "".join(chunk.choices[0].delta.content or "" for chunk in ask(client, model, STORY, stop=word, stream=True))
    assert streamed == cut, "no part of a stop string is streamed"


def test_length(client, model):
    answer = ask(client, model, STORY, max_tokens=5)
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 5


def test_seed(client, model):
    def said(seed):
        return ask(client, model, STORY, temperature=1.0, seed=seed, max_tokens=24).choices[0].message.content
    assert said(1) == said(1)
    assert len({said(seed) for seed in range(4)}) > 1


def test_choices(client, model):
    answer = ask(client, model, STORY, n=3, temperature=1.0, seed=5)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert len({choice.message.content for choice in answer.choices}) > 1
    texts = ["", "", ""]
    for chunk in ask(client, model, STORY, n=3, temperature=1.0, seed=5, stream=True):
        texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert texts == [choice.message.content for choice in answer.choices]


def test_chat_logprobs(client, model):
    choice = ask(client, model, logprobs=True, top_logprobs=5).choices[0]
    tokens = choice.logprobs.content
    assert b"".join(bytes(token.bytes) for token in tokens).decode().startswith(choice.message.content)
    for token in tokens:
        top = [entry.logprob for entry in token.top_logprobs]
        assert len(top) == 5 and top == sorted(top, reverse=True)
        assert token.logprob == top[0], "greedy takes the most likely"
        assert sum(math.exp(logprob) for logprob in top) <= 1 + 1e-5
    streamed = [token for chunk in ask(client, model, logprobs=True, top_logprobs=5, stream=True)
                if chunk.choices[0].logprobs for token in chunk.choices[0].logprobs.content]
    assert streamed == tokens


def test_completions(client, model):
    def complete(prompt, **fields):
        return client.completions.create(model=model, prompt=prompt, temperature=0, max_tokens=12, **fields)
    text = "Once upon a time, there was a little girl named Lily."
    first = complete(text)
    assert first.object == "text_completion" and first.choices[0].text
    both = complete([text, "The king said"])
    assert [choice.index for choice in both.choices] == [0, 1]
    assert both.choices[0].text == first.choices[0].text
    ids = [954, 671, 261, 514, 14, 480, 313, 261, 540, 710, 1477, 791, 16]
    assert complete(ids).choices[0].text == first.choices[0].text
    streamed = "".join(chunk.choices[0].text for chunk in complete(text, stream=True))
    assert streamed == first.choices[0].text
    logprobs = complete(text, logprobs=2).choices[0].logprobs
    assert len(logprobs.tokens) == len(logprobs.token_logprobs) == len(logprobs.top_logprobs) == 12


@pytest.mark.parametrize("fields, error, param", [
    ({"temperature": -1}, openai.BadRequestError, "temperature"),
    ({"n": 0}, openai.BadRequestError, "n"),
    ({"max_tokens": 0}, openai.BadRequestError, "max_tokens"),
    ({"top_p": 2}, openai.BadRequestError, "top_p"),
    ({"messages": []}, openai.BadRequestError, "messages"),
    ({"model": "no-such-model"}, openai.NotFoundError, "model"),
])
@pytest.mark.parametrize("stream", [False, True])
def test_errors_are_sdk_exceptions(client, model, fields, error, param, stream):
    fields = {"model": model, "messages": QUESTION, "stream": stream} | fields
    with pytest.raises(error) as caught:
        client.chat.completions.create(**fields)
    assert caught.value.param == param
    assert caught.value.type == "invalid_request_error"
    assert caught.value.code and caught.value.message
    assert caught.value.request_id


def test_a_prompt_that_is_too_long(client, model):
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model=model, prompt=[300] * 100_000, max_tokens=1)
    assert caught.value.code == "context_length_exceeded"


def test_unknown_fields_are_ignored(client, model):
    plain = ask(client, model).choices[0].message.content
    extra = ask(client, model, user="somebody", store=True, metadata={"a": "b"}, extra_body={"no_such_field": 1})
    assert extra.choices[0].message.content == plain


def test_cancel_in_mid_stream(server, client, model):
    with client.completions.create(model=model, prompt="Once upon a time", max_tokens=1500, temperature=1.0, seed=9,
                                   stream=True, extra_body={"ignore_eos": True}) as stream:
        for _, _chunk in zip(range(3), stream):
            pass
        assert not at_rest(server), "the stream was over before it could be cancelled"
    wait_until(lambda: at_rest(server), "a cancelled request leaves the engine")
    assert server.metric("vllm:kv_cache_usage_perc") == 0
    assert "sky" in ask(client, model).choices[0].message.content


def test_async_requests_side_by_side(server, model):
    """Eight at once say what each says alone."""
    import asyncio

    async def together():
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
            async def one(seed):
                answer = await client.chat.completions.create(
                    model=model, messages=STORY, temperature=1.0, seed=seed, max_tokens=24)
                return answer.choices[0].message.content
            return await asyncio.gather(*(one(seed) for seed in range(8)))

    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        alone = [ask(client, model, STORY, temperature=1.0, seed=seed, max_tokens=24).choices[0].message.content
                 for seed in range(8)]
    assert asyncio.run(together()) == alone


@contextlib.contextmanager
def running(folder, *arguments):
    """A server of its own, for what would disturb the others."""
    server = Server(folder, *arguments)
    try:
        yield server.wait_until_ready()
        server.stop()
    finally:
        server.process.kill()


def test_a_full_queue_is_a_rate_limit(tmp_path):
    def endless():
        return client.completions.create(
            model="tiny-moe", prompt="Once upon a time", max_tokens=1500, stream=True, extra_body={"ignore_eos": True})

    with running(tmp_path, "--max-running", "1", "--max-queue", "1") as server:
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=120)
        with endless():
            wait_until(lambda: server.metric("vllm:num_requests_running") == 1, "the first runs")
            with endless():
                wait_until(lambda: server.metric("vllm:num_requests_waiting") == 1, "the second waits")
                with pytest.raises(openai.RateLimitError) as caught:
                    ask(client, "tiny-moe")
                assert server.metric("vllm:num_requests_running") == 1, "the first ended too early"
        assert caught.value.status_code == 429 and caught.value.code == "queue_full"
        assert float(caught.value.response.headers["retry-after"]) > 0
        wait_until(lambda: at_rest(server), "the queue is empty again")
        assert "sky" in ask(client, "tiny-moe").choices[0].message.content


def test_a_broken_expert_is_not_asked_for_again(tmp_path):
    """Every expert's file is cut short; those in the cache are too few for an answer."""
    def posts():
        return server.metric("http_requests_total", 'handler="/v1/chat/completions"')

    with running(tmp_path) as server:
        files = [path for path in tmp_path.rglob("*") if path.is_file() and "experts" in path.parent.parts]
        assert len(files) >= 192, files
        for path in files:
            path.chmod(0o644)
            path.write_bytes(b"")
        # With the SDK's own retries, which a 500 would otherwise set off.
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", timeout=120)
        assert client.max_retries > 0
        with pytest.raises(openai.InternalServerError) as caught:
            ask(client, "tiny-moe")
        assert caught.value.status_code == 500 and caught.value.code == "expert_unavailable"
        assert caught.value.response.headers["x-should-retry"] == "false"
        wait_until(lambda: posts() > 0, "the request is counted")
        assert posts() == 1
        wait_until(lambda: at_rest(server), "the failed request leaves the engine")


def test_while_the_model_is_converted(tmp_path):
    """A conversion that waits for another process's lock holds the server in loading for as long as the test likes."""
    def is_open():
        with contextlib.suppress(urllib.error.URLError), urllib.request.urlopen(f"{server.url}/health"):
            return True
        return False

    folder = source_model.write(tmp_path / "hf")
    with running(tmp_path, "--model", str(folder)):
        pass
    (lock,) = tmp_path.rglob("stores/.lock-*")
    for store in lock.parent.glob("[!.]*"):
        shutil.rmtree(store)
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        server = Server(tmp_path, "--model", str(folder))
        try:
            wait_until(is_open, "the port opens")
            client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=120)
            with pytest.raises(openai.InternalServerError) as caught:
                client.completions.create(model="hf", prompt="a", max_tokens=2)
            assert caught.value.status_code == 503 and caught.value.code == "model_loading"
            assert float(caught.value.response.headers["retry-after"]) > 0
            fcntl.flock(held, fcntl.LOCK_UN)
            server.wait_until_ready()
            (model,) = client.models.list()
            assert client.completions.create(model=model.id, prompt="a", max_tokens=2).usage.completion_tokens == 2
            server.stop()
        finally:
            server.process.kill()


def test_the_readme_s_example(server):
    """Run as it stands, but for the port."""
    (example,) = re.findall(r"^```python\n(.*?)^```$", README.read_text(), re.DOTALL | re.MULTILINE)
    address = "http://127.0.0.1:8000"
    assert address in example
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(compile(example.replace(address, server.url), str(README), "exec"), {})
    # Sampled, so no word is certain.
    assert len(said.getvalue().split()) >= 3, said.getvalue()
