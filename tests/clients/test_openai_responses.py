"""Responses, embeddings and the rest of what openai-python can ask for beside chats, through the SDK alone."""

import base64
import math
import struct
import time

import openai
import pytest

QUESTION = "What color is the sky?"
STORY = "Tell me a story about a cat and a bird."


def respond(client, model, said=QUESTION, **fields):
    fields = {"temperature": 0, "max_output_tokens": 32} | fields
    return client.responses.create(model=model, input=said, **fields)


def test_a_response_says_what_a_chat_says(client, model):
    response = respond(client, model)
    chat = client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": QUESTION}], temperature=0, max_tokens=32)
    assert response.status == "completed" and response.error is None
    assert response.output_text == chat.choices[0].message.content
    assert response.usage.input_tokens == chat.usage.prompt_tokens
    assert response.usage.total_tokens == chat.usage.total_tokens
    assert response.id.startswith("resp_") and response.model == model


def test_a_streamed_response_equals_a_whole_one(client, model):
    whole = respond(client, model, STORY)
    events = list(respond(client, model, STORY, stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert [event.type for event in events[:4]] == [
        "response.created", "response.in_progress", "response.output_item.added", "response.content_part.added"]
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert text == whole.output_text
    last = events[-1]
    assert last.type == f"response.{whole.status}"
    assert last.response.output_text == text and last.response.usage.total_tokens == whole.usage.total_tokens
    assert len(events) > 10, "a stream comes in pieces"


def test_stream_helper(client, model):
    """The helper builds the response from the events and checks their order."""
    with client.responses.stream(model=model, input=QUESTION, temperature=0, max_output_tokens=32) as stream:
        pieces = [event.delta for event in stream if event.type == "response.output_text.delta"]
        final = stream.get_final_response()
    assert "".join(pieces) == final.output_text == respond(client, model).output_text


def test_a_conversation_goes_on(client, model):
    first = respond(client, model)
    second = respond(client, model, "Tell me more.", previous_response_id=first.id)
    items = [{"role": "user", "content": QUESTION},
             {"role": "assistant", "content": [{"type": "output_text", "text": first.output_text}]},
             {"role": "user", "content": [{"type": "input_text", "text": "Tell me more."}]}]
    written_out = respond(client, model, items)
    assert second.output_text == written_out.output_text
    assert second.usage.total_tokens == written_out.usage.total_tokens and second.previous_response_id == first.id


def test_the_output_of_a_response_is_input_of_the_next(client, model):
    first = respond(client, model)
    items = [{"role": "user", "content": QUESTION}, *(item.to_dict() for item in first.output),
             {"role": "user", "content": "Tell me more."}]
    by_id = respond(client, model, "Tell me more.", previous_response_id=first.id)
    assert respond(client, model, items).output_text == by_id.output_text


def test_responses_are_kept_until_they_are_deleted(client, model):
    response = respond(client, model)
    assert client.responses.retrieve(response.id).to_dict() == response.to_dict()
    client.responses.delete(response.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(response.id)
    with pytest.raises(openai.BadRequestError) as caught:
        respond(client, model, previous_response_id=response.id)
    assert caught.value.param == "previous_response_id"
    unstored = respond(client, model, store=False)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(unstored.id)


def test_a_response_in_the_background(client, model):
    response = respond(client, model, background=True)
    assert response.status == "in_progress"
    deadline = time.monotonic() + 60
    while response.status == "in_progress":
        assert time.monotonic() < deadline
        time.sleep(0.02)
        response = client.responses.retrieve(response.id)
    assert response.status == "completed" and response.output_text == respond(client, model).output_text


def test_following_a_response_in_the_background(client, model):
    """The connection is lost in the middle; the rest is the rest of the same events."""
    stream = respond(client, model, STORY, background=True, stream=True)
    seen = []
    for event in stream:
        seen.append(event)
        if event.type == "response.output_text.delta":
            break
    stream.close()
    rest = list(client.responses.retrieve(
        seen[0].response.id, stream=True, starting_after=seen[-1].sequence_number))
    events = seen + rest
    assert [event.sequence_number for event in events] == list(range(len(events)))
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    stored = client.responses.retrieve(seen[0].response.id)
    assert stored.output_text == text == respond(client, model, STORY).output_text
    assert events[-1].response == stored


def test_the_input_of_a_response(client, model):
    first = respond(client, model, [{"role": "user", "content": f"Say {n}."} for n in range(3)])
    second = respond(client, model, "And four.", previous_response_id=first.id)
    items = list(client.responses.input_items.list(second.id, order="asc", limit=2))
    assert [item.role for item in items] == ["user"] * 3 + ["assistant", "user"], "all pages"
    assert items[0].content[0].text == "Say 0." and items[3].content[0].text == first.output_text
    assert [item.id for item in client.responses.input_items.list(second.id)] == [item.id for item in items][::-1]


def test_cancelling_in_the_background(server, client, model):
    response = respond(client, model, STORY, background=True, max_output_tokens=1900, extra_body={"ignore_eos": True})
    assert client.responses.cancel(response.id).status == "cancelled"
    deadline = time.monotonic() + 30
    while server.metric("vllm:num_requests_running") or client.responses.retrieve(response.id).status != "cancelled":
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_an_answer_that_is_cut(client, model):
    response = respond(client, model, STORY, max_output_tokens=5)
    assert response.status == "incomplete" and response.incomplete_details.reason == "max_output_tokens"
    assert response.usage.output_tokens == 5


def test_instructions_tools_and_other_fields(client, model):
    function = {"type": "function", "name": "weather", "parameters": {"type": "object", "properties": {}}, "strict": True}
    response = respond(
        client, model, instructions="Answer in one sentence.", tools=[function, {"type": "web_search"}],
        tool_choice="auto", metadata={"a": "b"}, user="somebody", truncation="auto", service_tier="auto",
        reasoning={"effort": "low"}, text={"format": {"type": "text"}}, include=["message.output_text.logprobs"],
        top_logprobs=2)
    assert [tool.type for tool in response.tools] == ["function"]
    assert response.metadata == {"a": "b"} and response.instructions == "Answer in one sentence."
    for token in response.output[-1].content[0].logprobs:
        assert len(token.top_logprobs) == 2 and token.logprob == token.top_logprobs[0].logprob


@pytest.mark.parametrize("fields, error, param", [
    ({"temperature": -1}, openai.BadRequestError, "temperature"),
    ({"max_output_tokens": 0}, openai.BadRequestError, "max_output_tokens"),
    ({"input": [{"role": "wizard", "content": "a"}]}, openai.BadRequestError, "input[0].role"),
    ({"model": "no-such-model"}, openai.NotFoundError, "model"),
    ({"conversation": "conv_1"}, openai.BadRequestError, "conversation"),
])
@pytest.mark.parametrize("stream", [False, True])
def test_errors_are_sdk_exceptions(client, model, fields, error, param, stream):
    fields = {"model": model, "input": QUESTION, "stream": stream} | fields
    with pytest.raises(error) as caught:
        client.responses.create(**fields)
    assert caught.value.param == param and caught.value.code and caught.value.request_id


def embed(client, model, texts, **fields):
    return client.embeddings.create(model=model, input=texts, **fields)


def test_embeddings(client, model):
    texts = ["The cat sat on the mat.", "A dog ran in the park.", "The cat sat on a mat."]
    # The SDK asks for base64 where the caller says nothing, and decodes it.
    reply = embed(client, model, texts)
    vectors = [entry.embedding for entry in reply.data]
    assert [entry.index for entry in reply.data] == [0, 1, 2]
    assert reply.model == model and reply.usage.prompt_tokens == reply.usage.total_tokens > 0
    for vector in vectors:
        assert math.isclose(sum(value * value for value in vector), 1, rel_tol=1e-5)
    def likeness(a, b):
        return sum(x * y for x, y in zip(vectors[a], vectors[b]))
    assert likeness(0, 2) > likeness(0, 1)
    floats = embed(client, model, texts[0], encoding_format="float").data[0].embedding
    assert floats == pytest.approx(vectors[0], abs=1e-7)
    written = embed(client, model, texts[0], encoding_format="base64").data[0].embedding
    raw = base64.b64decode(written) if isinstance(written, str) else struct.pack(f"<{len(written)}f", *written)
    assert list(struct.unpack(f"<{len(raw) // 4}f", raw)) == pytest.approx(floats, abs=1e-7)


def test_embeddings_of_tokens_and_of_the_last_token(client, model):
    ids = [954, 671, 261, 514]
    one = embed(client, model, ids).data[0].embedding
    assert embed(client, model, [ids, [954]]).data[0].embedding == one
    last = embed(client, model, ids, extra_body={"pooling": "last"}).data[0].embedding
    assert last != one
    assert embed(client, model, ids, dimensions=len(one)).data[0].embedding == one


@pytest.mark.parametrize("fields, param", [
    ({"input": ""}, "input"), ({"input": []}, "input"), ({"dimensions": 2}, "dimensions"),
    ({"input": [300] * 5000}, "input"), ({"encoding_format": "hex"}, "encoding_format"),
])
def test_embeddings_that_are_refused(client, model, fields, param):
    with pytest.raises(openai.BadRequestError) as caught:
        client.embeddings.create(**{"model": model, "input": "a"} | fields)
    assert caught.value.param == param


def test_many_embeddings_beside_a_chat(client, model):
    texts = [f"The number is {number}." for number in range(100)]
    vectors = [entry.embedding for entry in embed(client, model, texts).data]
    assert vectors[7] == embed(client, model, texts[7]).data[0].embedding, "company changes no bit"


def test_models_say_their_context_and_status(client, model):
    for found in (client.models.retrieve(model), next(iter(client.models.list()))):
        assert found.status == "ready" and found.max_model_len == found.context_length > 0


def test_a_base_url_without_a_prefix(server, model):
    with openai.OpenAI(base_url=server.url, api_key="none", max_retries=0) as bare:
        assert "sky" in respond(bare, model).output_text
        assert [found.id for found in bare.models.list()] == [model]


def test_tokens_of_a_prompt(client, model):
    asked = {"messages": [{"role": "user", "content": QUESTION}]}
    counted = client.post("/tokenize", body=asked, cast_to=object)
    chat = client.chat.completions.create(model=model, max_tokens=1, **asked)
    assert counted["count"] == len(counted["tokens"]) == chat.usage.prompt_tokens
    text = client.post("/apply-template", body=asked, cast_to=object)["prompt"]
    assert client.post("/detokenize", body={"tokens": counted["tokens"]}, cast_to=object)["prompt"] == text


def test_a_prompt_is_echoed_with_its_scores(client, model):
    """What evaluation harnesses do: score a text by completing it."""
    ids = [954, 671, 261, 514, 14, 480, 313, 261, 540, 710, 1477, 791, 16]
    def complete(**fields):
        return client.completions.create(model=model, prompt=ids, temperature=0, logprobs=1, **fields).choices[0]
    plain = complete(max_tokens=4)
    echoed = complete(max_tokens=4, echo=True)
    assert echoed.text.endswith(plain.text) and len(echoed.text) > len(plain.text)
    scores = echoed.logprobs
    assert len(scores.tokens) == len(scores.top_logprobs) == len(ids) + 4
    assert scores.token_logprobs[0] is None and all(score <= 0 for score in scores.token_logprobs[1:])
    assert scores.token_logprobs[-4:] == plain.logprobs.token_logprobs
    for token, offset in zip(scores.tokens, scores.text_offset):
        assert echoed.text[offset:].startswith(token)
    alone = complete(max_tokens=0, echo=True)
    assert alone.logprobs.token_logprobs == scores.token_logprobs[:len(ids)]
