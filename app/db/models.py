"""The tables. Times are epoch seconds as DOUBLE, always taken from the database (``app.db.clock``)."""

from typing import Any, ClassVar

from sqlalchemy import (
    JSON,
    BigInteger,
    Double,
    ForeignKey,
    Index,
    LargeBinary,
    MetaData,
    String,
    Text,
    UniqueConstraint,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

Json = JSON().with_variant(JSONB(), "postgresql")
Id = String(40)


class Base(DeclarativeBase):
    """Declarative base; constraint names are fixed so that migrations can name them."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        str: Text,
        float: Double,
        int: BigInteger,
        dict[str, Any]: Json,
        list[Any]: Json,
    }


class Experiment(Base):
    """An immutable resolved spec and its tags."""

    __tablename__ = "experiments"

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    name: Mapped[str]
    spec: Mapped[dict[str, Any]]
    spec_hash: Mapped[str]
    tags: Mapped[dict[str, Any]]
    created_at: Mapped[float]


class Job(Base):
    """The unit of execution: runs of one experiment trained together. ``attempt`` is the fencing token."""

    __tablename__ = "jobs"
    __table_args__ = (
        Index("ix_jobs_claim", "status", "queue", "priority", "created_at"),
        Index("ix_jobs_experiment_id", "experiment_id"),
    )

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    experiment_id: Mapped[str] = mapped_column(ForeignKey("experiments.id", ondelete="CASCADE"))
    kind: Mapped[str] = mapped_column(default="train")
    queue: Mapped[str]
    device: Mapped[str]
    """As asked for: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``."""
    priority: Mapped[int] = mapped_column(default=0)
    status: Mapped[str] = mapped_column(default="queued")
    attempt: Mapped[int] = mapped_column(default=0)
    failures: Mapped[int] = mapped_column(default=0)
    """Lost workers and crashes since the last new resume state."""
    total_failures: Mapped[int] = mapped_column(default=0)
    lease_seconds: Mapped[float | None]
    lease_expires_at: Mapped[float | None]
    worker_id: Mapped[str | None] = mapped_column(Id)
    resume_state_id: Mapped[str | None] = mapped_column(Id)
    created_at: Mapped[float]
    ended_at: Mapped[float | None]


class Run(Base):
    """One seed of an experiment: what users watch."""

    __tablename__ = "runs"
    __table_args__ = (
        UniqueConstraint("experiment_id", "position"),
        Index("ix_runs_job_id", "job_id"),
        Index("ix_runs_status", "status", "id"),
    )

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    experiment_id: Mapped[str] = mapped_column(ForeignKey("experiments.id", ondelete="CASCADE"))
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    position: Mapped[int]
    """Index among the experiment's runs; a job trains its runs in this order."""
    seed: Mapped[int]
    status: Mapped[str] = mapped_column(default="queued")
    desired: Mapped[str] = mapped_column(default="run")
    reason_code: Mapped[str | None]
    reason_message: Mapped[str | None]
    env_steps: Mapped[int] = mapped_column(default=0)
    total_env_steps: Mapped[int]
    env_steps_per_second: Mapped[float | None]
    best_checkpoint_id: Mapped[str | None] = mapped_column(Id)
    best_return: Mapped[float | None]
    final_return: Mapped[float | None]
    resume_state_id: Mapped[str | None] = mapped_column(Id)
    """Set while paused: the state to go on from."""
    event_seq: Mapped[int] = mapped_column(default=0)
    """Id of the newest event; raised in the transaction that writes the event."""
    metrics_version: Mapped[int] = mapped_column(default=0)
    """Raised by every flush of metrics; streams watch it."""
    worker_id: Mapped[str | None] = mapped_column(Id)
    device: Mapped[str | None]
    created_at: Mapped[float]
    started_at: Mapped[float | None]
    finished_at: Mapped[float | None]


class Attempt(Base):
    """One execution of a job by one worker."""

    __tablename__ = "attempts"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    attempt: Mapped[int] = mapped_column(primary_key=True)
    worker_id: Mapped[str] = mapped_column(Id)
    device: Mapped[str]
    resumed_from_env_steps: Mapped[int | None]
    facts: Mapped[dict[str, Any]]
    """What exact resume depends on: versions, CPU model, threads, precision, pack."""
    started_at: Mapped[float]
    ended_at: Mapped[float | None]
    outcome: Mapped[str | None]
    code: Mapped[str | None]
    message: Mapped[str | None]


class RunAttempt(Base):
    """Which runs an attempt trained. A run paused out of a pack goes on under another job."""

    __tablename__ = "run_attempts"

    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True)
    job_id: Mapped[str] = mapped_column(Id, primary_key=True)
    attempt: Mapped[int] = mapped_column(primary_key=True)


class ResumeState(Base):
    """A complete state of some runs at one step, from which a job can go on exactly."""

    __tablename__ = "resume_states"
    __table_args__ = (Index("ix_resume_states_job_id", "job_id"), Index("ix_resume_states_path", "path"))

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    attempt: Mapped[int]
    env_steps: Mapped[int]
    path: Mapped[str]
    """Folder, relative to the artifact root."""
    run_ids: Mapped[list[Any]]
    """The replicas, in order."""
    created_at: Mapped[float]


class Checkpoint(Base):
    """One run's weights and bundle at a step."""

    __tablename__ = "checkpoints"
    __table_args__ = (UniqueConstraint("run_id", "kind", "env_steps"),)

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"))
    attempt: Mapped[int]
    env_steps: Mapped[int]
    kind: Mapped[str]
    return_mean: Mapped[float | None]
    path: Mapped[str]
    files: Mapped[list[Any]]
    """``{name, bytes, sha256}`` per file; downloads look names up here."""
    created_at: Mapped[float]


class MetricChunk(Base):
    """Consecutive points of one series: little-endian int64 steps, float64 values, float64 times."""

    __tablename__ = "metric_chunks"

    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True)
    key: Mapped[str] = mapped_column(String(200), primary_key=True)
    first_step: Mapped[int] = mapped_column(primary_key=True)
    last_step: Mapped[int]
    points: Mapped[int]
    steps: Mapped[bytes] = mapped_column(LargeBinary)
    values: Mapped[bytes] = mapped_column(LargeBinary)
    times: Mapped[bytes] = mapped_column(LargeBinary)


class MetricLatest(Base):
    """The newest point of a series; its ``last_step`` guards against writing a point twice."""

    __tablename__ = "metric_latest"

    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True)
    key: Mapped[str] = mapped_column(String(200), primary_key=True)
    last_step: Mapped[int]
    value: Mapped[float | None]
    time: Mapped[float]
    points: Mapped[int]
    tail: Mapped[int]
    """Points in chunks that are still to be merged; these are the newest of the series."""
    nonfinite: Mapped[int] = mapped_column(default=0)


class Event(Base):
    """History of a run, numbered per run: ``status``, ``checkpoint``, ``evaluation``."""

    __tablename__ = "events"

    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True)
    seq: Mapped[int] = mapped_column(primary_key=True)
    type: Mapped[str]
    env_steps: Mapped[int | None]
    """Set for events of training: those beyond the step a run goes on from are cut."""
    data: Mapped[dict[str, Any]]
    created_at: Mapped[float]


class LogLine(Base):
    """Output of a trainer, capped."""

    __tablename__ = "log_lines"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    attempt: Mapped[int] = mapped_column(primary_key=True)
    seq: Mapped[int] = mapped_column(primary_key=True)
    stream: Mapped[str]
    text: Mapped[str]
    created_at: Mapped[float]


class Worker(Base):
    """A worker process and its last heartbeat."""

    __tablename__ = "workers"

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    name: Mapped[str]
    queues: Mapped[list[Any]]
    devices: Mapped[list[Any]]
    """One entry per slot: ``cpu`` or ``cuda:N``."""
    busy: Mapped[int] = mapped_column(default=0)
    started_at: Mapped[float]
    heartbeat_at: Mapped[float]
    stopped_at: Mapped[float | None]


class IdempotencyKey(Base):
    """The answer given to a keyed request, kept for a day."""

    __tablename__ = "idempotency_keys"

    principal: Mapped[str] = mapped_column(String(100), primary_key=True)
    route: Mapped[str] = mapped_column(String(100), primary_key=True)
    key: Mapped[str] = mapped_column(String(255), primary_key=True)
    body_hash: Mapped[str]
    status: Mapped[int]
    location: Mapped[str | None]
    body: Mapped[dict[str, Any]]
    created_at: Mapped[float]
