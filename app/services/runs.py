"""Runs: read, and acted on by their users."""

from collections.abc import Sequence
from itertools import groupby
from typing import Literal

from sqlalchemy.orm import Session

from app.db import models
from app.db.ids import new_id
from app.db.repositories import jobs, logs, metrics, runs
from app.errors import IllegalTransition, Invalid
from app.schemas import responses
from app.schemas.base import FieldError
from app.services import views
from app.services.lookup import by_id

Action = Literal["cancel", "kill", "pause", "resume"]

ALLOWED: dict[str, tuple[Action, ...]] = {
    "queued": ("cancel", "kill", "pause"),
    "starting": ("cancel", "kill", "pause"),
    "running": ("cancel", "kill", "pause"),
    "pausing": ("cancel", "kill", "pause"),
    "paused": ("cancel", "kill", "resume"),
    "cancelling": ("cancel", "kill"),
    "succeeded": (),
    "failed": (),
    "cancelled": (),
}
"""What users may do to a run in each state; asking again for what is under way changes nothing."""


def find(session: Session, run_id: str) -> models.Run:
    """The row of a run.

    Raises:
        NotFound
    """
    return by_id(lambda wanted: runs.get(session, wanted), "run", run_id)


def get(session: Session, run_id: str) -> responses.Run:
    """One run.

    Raises:
        NotFound
    """
    return _views(session, [find(session, run_id)])[0]


def list_page(
    session: Session,
    *,
    limit: int,
    after: str | None = None,
    experiment_id: str | None = None,
    status: str | None = None,
) -> responses.Page[responses.Run]:
    """Newest first."""
    page = runs.list_page(session, limit=limit, after=after, experiment_id=experiment_id, status=status)
    return responses.Page[responses.Run](data=_views(session, page.data), has_more=page.has_more)


def act(session: Session, run_id: str, action: Action) -> tuple[responses.Run, tuple[str, ...]]:
    """Do what a user asks; returns the run and the queue of the job made by resuming it.

    Raises:
        NotFound
        IllegalTransition: the run's state does not allow it.
    """
    row = find(session, run_id)
    queues = act_on_all(session, [row], action)
    row = find(session, run_id)
    if queues is None:
        raise IllegalTransition(run_id, action, row.status, ALLOWED[row.status])
    return _views(session, [row])[0], queues


def act_on_all(session: Session, rows: Sequence[models.Run], action: Action) -> tuple[str, ...] | None:
    """Do ``action`` to those runs of one experiment whose states allow it.

    Returns:
        The queue of every job made by it; None if no run's state allowed it.
    """
    rows = sorted(rows, key=lambda run: (run.job_id, run.position))  # the order in which everybody locks
    if action == "resume":
        return _resume(session, [run for run in rows if run.status == "paused"])
    able = [run for run in rows if action in ALLOWED[run.status]]
    done = [runs.request(session, run.id, action) for run in able]
    return () if any(done) else None


def _resume(session: Session, rows: Sequence[models.Run]) -> tuple[str, ...] | None:
    """Runs paused at the same state of the same job go on together, in a job of their own."""

    def origin(run: models.Run) -> tuple[str, str]:
        return run.job_id, run.resume_state_id or ""

    queues = []
    for (job_id, state_id), group in groupby(sorted(rows, key=origin), key=origin):
        before = jobs.lock(session, job_id)
        job = jobs.create(
            session,
            job_id=new_id("job"),
            experiment_id=before.experiment_id,
            queue=before.queue,
            device=before.device,
            priority=before.priority,
            resume_state_id=state_id or None,
            attempt=before.attempt,
        )
        resumed = [runs.resume(session, run.id, job.id) for run in group]
        if any(resumed):
            queues.append(job.queue)
        else:
            runs.end_job_if_idle(session, job.id)
    return tuple(queues) or None


def events(session: Session, run_id: str, *, after: int, limit: int) -> responses.Page[responses.Event]:
    """History of a run, oldest first.

    Raises:
        NotFound
    """
    find(session, run_id)
    rows = runs.events(session, run_id, after, limit + 1)
    data = [views.event(row) for row in rows[:limit]]
    return responses.Page[responses.Event](data=data, has_more=len(rows) > limit)


def log_lines(session: Session, run_id: str, *, after: str | None, limit: int) -> responses.Page[responses.LogLine]:
    """A run's log, oldest first.

    Raises:
        NotFound
        Invalid: ``after`` is not the id of a line.
    """
    find(session, run_id)
    rows = logs.page(session, run_id, _log_cursor(after), limit + 1)
    data = [views.log_line(row) for row in rows[:limit]]
    return responses.Page[responses.LogLine](data=data, has_more=len(rows) > limit)


def attempts(session: Session, run_id: str) -> responses.Page[responses.Attempt]:
    """The attempts to train a run, oldest first.

    Raises:
        NotFound
    """
    find(session, run_id)
    return responses.Page[responses.Attempt](data=[views.attempt(row) for row in runs.attempts(session, run_id)])


def _log_cursor(after: str | None) -> logs.Cursor:
    if after is None:
        return logs.Cursor()
    attempt, _, seq = after.partition(".")
    if not all(part.isascii() and part.isdigit() and len(part) <= 18 for part in (attempt, seq)):
        raise Invalid.fields([FieldError("/after", "not the id of a log line")])
    return logs.Cursor(int(attempt), int(seq))


def _views(session: Session, rows: Sequence[models.Run]) -> list[responses.Run]:
    attempts_of = runs.attempt_numbers(session, [run.job_id for run in rows])
    latest_of = metrics.latest_of(session, [run.id for run in rows])
    return [views.run(run, attempts_of[run.job_id], latest_of.get(run.id, ())) for run in rows]
