"""Tools and structured answers through openai-python. The model knows next to nothing: what fits was enforced."""

import enum
import json
import typing

import openai
import pydantic
import pytest

CAT = [{"role": "user", "content": "Tell me about a cat."}]


class Mood(enum.Enum):
    HAPPY = "happy"
    SAD = "sad"


class Cat(pydantic.BaseModel):
    model_config = {"extra": "forbid"}

    mood: Mood
    kind: typing.Literal["wild", "tame"]
    likes_milk: bool


def tool(name):
    return openai.pydantic_function_tool(Cat, name=name, description="Keeps a cat.")


def test_parse(client, model):
    answer = client.chat.completions.parse(model=model, messages=CAT, response_format=Cat, max_tokens=600, temperature=0)
    assert isinstance(answer.choices[0].message.parsed, Cat)


def test_stream_helper_parses(client, model):
    with client.chat.completions.stream(model=model, messages=CAT, response_format=Cat, max_tokens=600, temperature=0) as stream:
        events = list(stream)
        answer = stream.get_final_completion()
    assert isinstance(answer.choices[0].message.parsed, Cat)
    assert [event.type for event in events][-2:] == ["chunk", "content.done"]


def test_json_object(client, model):
    answer = client.chat.completions.create(
        model=model, messages=CAT, response_format={"type": "json_object"}, max_tokens=100)
    assert answer.choices[0].message.content.lstrip().startswith("{")


@pytest.mark.parametrize("choice, names", [
    ("required", {"keep", "feed"}),
    ({"type": "function", "function": {"name": "feed"}}, {"feed"}),
])
def test_forced_calls(client, model, choice, names):
    fields = {
        "model": model, "messages": CAT, "tools": [tool("keep"), tool("feed")], "tool_choice": choice,
        "parallel_tool_calls": False, "max_tokens": 600, "seed": 3,
    }
    answer = client.chat.completions.parse(**fields).choices[0]
    assert answer.finish_reason == "tool_calls" and answer.message.content is None
    [call] = answer.message.tool_calls
    assert call.type == "function" and call.function.name in names
    assert isinstance(call.function.parsed_arguments, Cat)
    with client.chat.completions.stream(**fields) as stream:
        events = list(stream)
        streamed = stream.get_final_completion().choices[0]
    deltas = [event.arguments_delta for event in events if event.type == "tool_calls.function.arguments.delta"]
    assert len(deltas) > 3 and "".join(deltas) == call.function.arguments
    assert streamed.finish_reason == "tool_calls"
    assert streamed.message.tool_calls[0].function.arguments == call.function.arguments


def test_a_conversation_with_results(client, model):
    arguments = json.dumps({"mood": "sad", "kind": "wild", "likes_milk": True})
    call = {"id": "call_1", "type": "function", "function": {"name": "keep", "arguments": arguments}}
    messages = [
        *CAT,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "It is kept."},
    ]
    answer = client.chat.completions.create(
        model=model, messages=messages, tools=[tool("keep")], tool_choice="none", max_tokens=8)
    assert answer.choices[0].message.tool_calls is None
    assert answer.usage.prompt_tokens > 40


@pytest.mark.parametrize("fields, param", [
    ({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "x"}}}},
     "response_format"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"tools": [{"type": "function", "function": {}}]}, "tools[0].function.name"),
    ({"extra_body": {"guided_regex": "("}}, "guided_regex"),
])
def test_errors_name_the_field(client, model, fields, param):
    with pytest.raises(openai.BadRequestError) as error:
        client.chat.completions.create(model=model, messages=CAT, **fields)
    assert error.value.param == param


def test_grammars_by_other_servers_names(client, model):
    answer = client.completions.create(
        model=model, prompt="The cat is", max_tokens=20, extra_body={"guided_choice": [" black", " white"]})
    assert answer.choices[0].text in (" black", " white")
