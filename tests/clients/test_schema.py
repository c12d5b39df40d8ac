"""Requests made up from our own document: no 5xx, and no answer outside of its schema."""

import openai
import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

CHECKS = (not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance)
# Events of a stream, which the tool takes for an object with `data` as text.
EVENTS = "/v1/loading/progress"
LENGTHS = ("max_tokens", "max_completion_tokens", "max_output_tokens")


@pytest.fixture
def document(server):
    return schemathesis.openapi.from_url(f"{server.url}/openapi.json")


@pytest.fixture(scope="session")
def served(server):
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none").models.list().data[0].id


api = schemathesis.pytest.from_fixture("document").exclude(path=EVENTS)


@api.parametrize()
@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_made_up_requests(case, served):
    if isinstance(case.body, dict):
        # A made-up name is refused before anything else is looked at, and long answers only take time.
        if isinstance(case.body.get("model"), str):
            case.body["model"] = served
        for name in LENGTHS:
            if isinstance(case.body.get(name), int):
                case.body[name] = min(case.body[name], 8)
    case.call_and_validate(checks=CHECKS, timeout=60)
