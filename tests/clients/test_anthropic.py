"""What users of Anthropic's SDK do, through the SDK alone."""

import time

import anthropic
import pytest

QUESTION = [{"role": "user", "content": "What color is the sky?"}]
STORY = [{"role": "user", "content": "Tell me a story about a cat and a bird."}]
TOOL = {"name": "weather", "description": "Tells the weather of a city.",
        "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}}}


@pytest.fixture
def claude(server):
    """The SDK without its retries, so that every error shows."""
    return anthropic.Anthropic(base_url=server.url, api_key="none", max_retries=0, timeout=120)


def ask(claude, model, messages=QUESTION, sampling=None, **fields):
    """Newer SDKs have no arguments for sampling, but send what they are given."""
    sampling = {"temperature": 0} | (sampling or {})
    return claude.messages.create(model=model, messages=messages, extra_body=sampling, **{"max_tokens": 32} | fields)


def text(message):
    return "".join(block.text for block in message.content if block.type == "text")


def read_tokens(usage):
    """Those that were computed and those that had been before."""
    return usage.input_tokens + usage.cache_read_input_tokens


def test_a_message_says_what_a_chat_says(claude, client, model):
    message = ask(claude, model)
    chat = client.chat.completions.create(model=model, messages=QUESTION, temperature=0, max_tokens=32)
    assert message.type == "message" and message.role == "assistant" and message.model == model
    assert text(message) == chat.choices[0].message.content
    assert message.stop_reason == "end_turn" and message.stop_sequence is None
    assert read_tokens(message.usage) == chat.usage.prompt_tokens
    assert message.usage.output_tokens == chat.usage.completion_tokens
    assert message._request_id


def test_a_streamed_message_equals_a_whole_one(claude, model):
    whole = ask(claude, model, STORY)
    events = list(ask(claude, model, STORY, stream=True))
    assert [event.type for event in events[:3]] == ["message_start", "content_block_start", "content_block_delta"]
    assert [event.type for event in events[-3:]] == ["content_block_stop", "message_delta", "message_stop"]
    assert events[0].message.usage.input_tokens == read_tokens(whole.usage) == read_tokens(events[-2].usage)
    deltas = [event.delta.text for event in events if event.type == "content_block_delta"]
    assert "".join(deltas) == text(whole) and len(deltas) > 5
    assert events[-2].usage.output_tokens == whole.usage.output_tokens
    assert events[-2].delta.stop_reason == whole.stop_reason


def test_stream_helper(claude, model):
    with claude.messages.stream(model=model, messages=QUESTION, max_tokens=32, extra_body={"temperature": 0}) as stream:
        pieces = list(stream.text_stream)
        final = stream.get_final_message()
    assert "".join(pieces) == text(final) == text(ask(claude, model))
    assert final.stop_reason == "end_turn" and final.usage.output_tokens > 0


def test_stop_sequences_and_length(claude, model):
    whole = text(ask(claude, model, STORY))
    word = whole.split()[4]
    message = ask(claude, model, STORY, stop_sequences=["never said", word])
    assert text(message) == whole[:whole.index(word)]
    assert message.stop_reason == "stop_sequence" and message.stop_sequence == word
    assert ask(claude, model, STORY, max_tokens=5).stop_reason == "max_tokens"


def test_system_blocks_tools_and_other_fields(claude, model):
    message = ask(
        claude, model, [{"role": "user", "content": [{"type": "text", "text": "What color is the sky?"}]}],
        system=[{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
        tools=[TOOL, {"type": "web_search_20250305", "name": "web_search"}], tool_choice={"type": "auto"},
        metadata={"user_id": "somebody"}, thinking={"type": "disabled"}, sampling={"top_k": 5, "top_p": 0.9})
    assert message.stop_reason in ("end_turn", "max_tokens", "tool_use")


def test_a_conversation_with_calls_and_results(claude, model):
    messages = [
        *QUESTION,
        {"role": "assistant", "content": [
            {"type": "text", "text": "I look."},
            {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Rome"}}]},
        {"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": "toolu_1", "content": [{"type": "text", "text": "sunny"}]},
            {"type": "text", "text": "So?"}]}]
    assert ask(claude, model, messages, tools=[TOOL]).usage.output_tokens > 0


def test_counting_tokens(claude, model):
    fields = {"messages": QUESTION, "system": "Be brief."}
    counted = claude.messages.count_tokens(model=model, **fields)
    message = claude.messages.create(model=model, max_tokens=1, **fields)
    assert counted.input_tokens == read_tokens(message.usage)


def test_the_beginning_of_a_conversation_is_computed_once(claude, model):
    messages = [{"role": "user", "content": "A message of Anthropic's, " + "with words " * 40}]
    first, second = (ask(claude, model, messages, max_tokens=4) for _ in range(2))
    assert text(first) == text(second)
    assert first.usage.cache_read_input_tokens < 32 <= second.usage.cache_read_input_tokens
    assert read_tokens(first.usage) == read_tokens(second.usage)


@pytest.mark.parametrize("fields, error, said", [
    ({"extra_body": {"temperature": -1}}, anthropic.BadRequestError, "temperature"),
    ({"max_tokens": 0}, anthropic.BadRequestError, "max_tokens"),
    ({"messages": []}, anthropic.BadRequestError, "messages"),
    ({"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]}, anthropic.BadRequestError,
     "messages[0].content[0].type"),
    ({"model": "no-such-model"}, anthropic.NotFoundError, "model"),
    ({"messages": [{"role": "user", "content": "word " * 20_000}]}, anthropic.BadRequestError, "messages"),
])
@pytest.mark.parametrize("stream", [False, True])
def test_errors_are_sdk_exceptions(claude, model, fields, error, said, stream):
    fields = {"model": model, "messages": QUESTION, "max_tokens": 8, "stream": stream} | fields
    with pytest.raises(error) as caught:
        claude.messages.create(**fields)
    body = caught.value.body
    assert body["type"] == "error" and body["error"]["message"].startswith(f"{said}: ")
    assert caught.value.request_id == body["request_id"]


def test_cancel_in_mid_stream(server, claude, model):
    with ask(claude, model, STORY, max_tokens=1500, stream=True, sampling={"ignore_eos": True}) as stream:
        for _, _event in zip(range(4), stream):
            pass
    deadline = time.monotonic() + 30
    while server.metric("vllm:num_requests_running"):
        assert time.monotonic() < deadline
        time.sleep(0.05)
