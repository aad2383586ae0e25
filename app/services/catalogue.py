"""What can be trained, and where: data, known without a database."""

from functools import cache
from typing import Any

from app.errors import NotFound
from app.schemas import responses
from app.schemas.algorithms import algorithms as algorithm_configs
from app.schemas.algorithms import fitting
from app.schemas.base import closest
from app.schemas.config import AlgorithmConfig
from app.schemas.environments import EnvironmentEntry, OtherSpace, catalogue
from app.schemas.presets import PRESETS


@cache
def algorithms() -> dict[str, responses.Algorithm]:
    """Every algorithm by name."""
    return {name: _algorithm(name, config) for name, config in algorithm_configs().items()}


@cache
def environments() -> dict[str, responses.Environment]:
    """Every environment by id."""
    return {entry.id: _environment(entry) for entry in catalogue().values()}


def algorithm(name: str) -> responses.Algorithm:
    """One algorithm.

    Raises:
        NotFound
    """
    if name not in algorithms():
        raise NotFound(f"there is no algorithm {name[:60]!r}" + _hint(name, list(algorithms())))
    return algorithms()[name]


def environment(environment_id: str) -> responses.Environment:
    """One environment.

    Raises:
        NotFound
    """
    if environment_id not in environments():
        raise NotFound(f"there is no environment {environment_id[:60]!r}" + _hint(environment_id, list(environments())))
    return environments()[environment_id]


def _hint(word: str, known: list[str]) -> str:
    near = closest(word[:200], known)
    return f": did you mean {near}?" if near else ""


def _algorithm(name: str, config: type[AlgorithmConfig]) -> responses.Algorithm:
    about = config.about(name)
    return responses.Algorithm(
        name=name,
        summary=about.summary,
        paper=about.paper,
        observation_spaces=list(config.observation_spaces),
        action_spaces=list(config.action_spaces),
        packs=config.packs,
        default_num_envs=config.default_num_envs,
        parameters=_parameters(name, config),
        presets=_presets(algorithm=name),
    )


def _parameters(name: str, config: type[AlgorithmConfig]) -> dict[str, Any]:
    """The JSON schema of a config under one of its names, which decides defaults."""
    schema = config.model_json_schema()
    for field, default in config.model_validate({"name": name}).model_dump(mode="json").items():
        schema["properties"][field]["default"] = default
    return schema


def _environment(entry: EnvironmentEntry) -> responses.Environment:
    return responses.Environment(
        **{name: getattr(entry, name) for name in EnvironmentEntry.model_fields.keys() - {"variants"}},
        variants=tuple(
            responses.Variant(**dict(variant), algorithms=fitting(entry.made_with(variant.kwargs, None)))
            for variant in entry.variants
        ),
        algorithms=fitting(entry),
        unsupported=_unsupported(entry),
        presets=_presets(environment_id=entry.id),
    )


def _unsupported(entry: EnvironmentEntry) -> str | None:
    spaces = {"observations": entry.observation_space, "actions": entry.action_space}
    for what, space in spaces.items():
        if isinstance(space, OtherSpace):
            return f"no algorithm takes {space.description} {what}"
    return None


def _presets(**wanted: str) -> list[responses.Preset]:
    found = []
    for (algorithm_name, environment_id), numbers in PRESETS.items():
        values: dict[str, Any] = {name: value for name, value in numbers.items() if name != "origin"}
        preset = responses.Preset(
            algorithm=algorithm_name, environment_id=environment_id, origin=numbers["origin"], values=values
        )
        if all(getattr(preset, name) == value for name, value in wanted.items()):
            found.append(preset)
    return found
