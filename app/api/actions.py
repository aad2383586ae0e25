"""What OpenAPI says of the action route. The route itself is raw ASGI: ``app.serving.asgi``."""

from typing import Any, Final

from app.api.problems import problems
from app.serving.requests import MAX_BATCH, MAX_SEED

PATH: Final = "/v1/runs/{run_id}/actions"

_OBSERVATION: Final = {"description": "An integer or nested lists of numbers, as the environment's observations are."}
_ACTION: Final = {"description": "An integer, or (nested) lists of numbers, as the environment's action space has it."}
_CHECKPOINT_ID: Final = {"type": "string", "description": "The checkpoint that answered.", "examples": ["ckpt_…"]}

_OPTIONS: Final[dict[str, Any]] = {
    "deterministic": {
        "type": "boolean",
        "default": True,
        "description": "The most likely action, or else a sample.",
    },
    "seed": {
        "type": ["integer", "null"],
        "default": None,
        "minimum": 0,
        "maximum": MAX_SEED,
        "description": "Makes samples repeatable: each depends on the seed, its observation, and how many equal "
        "observations come before it in the request, and on nothing else.",
    },
    "checkpoint": {
        "type": "string",
        "default": "best",
        "pattern": "^(best|final|ckpt_[0-9a-z]{1,40})$",
        "description": "`best` (the newest until a run has been evaluated), `final`, or a checkpoint's id.",
    },
}


def _body(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    properties = {name: schema, **_OPTIONS}
    return {"type": "object", "required": [name], "additionalProperties": False, "properties": properties}


def _answer(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    properties = {name: schema, "checkpoint_id": _CHECKPOINT_ID}
    return {"type": "object", "required": list(properties), "properties": properties}


OPENAPI: Final[dict[str, Any]] = {
    "post": {
        "tags": ["runs"],
        "summary": "Ask a run's policy for actions",
        "description": f"One observation, or up to {MAX_BATCH} at once. Answers come from the run's best checkpoint so "
        "far, also while it trains; a run without one yet answers 409.",
        "operationId": "create_actions",
        "parameters": [{"name": "run_id", "in": "path", "required": True, "schema": {"type": "string"}}],
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {
                    "schema": {
                        "oneOf": [
                            _body("observation", _OBSERVATION),
                            _body(
                                "observations",
                                {"type": "array", "minItems": 1, "maxItems": MAX_BATCH, "items": _OBSERVATION},
                            ),
                        ]
                    },
                    "examples": {
                        "one": {"value": {"observation": [0.0, 0.1, 0.02, -0.1]}},
                        "sampled": {
                            "value": {
                                "observations": [[0.0, 0.1, 0.02, -0.1], [0.1, 0.0, -0.02, 0.3]],
                                "deterministic": False,
                                "seed": 7,
                            }
                        },
                    },
                }
            },
        },
        "responses": {
            "200": {
                "description": "The actions, in the order of the observations.",
                "content": {
                    "application/json": {
                        "schema": {
                            "oneOf": [
                                _answer("action", _ACTION),
                                _answer("actions", {"type": "array", "items": _ACTION}),
                            ]
                        },
                        "examples": {
                            "one": {"value": {"action": 1, "checkpoint_id": "ckpt_…"}},
                            "sampled": {"value": {"actions": [1, 0], "checkpoint_id": "ckpt_…"}},
                        },
                    }
                },
            },
            **{str(status): answer for status, answer in problems(401, 404, 409, 413, 422, 500, 503).items()},
        },
    }
}
