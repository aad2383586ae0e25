"""What the service answers. Times are RFC 3339, UTC; unknown is null."""

from datetime import datetime
from typing import Any, Generic, Literal, TypeVar

from pydantic import ConfigDict, Field

from app.schemas import examples
from app.schemas.base import Schema
from app.schemas.environments import EnvironmentEntry, SpaceVariant

Item = TypeVar("Item")

RunStatus = Literal[
    "queued", "starting", "running", "pausing", "paused", "cancelling", "succeeded", "failed", "cancelled"
]
ExperimentStatus = Literal["queued", "running", "succeeded", "failed", "cancelled"]


class Page(Schema, Generic[Item]):
    """One page of a list. The next one: ``after`` = the id of the last item."""

    data: list[Item]
    has_more: bool = False


class ProblemItem(Schema):
    """One field that is wrong."""

    pointer: str
    """JSON pointer into the body, or ``/`` and the name of a query parameter or header."""
    message: str
    suggestion: str | None = None
    """What was probably meant."""
    allowed: list[str] | None = None


class Problem(Schema):
    """RFC 9457 problem details: the answer to every request that fails."""

    model_config = ConfigDict(json_schema_extra={"examples": [examples.PROBLEM]})

    type: str
    title: str
    status: int
    detail: str
    errors: list[ProblemItem]


class RunBrief(Schema):
    """A run as its experiment lists it."""

    id: str
    seed: int
    status: RunStatus


class Experiment(Schema):
    """An immutable, fully resolved spec and its runs."""

    model_config = ConfigDict(json_schema_extra={"examples": [examples.EXPERIMENT]})

    id: str
    name: str
    status: ExperimentStatus
    """``queued`` while no run has begun; ``running`` until all have ended; then ``failed`` if any has, ``cancelled`` if
    all were, else ``succeeded``."""
    spec: dict[str, Any]
    """The resolved spec: every default filled in, never changed."""
    spec_hash: str
    """Digest of what decides the runs; name and tags don't."""
    runs: list[RunBrief]
    tags: dict[str, str]
    created_at: datetime


class Reason(Schema):
    """Why a run is in its state."""

    code: str
    message: str


class Progress(Schema):
    """How far a run is."""

    env_steps: int
    total_env_steps: int
    env_steps_per_second: float | None
    """Of late; once it has ended or is paused, the mean since a worker last took it up."""
    eta_seconds: float | None


class Point(Schema):
    """A value at a number of env steps; null if it was not finite."""

    step: int
    value: float | None


class Result(Schema):
    """What came out of a run so far."""

    best_checkpoint_id: str | None
    best_return: float | None
    final_return: float | None


class Run(Schema):
    """One seed of an experiment."""

    model_config = ConfigDict(json_schema_extra={"examples": [examples.RUN]})

    id: str
    experiment_id: str
    seed: int
    status: RunStatus
    desired: Literal["run", "pause", "cancel", "kill"]
    """What was last asked for; the worker sees to it within two seconds."""
    reason: Reason | None
    progress: Progress
    latest: dict[str, Point]
    """The newest point of every metric."""
    result: Result
    attempt: int
    """How often a worker has begun to train it."""
    worker: str | None
    device: str | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None


class TimedPoint(Point):
    """A point and when it was written."""

    time: datetime


class Metric(Schema):
    """One series of a run."""

    model_config = ConfigDict(json_schema_extra={"examples": [examples.METRIC]})

    key: str
    points: int
    nonfinite: int
    """Points whose value was NaN or infinite; they read as null."""
    latest: TimedPoint


class Series(Schema):
    """A series over env steps, in buckets when there are more points than asked for."""

    model_config = ConfigDict(json_schema_extra={"examples": [examples.SERIES]})

    run_id: str
    key: str
    x: Literal["env_steps"] = "env_steps"
    sampled: bool
    """Whether entries are buckets of several points."""
    points: int
    """Points of the whole series."""
    nonfinite: int
    """Of these, how many were NaN or infinite."""
    step: list[int]
    value: list[float | None]
    """The mean of each bucket."""
    min: list[float | None]
    max: list[float | None]


class Event(Schema):
    """Something that happened to a run; ids count up per run."""

    model_config = ConfigDict(json_schema_extra={"examples": [examples.EVENT]})

    id: int
    type: Literal["status", "checkpoint", "evaluation"]
    data: dict[str, Any]
    created_at: datetime


class LogLine(Schema):
    """A line a trainer wrote."""

    model_config = ConfigDict(json_schema_extra={"examples": [examples.LOG_LINE]})

    id: str
    attempt: int
    stream: str
    text: str
    created_at: datetime


class Attempt(Schema):
    """One execution of the run's job by one worker."""

    model_config = ConfigDict(json_schema_extra={"examples": [examples.ATTEMPT]})

    attempt: int
    job_id: str
    worker: str
    device: str
    resumed_from_env_steps: int | None
    facts: dict[str, Any]
    """What exact resume depends on: versions, CPU, threads, precision, pack."""
    outcome: str | None
    """null while it trains; ``done`` when its last run ended or was paused, however; else ``preempted``, ``killed``,
    ``crashed``, or ``lost`` with its worker."""
    reason: Reason | None
    started_at: datetime
    ended_at: datetime | None


class File(Schema):
    """A file of a checkpoint."""

    name: str
    bytes: int
    sha256: str


class Checkpoint(Schema):
    """A run's weights and policy bundle at a step."""

    model_config = ConfigDict(json_schema_extra={"examples": [examples.CHECKPOINT]})

    id: str
    run_id: str
    attempt: int
    env_steps: int
    kind: Literal["scheduled", "best", "final"]
    return_mean: float | None
    files: list[File]
    created_at: datetime


class Preset(Schema):
    """Tuned numbers for an algorithm in an environment, taken with ``"preset": "auto"``."""

    algorithm: str
    environment_id: str
    origin: str
    """Where the numbers come from."""
    values: dict[str, Any]


class Algorithm(Schema):
    """An algorithm of the catalogue."""

    model_config = ConfigDict(json_schema_extra={"examples": [examples.ALGORITHM]})

    name: str
    summary: str
    paper: str
    observation_spaces: list[str]
    action_spaces: list[str]
    packs: bool
    """Whether several seeds can train together in one process."""
    default_num_envs: int
    parameters: dict[str, Any]
    """JSON Schema of the ``algorithm`` object of a spec."""
    presets: list[Preset]


class Variant(SpaceVariant):
    """The spaces of an environment that is made with some arguments, and what can train there."""

    algorithms: list[str]


class Environment(EnvironmentEntry):
    """An environment of the catalogue."""

    model_config = ConfigDict(json_schema_extra={"examples": [examples.ENVIRONMENT]})

    variants: tuple[Variant, ...] = ()
    algorithms: list[str]
    """The algorithms that can train in it, unless arguments change its spaces: see ``variants``."""
    unsupported: str | None
    """Why no algorithm can; null where one can."""
    presets: list[Preset]


class Worker(Schema):
    """A worker process."""

    model_config = ConfigDict(json_schema_extra={"examples": [examples.WORKER]})

    id: str
    name: str
    status: Literal["live", "lost", "stopped"]
    queues: list[str]
    devices: list[str]
    """One entry per slot."""
    busy: int
    """Slots that train; 0 where the worker is lost."""
    started_at: datetime
    heartbeat_at: datetime
    stopped_at: datetime | None


class Health(Schema):
    """The process answers."""

    status: Literal["ok"] = "ok"
    version: str = Field(examples=["0.1.0"])


class Readiness(Schema):
    """The service can take work."""

    model_config = ConfigDict(json_schema_extra={"examples": [examples.READINESS]})

    status: Literal["ready"] = "ready"
    database: Literal["ok"] = "ok"
    migrations: Literal["ok"] = "ok"
    broker: Literal["ok", "none"]
    """Without a broker queued jobs start when a worker next looks."""
