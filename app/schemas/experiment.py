"""ExperimentSpec = environment + algorithm + training + seeds + resources.

``resolve`` fills in every default, so that the stored spec says all that decides a run, and refuses what cannot train.
"""

import hashlib
import json
import math
import operator
import re
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import Field, JsonValue, StringConstraints

from app.schemas import presets
from app.schemas.algorithms import AnyAlgorithm, fitting
from app.schemas.base import FieldError, Items, SpecError, SpecSchema, closest
from app.schemas.environments import BoxSpace, DiscreteSpace, EnvironmentEntry, OtherSpace, Space, catalogue, kind

MAX_SEEDS = 256
MAX_MEMORY_BYTES = 64 * 2**30
MAX_PARAMETERS = 32_000_000
"""Of one network of one run: 128 MB, which every checkpoint holds."""
MAX_QUANTILE_PAIRS = 32_000_000
"""That one quantile loss compares: batch_size x num_quantiles squared, numbers of four bytes, several times over."""
LONGEST_ROLLOUT = 65_536
"""Env steps of a rollout that are allowed however short the run is."""
EVALUATIONS, EVALUATION_EPISODES = 20, 10
"""Of a run, and of each of them, by default."""
EVALUATION_SHARE = 2
"""Env steps that by default are played in evaluations, per env step trained, were every episode to last its limit."""
IMAGE_FEATURES = 512
"""Width of what the convolutional torso hands to the hidden layers."""

ShortText = Annotated[str, StringConstraints(min_length=1, max_length=200)]
TagText = Annotated[str, StringConstraints(max_length=200)]


class EnvironmentSpec(SpecSchema):
    """Which environment, how it is made, and how many copies a run steps in lockstep."""

    id: str = Field(min_length=1, max_length=200, examples=["CartPole-v1"])
    kwargs: dict[str, JsonValue] = Field(default_factory=dict, max_length=32)
    """Keyword arguments of the environment, checked against its schema in the catalogue."""
    num_envs: int | None = Field(None, ge=1, le=4096)
    """Copies per run; None takes the algorithm's default."""
    frame_stack: int | None = Field(None, ge=1, le=16)
    """Images an observation is made of, the newest last; None: 4 in Atari games, else 1."""


class TrainingSpec(SpecSchema):
    """How long to train, and when to evaluate and to save. All counted in env steps of one run."""

    total_env_steps: int = Field(100_000, ge=1, le=10**11)
    """Training ends with the first update at or beyond it: on-policy methods complete their last rollout of num_envs x
    num_steps, the others a step of every copy. A run's ``progress.env_steps`` is what was taken."""
    evaluate_every: int | None = Field(None, ge=1)
    """None: a twentieth of the run, or less often (once, at its end, at the least) where episodes may be so long that
    evaluations of ten, or of as many as are asked for if fewer, would play more than twice the env steps trained. At
    the end of a run there is always one."""
    evaluation_episodes: int = Field(EVALUATION_EPISODES, ge=1, le=1000)
    """Unless given, fewer than 10 where so many at full length are more than twice the env steps trained."""
    checkpoint_every: int | None = Field(None, ge=1)
    """None: a tenth of the run, or two episodes of full length in every copy if that is longer, and at most the run.
    Episodes in flight are cut (and bootstrapped) at every checkpoint: were it shorter than they are, none would end."""
    keep_checkpoints: int = Field(3, ge=1, le=1000)
    """Scheduled checkpoints kept per run; the best and the final one are always kept."""


class ResourceSpec(SpecSchema):
    """Where the jobs run and how many seeds train together in one process."""

    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d{1,3})?)$")
    queue: str = Field("default", pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")
    priority: int = Field(0, ge=-100, le=100)
    """Higher is claimed first."""
    pack: Literal["auto"] | Annotated[int, Field(ge=1, le=64)] = "auto"
    """Runs per job; ``auto`` decides by a measured table."""
    threads: Literal["auto"] | Annotated[int, Field(ge=1, le=256)] = "auto"
    """Of a job; ``auto``: two where they are worth it and the worker has as many cores per slot, else one."""


class ExperimentSpec(SpecSchema):
    """What a user POSTs. Only ``environment.id`` and ``algorithm.name`` are required."""

    name: ShortText | None = None
    environment: EnvironmentSpec
    algorithm: AnyAlgorithm
    training: TrainingSpec = TrainingSpec()
    seeds: Items[Annotated[int, Field(ge=0, lt=2**31)]] = Field((0,), min_length=1, max_length=MAX_SEEDS)
    resources: ResourceSpec = ResourceSpec()
    tags: dict[Annotated[str, StringConstraints(min_length=1, max_length=64)], TagText] = Field(
        default_factory=dict, max_length=32
    )


def resolve(spec: ExperimentSpec) -> ExperimentSpec:
    """The spec with every default filled in.

    Raises:
        SpecError: naming every field that keeps the spec from being trained.
    """
    entry = _environment(spec.environment)
    errors = _kwargs_errors(spec.environment, entry)
    entry = entry.made_with(spec.environment.kwargs, spec.environment.frame_stack)
    errors += _space_errors(spec, entry)
    if len(set(spec.seeds)) != len(spec.seeds):
        errors.append(FieldError("/seeds", "seeds must differ from one another: a seed stands for one run"))
    if errors:
        raise SpecError(errors)
    algorithm, environment = presets.apply(spec.algorithm, spec.environment)
    num_envs = environment.num_envs or algorithm.default_num_envs
    made = {"kwargs": _integers(environment.kwargs, entry), "num_envs": num_envs, "frame_stack": entry.frame_stack}
    environment = environment.model_copy(update=made)
    resolved = spec.model_copy(
        update={
            "name": spec.name or f"{algorithm.name} on {environment.id}",
            "algorithm": algorithm,
            "environment": environment,
            "training": _resolve_training(spec.training, entry.max_episode_steps, num_envs),
        }
    )
    errors = _size_errors(resolved, entry)
    if errors:
        raise SpecError(errors)
    return resolved


def _resolve_training(training: TrainingSpec, limit: int | None, num_envs: int) -> TrainingSpec:
    """Cadences for episodes of up to ``limit`` env steps."""
    total = training.total_env_steps
    affordable = EVALUATION_SHARE * total // (limit or 1)  # episodes at full length
    episodes = training.evaluation_episodes
    if "evaluation_episodes" not in training.model_fields_set:
        episodes = max(1, min(episodes, affordable))
    evaluations = max(1, min(EVALUATIONS, affordable // min(episodes, EVALUATION_EPISODES)))
    two_episodes = 2 * num_envs * (limit or 0)
    return training.model_copy(
        update={
            "evaluate_every": training.evaluate_every or math.ceil(total / evaluations),
            "evaluation_episodes": episodes,
            "checkpoint_every": training.checkpoint_every or min(max(1, total // 10, two_episodes), total),
        }
    )


def spec_hash(spec: ExperimentSpec) -> str:
    """``sha256:…`` of the canonical JSON of what decides the runs (name and tags don't)."""
    content = json.dumps(spec.model_dump(mode="json", exclude={"name", "tags"}), sort_keys=True, separators=(",", ":"))
    return "sha256:" + hashlib.sha256(content.encode()).hexdigest()


def _environment(environment: EnvironmentSpec) -> EnvironmentEntry:
    known = catalogue()
    if ":" in environment.id:
        message = "an environment id may not name a module to import (it contains ':')"
        raise SpecError([FieldError("/environment/id", message)])
    if environment.id not in known:
        near = closest(environment.id, sorted(known, key=_version))
        hint = f": did you mean {near}?" if near else "; GET /v1/environments lists those there are"
        raise SpecError(
            [FieldError("/environment/id", f"unknown environment {environment.id!r}{hint}", suggestion=near)]
        )
    return known[environment.id]


def _version(environment_id: str) -> int:
    match = re.search(r"-v(\d+)$", environment_id)
    return -int(match[1]) if match else 0


_JSON_TYPES: dict[str, tuple[type, ...]] = {
    "boolean": (bool,),
    "integer": (int,),
    "number": (int, float),
    "string": (str,),
    "array": (list,),
}
_BOUNDS: tuple[tuple[str, str, Callable[[Any, Any], bool]], ...] = (
    ("minimum", "at least", operator.ge),
    ("exclusiveMinimum", "above", operator.gt),
    ("maximum", "at most", operator.le),
    ("exclusiveMaximum", "below", operator.lt),
)


def _kwargs_errors(environment: EnvironmentSpec, entry: EnvironmentEntry) -> list[FieldError]:
    properties: dict[str, dict[str, Any]] = entry.kwargs_schema.get("properties", {})
    errors = []
    for name, value in environment.kwargs.items():
        pointer = "/environment/kwargs/" + name.replace("~", "~0").replace("/", "~1")
        if name not in properties:
            near = closest(name, list(properties))
            message = f"{entry.id} takes no argument {name!r}" + (f": did you mean {near!r}?" if near else "")
            errors.append(FieldError(pointer, message, suggestion=near, allowed=tuple(properties)))
            continue
        choices = properties[name].get("enum")
        if misfit := _misfit(value, properties[name]):
            errors.append(FieldError(pointer, misfit))
        elif choices is not None and value not in choices:
            errors.append(FieldError(pointer, "is not one of the values allowed", allowed=tuple(map(str, choices))))
    return errors


def _integers(kwargs: Mapping[str, JsonValue], entry: EnvironmentEntry) -> dict[str, JsonValue]:
    """Arguments that fit, with 1 for 1.0 where integers belong."""
    types = {name: schema["type"] for name, schema in entry.kwargs_schema["properties"].items()}
    return {n: int(v) if types[n] == "integer" and isinstance(v, float) else v for n, v in kwargs.items()}


def _misfit(value: JsonValue, schema: Mapping[str, Any]) -> str | None:
    """Why a value is not of the type, the range or the length that a schema of the catalogue asks for."""
    wanted: str = schema["type"]
    whole = wanted == "integer" and isinstance(value, float) and value.is_integer()
    if not (whole or isinstance(value, _JSON_TYPES[wanted])) or (isinstance(value, bool) and wanted != "boolean"):
        return f"must be {wanted}, not {json.dumps(value)[:80]}"
    if isinstance(value, list):
        if not schema["minItems"] <= len(value) <= schema["maxItems"]:
            return f"must hold {schema['minItems']} values, not {len(value)}"
        return next((why for item in value if (why := _misfit(item, schema["items"]))), None)
    bounds = [(words, schema[key], holds) for key, words, holds in _BOUNDS if key in schema]
    if all(holds(value, bound) for _, bound, holds in bounds):
        return None
    return "must be " + " and ".join(f"{words} {bound:g}" for words, bound, _ in bounds)


_NAMES = {"vector": "continuous vector", "multi_discrete": "multi-discrete"}
"""Of kinds of spaces, in sentences."""


def _space_errors(spec: ExperimentSpec, entry: EnvironmentEntry) -> list[FieldError]:
    errors = []
    algorithm = spec.algorithm
    observed, acted = entry.observation_space, entry.action_space
    fits = fitting(entry)
    pointer = "/algorithm/name" if fits else "/environment/id"
    choice = f"; what fits: {', '.join(fits)}" if fits else "; no algorithm fits"
    if kind(acted) not in algorithm.action_spaces:
        why = f"{algorithm.name} needs {_join(algorithm.action_spaces)} actions; {entry.id} has {_named(acted)} ones"
        for variant in entry.variants:
            if variant.action_space is not None and kind(variant.action_space) in algorithm.action_spaces:
                why += f", with kwargs {json.dumps(variant.kwargs)} {_named(variant.action_space)} ones"
        errors.append(FieldError(pointer, why + choice, suggestion=next(iter(fits), None)))
    if kind(observed) not in algorithm.observation_spaces:
        needed = _join(algorithm.observation_spaces)
        why = f"{algorithm.name} needs {needed} observations; {entry.id} has {_named(observed)} ones"
        errors.append(FieldError(pointer, why + choice, suggestion=next(iter(fits), None)))
    if kind(observed) != "image" and entry.frame_stack > 1:
        message = f"only images are stacked; {entry.id} has {_named(observed)} observations"
        errors.append(FieldError("/environment/frame_stack", message, suggestion="1"))
    return errors


def _named(space: Space) -> str:
    return space.description if isinstance(space, OtherSpace) else _NAMES.get(kind(space), kind(space))


def _join(kinds: tuple[str, ...]) -> str:
    return " or ".join(_NAMES.get(name, name) for name in kinds)


def _size_errors(spec: ExperimentSpec, entry: EnvironmentEntry) -> list[FieldError]:
    """Refuse what no machine would hold, and what does not go together."""
    space = entry.observation_space
    if not isinstance(space, BoxSpace):  # a table has a row per state, and the catalogue's environments are small
        return []
    algorithm, num_envs = spec.algorithm, spec.environment.num_envs or 1
    errors = _network_errors(algorithm, space, entry.action_space)
    rollout = num_envs * getattr(algorithm, "num_steps", 0)
    longest = max(spec.training.total_env_steps, LONGEST_ROLLOUT)
    if rollout > longest:
        fits = longest // num_envs
        message = f"{num_envs} x {rollout // num_envs} env steps are one rollout; the run allows {longest}"
        errors.append(FieldError("/algorithm/num_steps", message, suggestion=str(1 << fits.bit_length() - 1)))
    elif rollout % getattr(algorithm, "num_minibatches", 1):
        message = f"must divide num_envs x num_steps = {rollout} evenly"
        errors.append(FieldError("/algorithm/num_minibatches", message))
    buffer = getattr(algorithm, "buffer_size", 0)
    # A replay keeps each frame once, a rollout the stacks.
    needed = (buffer or max(rollout, num_envs)) * _transition_bytes(space, entry, entry.frame_stack if buffer else 1)
    if needed > MAX_MEMORY_BYTES:
        pointer = "/algorithm/buffer_size" if buffer else "/environment/num_envs"
        message = f"would need {needed / 2**30:.0f} GiB of transitions for one run; 64 GiB are allowed"
        errors.append(FieldError(pointer, message))
    if buffer and getattr(algorithm, "batch_size", 0) > buffer:
        errors.append(FieldError("/algorithm/batch_size", "may not exceed buffer_size"))
    quantiles = getattr(algorithm, "num_quantiles", None) or 0
    if (pairs := getattr(algorithm, "batch_size", 0) * quantiles**2) > MAX_QUANTILE_PAIRS:
        message = f"batch_size x num_quantiles^2 is {pairs:,}; {MAX_QUANTILE_PAIRS:,} are allowed"
        errors.append(FieldError("/algorithm/num_quantiles", message))
    return errors


def _network_errors(algorithm: AnyAlgorithm, observations: BoxSpace, actions: Space) -> list[FieldError]:
    image = kind(observations) == "image"
    widths: tuple[int, ...] = getattr(algorithm, "hidden_sizes", ())
    if image and not algorithm.hidden_after_torso:
        if widths != type(algorithm).model_fields["hidden_sizes"].default:
            message = "images pass through a convolutional torso with sizes of its own: leave this out"
            return [FieldError("/algorithm/hidden_sizes", message)]
        widths = ()
    outputs = actions.n if isinstance(actions, DiscreteSpace) else 1  # of other spaces there are few
    outputs *= getattr(algorithm, "num_atoms", None) or getattr(algorithm, "num_quantiles", None) or 1
    features = IMAGE_FEATURES if image else math.prod(observations.shape)
    parameters = sum((a + 1) * b for a, b in pairwise((features, *widths, outputs)))
    if parameters <= MAX_PARAMETERS:
        return []
    message = f"one network would have {parameters:,} parameters; {MAX_PARAMETERS:,} are allowed"
    return [FieldError("/algorithm/hidden_sizes", message)]


def _transition_bytes(space: BoxSpace, entry: EnvironmentEntry, frames: int) -> int:
    """Of one stored transition: two observations, its action twice, and sixteen numbers (a rollout's estimates)."""
    observation = math.prod(space.shape) // frames * (1 if space.dtype == "uint8" else 4)
    action = 4 * math.prod(entry.action_space.shape) if isinstance(entry.action_space, BoxSpace) else 8
    return 2 * (observation + action) + 64
