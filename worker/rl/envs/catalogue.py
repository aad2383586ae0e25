"""Generates ``app/schemas/environments.json``: ``python -m worker.rl.envs.catalogue``.

Lists the newest version of every environment that gymnasium, ale-py and MinAtar as pinned can make here, so that the
service can validate specs without importing them. A test compares the file with what this module writes.
"""

import inspect
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium
from gymnasium.envs.registration import EnvSpec as Registered
from gymnasium.envs.registration import load_env_creator
from gymnasium.envs.toy_text.frozen_lake import MAPS

import app.schemas
from app.schemas.environments import EnvironmentEntry, SpaceVariant
from worker.rl.envs.atari import STACK, TRAINING_ONLY, Atari
from worker.rl.envs.spaces import describe
from worker.rl.envs.vector import REGISTER, make_one
from worker.rl.errors import EnvironmentFailure

PACKAGES = {
    "gymnasium.envs.box2d": "gymnasium.box2d",
    "gymnasium.envs.classic_control": "gymnasium.classic_control",
    "gymnasium.envs.mujoco": "gymnasium.mujoco",
    "gymnasium.envs.toy_text": "gymnasium.toy_text",
    "worker.rl.envs.atari": "ale-py",
    "worker.rl.envs.minatar": "MinAtar",
}
PATH = Path(next(iter(app.schemas.__path__))) / "environments.json"
_HIDDEN = {"render_mode", "verbose", "xml_file", "default_camera_config", "main_body", "game"}
"""Not for users: rendering belongs to the service, and a model file would be a path on the worker."""
LONGEST_EPISODE = 1000
"""Time limit of an environment that is registered without one: a policy may go in circles for ever."""
_SHARE = {"minimum": 0, "maximum": 1}
_LIMITS: dict[str, dict[str, Any]] = {
    "fickle_probability": _SHARE,
    "frame_skip": {"minimum": 1, "maximum": 1000},
    "gravity": {"exclusiveMinimum": -12, "exclusiveMaximum": 0},
    "lap_complete_percent": {"exclusiveMinimum": 0, "maximum": 1},
    "map_name": {"enum": list(MAPS)},
    "noop_max": {"minimum": 0, "maximum": 1000},
    "rainy_probability": _SHARE,
    "repeat_action_probability": _SHARE,
    "reset_noise_scale": {"minimum": 0},
    "sticky_action_prob": _SHARE,
    "success_rate": _SHARE,
    "turbulence_power": {"minimum": 0, "maximum": 2},
    "wind_power": {"minimum": 0, "maximum": 20},
}
"""What constructors refuse, or say in words that they don't expect, by the name of the argument."""


def entries(package: str | None = None) -> list[EnvironmentEntry]:
    """One entry per environment, sorted by id, of one package or of all."""
    for register in REGISTER.values():
        register()
    newest: dict[str, Registered] = {}
    for spec in gymnasium.registry.values():
        if _package(spec) in (PACKAGES.values() if package is None else (package,)):
            key = f"{spec.namespace}/{spec.name}"
            held = newest.get(key)
            if held is None or (spec.version or 0) > (held.version or 0):
                newest[key] = spec
    made = [entry for spec in newest.values() if (entry := _entry(spec)) is not None]
    return sorted(made, key=lambda entry: entry.id)


def text(entries: Sequence[EnvironmentEntry]) -> str:
    """The file's content."""
    rows = [json.dumps(e.model_dump(mode="json", exclude_none=True), separators=(",", ":")) for e in entries]
    return "[\n" + ",\n".join(rows) + "\n]\n"


def _package(spec: Registered) -> str | None:
    return next((name for prefix, name in PACKAGES.items() if str(spec.entry_point).startswith(prefix)), None)


def _entry(spec: Registered) -> EnvironmentEntry | None:
    try:
        env = make_one(spec.id, {})
    except EnvironmentFailure:
        return None
    package = _package(spec)
    assert package is not None
    properties = _properties(spec, env)
    entry = EnvironmentEntry(
        id=spec.id,
        package=package,
        observation_space=describe(env.observation_space),
        action_space=describe(env.action_space),
        variants=tuple(_variants(spec, env, properties)),
        frame_stack=STACK if isinstance(env.unwrapped, Atari) else 1,
        max_episode_steps=spec.max_episode_steps or LONGEST_EPISODE,
        reward_threshold=spec.reward_threshold,
        kwargs_schema={"type": "object", "properties": properties, "additionalProperties": False},
    )
    env.close()
    return entry


def _properties(spec: Registered, env: gymnasium.Env[Any, Any]) -> dict[str, dict[str, Any]]:
    """JSON Schema of every keyword argument a user may pass."""
    assert isinstance(spec.entry_point, str)
    properties: dict[str, dict[str, Any]] = {}
    for name, parameter in inspect.signature(load_env_creator(spec.entry_point)).parameters.items():
        default = spec.kwargs.get(name, parameter.default)
        kind = _json_type(default, parameter.annotation)
        if name not in _HIDDEN and kind is not None:
            properties[name] = {"type": kind, "default": default} | _LIMITS.get(name, {})
            if kind == "array":
                properties[name] |= {"items": {"type": "number"}, "minItems": len(default), "maxItems": len(default)}
    if isinstance(env.unwrapped, Atari):
        ale = env.unwrapped.ale
        usual = ale.cloneState()
        for name, allowed, default in (
            ("mode", ale.getAvailableModes(), usual.getCurrentMode()),
            ("difficulty", ale.getAvailableDifficulties(), usual.getDifficulty()),
        ):
            properties[name] = {"type": "integer", "default": default, "enum": sorted(allowed)}
    return properties


def _variants(
    spec: Registered, env: gymnasium.Env[Any, Any], properties: dict[str, dict[str, Any]]
) -> list[SpaceVariant]:
    """What becomes of the spaces when one boolean is turned over or another word chosen."""
    usual = {"observation_space": describe(env.observation_space), "action_space": describe(env.action_space)}
    variants = []
    for name, schema in properties.items():
        choices = {"boolean": [False, True], "string": schema.get("enum", [])}.get(schema["type"], [])
        for value in choices:
            if value == schema["default"] or name in TRAINING_ONLY:
                continue
            other = make_one(spec.id, {name: value})
            spaces = {key: describe(getattr(other, key)) for key in usual}
            other.close()
            changed = {key: space for key, space in spaces.items() if space != usual[key]}
            if changed:
                variants.append(SpaceVariant(kwargs={name: value}, **changed))
    return variants


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
    PATH.write_text(text(entries()))
