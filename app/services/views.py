"""Rows of the database as the API's answers."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, overload

from app.db import models, states
from app.db.repositories.runs import Brief
from app.schemas import responses

_UNFINISHED = frozenset({"queued", "starting", "running", "pausing", "paused", "cancelling"})


@overload
def utc(seconds: float) -> datetime: ...
@overload
def utc(seconds: None) -> None: ...
def utc(seconds: float | None) -> datetime | None:
    """Epoch seconds as a UTC time."""
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


def experiment(row: models.Experiment, runs: Sequence[Brief]) -> responses.Experiment:
    """An experiment with its runs, in the order of its seeds."""
    return responses.Experiment.model_validate(
        {
            "id": row.id,
            "name": row.name,
            "status": experiment_status(run.status for run in runs),
            "spec": row.spec,
            "spec_hash": row.spec_hash,
            "runs": [{"id": run.id, "seed": run.seed, "status": run.status} for run in runs],
            "tags": row.tags,
            "created_at": utc(row.created_at),
        }
    )


def experiment_status(statuses: Iterable[str]) -> str:
    """An experiment's state, from those of its runs."""
    counts = Counter(statuses)
    if not counts.keys() & _UNFINISHED:
        if counts["failed"]:
            return "failed"
        return "succeeded" if counts["succeeded"] else "cancelled"
    return "queued" if counts.keys() <= {"queued"} else "running"


def run(row: models.Run, attempt: int, latest: Iterable[models.MetricLatest]) -> responses.Run:
    """A run. ``attempt`` is that of its job."""
    speed = row.env_steps_per_second if row.status in states.HELD else None
    left = max(0, row.total_env_steps - row.env_steps)
    return responses.Run.model_validate(
        {
            "id": row.id,
            "experiment_id": row.experiment_id,
            "seed": row.seed,
            "status": row.status,
            "desired": row.desired,
            "reason": reason(row.reason_code, row.reason_message),
            "progress": {
                "env_steps": row.env_steps,
                "total_env_steps": row.total_env_steps,
                "env_steps_per_second": row.env_steps_per_second,
                "eta_seconds": left / speed if speed else None,
            },
            "latest": {metric.key: {"step": metric.last_step, "value": metric.value} for metric in latest},
            "result": {
                "best_checkpoint_id": row.best_checkpoint_id,
                "best_return": row.best_return,
                "final_return": row.final_return,
            },
            "attempt": attempt,
            "worker": row.worker_id,
            "device": row.device,
            "created_at": utc(row.created_at),
            "started_at": utc(row.started_at),
            "finished_at": utc(row.finished_at),
        }
    )


def reason(code: str | None, message: str | None) -> Mapping[str, str] | None:
    """A reason, if there is one."""
    return None if code is None else {"code": code, "message": message or code}


def metric(row: models.MetricLatest) -> responses.Metric:
    """A series by its newest point."""
    latest = responses.TimedPoint(step=row.last_step, value=row.value, time=utc(row.time))
    return responses.Metric(key=row.key, points=row.points, nonfinite=row.nonfinite, latest=latest)


def event(row: models.Event) -> responses.Event:
    """An event of a run."""
    return responses.Event.model_validate(
        {"id": row.seq, "type": row.type, "data": row.data, "created_at": utc(row.created_at)}
    )


def log_line(row: models.LogLine) -> responses.LogLine:
    """A line of a run's log; attempts of a run never repeat, so the id is its own."""
    return responses.LogLine(
        id=f"{row.attempt}.{row.seq}",
        attempt=row.attempt,
        stream=row.stream,
        text=row.text,
        created_at=utc(row.created_at),
    )


def attempt(row: models.Attempt) -> responses.Attempt:
    """An attempt to train a run."""
    return responses.Attempt.model_validate(
        {
            "attempt": row.attempt,
            "job_id": row.job_id,
            "worker": row.worker_id,
            "device": row.device,
            "resumed_from_env_steps": row.resumed_from_env_steps,
            "facts": row.facts,
            "outcome": row.outcome,
            "reason": reason(row.code, row.message),
            "started_at": utc(row.started_at),
            "ended_at": utc(row.ended_at),
        }
    )


def checkpoint(row: models.Checkpoint) -> responses.Checkpoint:
    """A checkpoint and its manifest."""
    content: dict[str, Any] = {
        name: getattr(row, name) for name in ("id", "run_id", "attempt", "env_steps", "kind", "return_mean", "files")
    }
    return responses.Checkpoint.model_validate(content | {"created_at": utc(row.created_at)})


def worker(row: models.Worker, *, live: bool) -> responses.Worker:
    """A worker process."""
    return responses.Worker(
        id=row.id,
        name=row.name,
        status="stopped" if row.stopped_at is not None else "live" if live else "lost",
        queues=row.queues,
        devices=row.devices,
        busy=row.busy if live else 0,
        started_at=utc(row.started_at),
        heartbeat_at=utc(row.heartbeat_at),
        stopped_at=utc(row.stopped_at),
    )
