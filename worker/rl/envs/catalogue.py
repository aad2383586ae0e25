"""Generates ``app/schemas/environments.json``: ``python -m worker.rl.envs.catalogue``.

Lists the newest version of every environment that the pinned gymnasium can make here, so that the service can validate
specs without importing it. A test compares the file with what this module writes.
"""

import inspect
import json
import math
import re
from pathlib import Path
from typing import Any

import gymnasium
from gymnasium.envs.registration import EnvSpec as Registered
from gymnasium.envs.registration import load_env_creator

import app.schemas
from app.schemas.environments import EnvironmentEntry
from worker.rl.envs.spaces import describe
from worker.rl.envs.vector import make_one
from worker.rl.errors import EnvironmentFailure

PACKAGES = ("classic_control", "box2d", "toy_text", "mujoco")
PATH = Path(next(iter(app.schemas.__path__))) / "environments.json"
_HIDDEN = {"render_mode", "verbose", "xml_file", "default_camera_config", "main_body"}
"""Not for users: rendering belongs to the service, and a model file would be a path on the worker."""
LONGEST_EPISODE = 1000
"""Time limit of an environment that is registered without one: a policy may go in circles for ever."""
_LIMITS = {"frame_skip": {"minimum": 1, "maximum": 1000}}


def entries() -> list[EnvironmentEntry]:
    """One entry per environment, sorted by id."""
    newest: dict[str, Registered] = {}
    for spec in gymnasium.registry.values():
        package = _package(spec)
        if package in PACKAGES:
            held = newest.get(spec.name)
            if held is None or (spec.version or 0) > (held.version or 0):
                newest[spec.name] = spec
    made = (_entry(spec) for _, spec in sorted(newest.items()))
    return [entry for entry in made if entry is not None]


def text() -> str:
    """The file's content."""
    rows = [json.dumps(entry.model_dump(mode="json"), separators=(",", ":")) for entry in entries()]
    return "[\n" + ",\n".join(rows) + "\n]\n"


def _package(spec: Registered) -> str:
    match = re.match(r"gymnasium\.envs\.(\w+)", str(spec.entry_point))
    return match[1] if match else ""


def _entry(spec: Registered) -> EnvironmentEntry | None:
    try:
        env = make_one(spec.id, {})
    except EnvironmentFailure:
        return None
    entry = EnvironmentEntry(
        id=spec.id,
        package=f"gymnasium.{_package(spec)}",
        observation_space=describe(env.observation_space),
        action_space=describe(env.action_space),
        max_episode_steps=spec.max_episode_steps or LONGEST_EPISODE,
        reward_threshold=spec.reward_threshold,
        kwargs_schema=_kwargs_schema(spec),
    )
    env.close()
    return entry


def _kwargs_schema(spec: Registered) -> dict[str, Any]:
    assert isinstance(spec.entry_point, str)
    creator = load_env_creator(spec.entry_point)
    properties: dict[str, Any] = {}
    for name, parameter in inspect.signature(creator).parameters.items():
        default = spec.kwargs.get(name, parameter.default)
        kind = _json_type(default, parameter.annotation)
        if name not in _HIDDEN and kind is not None:
            properties[name] = {"type": kind, "default": default} | _LIMITS.get(name, {})
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _json_type(value: Any, annotation: Any) -> str | None:
    """JSON Schema type of an argument with this default; None where JSON can't say it."""
    match value:
        case bool():
            return "boolean"
        case int() | float() if math.isfinite(value):
            return "integer" if annotation in (int, "int") else "number"
        case str():
            return "string"
        case list() | tuple() if value and all(_json_type(item, float) == "number" for item in value):
            return "array"
    return None


if __name__ == "__main__":
    PATH.write_text(text())
