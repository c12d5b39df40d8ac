"""Renders chats with the chat templates of a folder by `transformers`, as the reference for ours.

    python make_templates.py ../../../../shared/fixtures/templates

writes `conversations.json`, what is rendered, and `expected.json`, by template and conversation the SHA-256 of the
text, its length and its last characters, or null where `transformers` fails as well. The templates are not copied.
"""

import datetime
import hashlib
import json
import pathlib
import sys

import transformers
from transformers.utils import chat_template_utils

NOW = datetime.datetime(2026, 3, 1, 12, 30, 45)
SPECIAL_TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather <now> & \"here\" in a city, é.",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "Which city"},
                "days": {"type": "integer", "description": "How far ahead", "default": 1},
                "unit": {"type": "string", "enum": ["C", "F"]},
                "tags": {"type": "array", "items": {"type": "string"}},
            },
            "required": ["city"],
        },
    },
}
NOTHING = {
    "type": "function",
    "function": {"name": "now", "description": "The time.", "parameters": {"type": "object", "properties": {}}},
}


def user(text):
    return {"role": "user", "content": text}


def assistant(text, **more):
    return {"role": "assistant", "content": text, **more}


def call(name, arguments, identity="abcdef123"):
    return {"id": identity, "type": "function", "function": {"name": name, "arguments": arguments}}


SYSTEM = {"role": "system", "content": "Be brief.  \n"}
ANSWER = {"role": "tool", "tool_call_id": "abcdef123", "name": "weather", "content": "{\"sky\": \"blue\"}"}
ARGUMENTS = {"city": "Zürich <&> \"x\"", "days": 2, "tags": ["a", "b"], "more": {"deep": [1.5, None, True]}}

CONVERSATIONS = {
    "plain": ([user("Hello, wörld!\n")], {}),
    "system": ([SYSTEM, user(" Hi ")], {}),
    "turns": ([SYSTEM, user("One?"), assistant("1 "), user("Two?"), assistant("\n2"), user("Three?")], {}),
    "no_prompt": ([user("One?"), assistant("1")], {"add_generation_prompt": False}),
    "thoughts": (
        [user("One?"), assistant("1", reasoning_content="It is one.\n"), user("Two?")],
        {},
    ),
    "not_thinking": ([user("One?")], {"enable_thinking": False, "thinking": False}),
    "thinking": ([user("One?")], {"enable_thinking": True, "thinking": True, "reasoning_effort": "high"}),
    "tools": ([user("Rain?")], {"tools": [WEATHER, NOTHING]}),
    "system_and_tools": ([SYSTEM, user("Rain?")], {"tools": [WEATHER]}),
    "called": (
        [user("Rain?"), assistant("", tool_calls=[call("weather", ARGUMENTS)]), ANSWER],
        {"tools": [WEATHER, NOTHING]},
    ),
    "called_and_told": (
        [
            SYSTEM,
            user("Rain?"),
            assistant("I look.", tool_calls=[call("weather", {"city": "Rome"})]),
            ANSWER,
            assistant("No."),
            user("And now?"),
        ],
        {"tools": [WEATHER]},
    ),
    "two_calls": (
        [
            user("Rain?"),
            assistant("", tool_calls=[call("weather", {"city": "Rome"}), call("now", {}, "ghijkl456")]),
            ANSWER,
            {"role": "tool", "tool_call_id": "ghijkl456", "name": "now", "content": "noon"},
        ],
        {"tools": [WEATHER, NOTHING]},
    ),
    "called_with_text": (
        [user("Rain?"), assistant("", tool_calls=[call("weather", "{\"city\": \"Rome\"}")]), ANSWER],
        {"tools": [WEATHER]},
    ),
}


class Clock(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return NOW


def render(template, messages, options):
    options = {"add_generation_prompt": True, **SPECIAL_TOKENS, **options}
    texts, _ = chat_template_utils.render_jinja_template([messages], chat_template=template, **options)
    return texts[0]


def describe(template, messages, options):
    try:
        text = render(template, messages, options)
    except Exception as error:
        print(f"    fails: {error}", file=sys.stderr)
        return None
    digest = hashlib.sha256(text.encode()).hexdigest()
    return {"sha256": digest, "characters": len(text), "end": text[-60:]}


def main():
    source = pathlib.Path(sys.argv[1])
    here = pathlib.Path(__file__).parent
    # `strftime_now` is the module's own use of the clock.
    chat_template_utils.datetime = Clock
    conversations = {
        name: {"messages": messages, "options": options} for name, (messages, options) in CONVERSATIONS.items()
    }
    expected = {}
    for path in sorted(source.glob("*.jinja")):
        print(path.stem, file=sys.stderr)
        template = path.read_text()
        expected[path.stem] = {
            name: describe(template, messages, options) for name, (messages, options) in CONVERSATIONS.items()
        }
    files = {
        "conversations.json": {
            "now_unix_s": int(NOW.replace(tzinfo=datetime.timezone.utc).timestamp()),
            "special_tokens": SPECIAL_TOKENS,
            "conversations": conversations,
        },
        "expected.json": {"transformers": transformers.__version__, "templates": expected},
    }
    for name, content in files.items():
        text = json.dumps(content, indent=1, ensure_ascii=False)
        (here / name).write_text(text + "\n")


if __name__ == "__main__":
    main()
