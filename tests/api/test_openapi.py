"""The OpenAPI document is part of the contract."""

from typing import Any

import httpx
import pytest
from pydantic import BaseModel

from app.schemas import examples, responses
from app.schemas.experiment import ExperimentSpec, resolve

PATHS = {
    "/v1/experiments": {"get", "post"},
    "/v1/experiments/{experiment_id}": {"get"},
    **{f"/v1/experiments/{{experiment_id}}/{action}": {"post"} for action in ("cancel", "pause", "resume")},
    "/v1/runs": {"get"},
    "/v1/runs/{run_id}": {"get"},
    **{f"/v1/runs/{{run_id}}/{action}": {"post"} for action in ("cancel", "kill", "pause", "resume", "actions")},
    **{
        f"/v1/runs/{{run_id}}/{part}": {"get"}
        for part in ("metrics", "series", "events", "logs", "attempts", "checkpoints", "stream")
    },
    "/v1/checkpoints/{checkpoint_id}": {"get"},
    "/v1/checkpoints/{checkpoint_id}/files/{name}": {"get"},
    "/v1/algorithms": {"get"},
    "/v1/algorithms/{name}": {"get"},
    "/v1/environments": {"get"},
    "/v1/environments/{environment_id}": {"get"},
    "/v1/workers": {"get"},
    "/healthz": {"get"},
    "/readyz": {"get"},
}


@pytest.fixture
def document(client: httpx.Client) -> dict[str, Any]:
    body: dict[str, Any] = client.get("/openapi.json").json()
    return body


def test_is_the_only_reference(client: httpx.Client) -> None:
    """The framework's own pages would load scripts from another host."""
    for path in ("/docs", "/redoc"):
        assert client.get(path).status_code == 404


def test_has_every_route(document: dict[str, Any]) -> None:
    assert {path: set(methods) for path, methods in document["paths"].items()} == PATHS


def test_every_route_is_described(document: dict[str, Any]) -> None:
    names = []
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            assert operation["summary"], (method, path)
            assert operation["description"], (method, path)
            names.append(operation["operationId"])
            failures = {status: answer for status, answer in operation["responses"].items() if status >= "400"}
            assert {"500", "503"} <= failures.keys(), (method, path)
            assert ("404" in failures) == ("{" in path), (method, path)
            for answer in failures.values():
                problem = answer["content"]["application/problem+json"]
                assert problem["schema"] == {"$ref": "#/components/schemas/Problem"}, (method, path)
                responses.Problem.model_validate(problem["example"])
            assert _has_example(document, operation), (method, path)
    assert len(names) == len(set(names))


def test_references_lead_somewhere(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    for reference in _references(document):
        assert reference.removeprefix("#/components/schemas/") in schemas, reference
    assert "HTTPValidationError" not in schemas


def test_examples_are_valid() -> None:
    for name, model in vars(responses).items():
        if isinstance(model, type) and issubclass(model, BaseModel) and model.model_config.get("json_schema_extra"):
            extra = model.model_config["json_schema_extra"]
            assert isinstance(extra, dict), name
            for example in extra["examples"]:  # type: ignore[union-attr]
                model.model_validate(example)
    for spec in (examples.SPEC, examples.SPEC_MINIMAL):
        resolve(ExperimentSpec.model_validate(spec))


def _has_example(document: dict[str, Any], operation: dict[str, Any]) -> bool:
    """The answer carries an example, or its schema (or that of the items of its page) does."""
    for status, answer in operation["responses"].items():
        if status < "300":
            for content in answer.get("content", {}).values():
                if "example" in content or "examples" in content or content["schema"].get("format") == "binary":
                    return True
                if any("example" in text for text in _expanded(document, content["schema"], depth=3)):
                    return True
    return False


def _expanded(document: dict[str, Any], schema: dict[str, Any], depth: int) -> list[str]:
    texts = [str(schema)]
    if depth:
        for reference in _references(schema):
            name = reference.removeprefix("#/components/schemas/")
            texts += _expanded(document, document["components"]["schemas"][name], depth - 1)
    return texts


def _references(node: Any) -> list[str]:
    if isinstance(node, dict):
        own = [node["$ref"]] if isinstance(node.get("$ref"), str) else []
        return own + [found for value in node.values() for found in _references(value)]
    return [found for value in node for found in _references(value)] if isinstance(node, list) else []
