"""Runs: what users watch and act on. Every change of status goes through the one table of transitions."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, func, insert, select, update
from sqlalchemy.orm import Session

from app.db import states
from app.db.clock import now
from app.db.models import Attempt, Event, Job, ResumeState, Run, RunAttempt
from app.db.page import Page, newest_first


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a run is in its state: a code for programs, a sentence for people."""

    code: str
    message: str


KILLED = Reason("killed", "killed on request")
STOPPED = {"cancel": Reason("cancelled", "cancelled on request"), "kill": KILLED}
"""Why a run was cancelled, by what its user desired."""


@dataclass(frozen=True, slots=True)
class NewRun:
    """A run to be created; ``position`` is its index among the experiment's runs."""

    id: str
    job_id: str
    position: int
    seed: int


def create(session: Session, *, experiment_id: str, total_env_steps: int, runs: Sequence[NewRun]) -> None:
    """Queued runs of an experiment, each with its first event."""
    rows = [{"id": run.id, "job_id": run.job_id, "position": run.position, "seed": run.seed} for run in runs]
    common = {"experiment_id": experiment_id, "total_env_steps": total_env_steps, "event_seq": 1, "created_at": now()}
    session.execute(insert(Run).values(**common), rows)
    first = {"seq": 1, "type": "status", "data": _status_data("queued", None), "created_at": now()}
    session.execute(insert(Event).values(**first), [{"run_id": run.id} for run in runs])


def get(session: Session, run_id: str) -> Run | None:
    """The run as it is now in the database, also when the session has seen it before."""
    return session.get(Run, run_id, populate_existing=True)


def get_all(session: Session, run_ids: Collection[str]) -> list[Run]:
    """The runs with these ids, in no order."""
    return list(session.scalars(select(Run).where(Run.id.in_(run_ids))))


def list_page(
    session: Session,
    *,
    limit: int,
    after: str | None = None,
    experiment_id: str | None = None,
    status: str | None = None,
) -> Page[Run]:
    """Newest first."""
    query = select(Run)
    if experiment_id is not None:
        query = query.where(Run.experiment_id == experiment_id)
    if status is not None:
        query = query.where(Run.status == status)
    return newest_first(session, query, Run.id, limit=limit, after=after)


def of_experiments(session: Session, experiment_ids: Sequence[str]) -> list[Run]:
    """All runs of some experiments, by experiment and position."""
    query = select(Run).where(Run.experiment_id.in_(experiment_ids)).order_by(Run.experiment_id, Run.position)
    return list(session.scalars(query))


class Brief(NamedTuple):
    """What an experiment shows of a run."""

    experiment_id: str
    id: str
    seed: int
    status: str


def briefs(session: Session, experiment_ids: Sequence[str]) -> list[Brief]:
    """All runs of some experiments in brief, by experiment and position."""
    query = (
        select(Run.experiment_id, Run.id, Run.seed, Run.status)
        .where(Run.experiment_id.in_(experiment_ids))
        .order_by(Run.experiment_id, Run.position)
    )
    return [Brief(*row) for row in session.execute(query)]


def active(session: Session, job_id: str) -> list[Run]:
    """The runs a job still has to execute, in position order, locked until the transaction ends."""
    query = (
        select(Run)
        .where(Run.job_id == job_id, Run.status.in_(states.ACTIVE))
        .order_by(Run.position)
        .with_for_update(key_share=True)
        .execution_options(populate_existing=True)
    )
    return list(session.scalars(query))


def active_ids(session: Session, job_id: str) -> set[str]:
    """The runs a job still has to execute, as they are just now: nothing is locked."""
    return set(session.scalars(select(Run.id).where(Run.job_id == job_id, Run.status.in_(states.ACTIVE))))


def transition(
    session: Session,
    run_id: str,
    target: str,
    *,
    reason: Reason | None = None,
    allowed_from: Collection[str] | None = None,
    **values: Any,
) -> bool:
    """Move a run to ``target`` if the table of transitions allows it, and write the ``status`` event.

    Args:
        reason: replaces the run's reason; None clears it.
        allowed_from: narrows the states the run may come from.
        values: further columns to set.

    Returns:
        False when the run is in no state from which ``target`` may be reached; nothing was changed.
    """
    allowed = states.sources(target)
    if allowed_from is not None:
        allowed &= frozenset(allowed_from)
    values |= {
        "status": target,
        "reason_code": reason.code if reason else None,
        "reason_message": reason.message if reason else None,
        "event_seq": Run.event_seq + 1,
    }
    if target == "running":
        values["started_at"] = func.coalesce(Run.started_at, now())
    if target in states.TERMINAL:
        values["finished_at"] = now()
    changed = update(Run).where(Run.id == run_id, Run.status.in_(allowed)).values(**values)
    seq = session.scalar(changed.returning(Run.event_seq), execution_options={"synchronize_session": False})
    if seq is None:
        return False
    _insert_event(session, run_id, seq, "status", _status_data(target, reason))
    return True


def explain_queued(session: Session, *, queue: str, device: str, reason: Reason) -> None:
    """Say why the queued runs of a queue and device wait."""
    _explain(session, queue, device, Run.reason_code.is_distinct_from(reason.code), reason)


def clear_queued(session: Session, *, queue: str, device: str, code: str) -> None:
    """Take a reason for waiting back."""
    _explain(session, queue, device, Run.reason_code == code, None)


def append_event(
    session: Session, run_id: str, kind: str, data: Mapping[str, Any], *, env_steps: int | None = None
) -> int:
    """Write an event; its number is taken in this transaction, so no event appears behind one with a higher number.

    Raises:
        LookupError: there is no such run.
    """
    raised = update(Run).where(Run.id == run_id).values(event_seq=Run.event_seq + 1).returning(Run.event_seq)
    seq = session.scalar(raised, execution_options={"synchronize_session": False})
    if seq is None:
        raise LookupError(run_id)
    _insert_event(session, run_id, seq, kind, data, env_steps)
    return seq


def events(session: Session, run_id: str, after: int = 0, limit: int = 100) -> list[Event]:
    """Events with a number greater than ``after``, oldest first."""
    query = select(Event).where(Event.run_id == run_id, Event.seq > after).order_by(Event.seq).limit(limit)
    return list(session.scalars(query))


def versions(session: Session, run_ids: Collection[str]) -> dict[str, tuple[int, int, str]]:
    """run id -> (newest event, metrics version, status): what streams watch."""
    query = select(Run.id, Run.event_seq, Run.metrics_version, Run.status).where(Run.id.in_(run_ids))
    return {run_id: (event_seq, version, status) for run_id, event_seq, version, status in session.execute(query)}


def attempts(session: Session, run_id: str) -> list[Attempt]:
    """The attempts that trained a run, oldest first."""
    query = (
        select(Attempt)
        .join(RunAttempt, (RunAttempt.job_id == Attempt.job_id) & (RunAttempt.attempt == Attempt.attempt))
        .where(RunAttempt.run_id == run_id)
        .order_by(Attempt.attempt)
    )
    return list(session.scalars(query))


def attempt_numbers(session: Session, job_ids: Collection[str]) -> dict[str, int]:
    """job id -> its attempt."""
    query = select(Job.id, Job.attempt).where(Job.id.in_(job_ids))
    return dict(session.execute(query).all())


def request(session: Session, run_id: str, desired: str) -> bool:
    """What a user desires: ``cancel``, ``kill`` or ``pause``. Runs no trainer holds are changed at once.

    Asking again for what was asked before is allowed; kill outranks cancel, and both outrank pause.

    Returns:
        False when the run's state does not allow it (or there is no such run); nothing was changed.
    """
    run = _locked_with_job(session, run_id)
    if run is None:
        return False
    if run.status in ("queued", "paused"):
        return _at_once(session, run, desired)
    if desired == "pause":
        if run.status == "pausing":
            return True
        return transition(session, run_id, "pausing", allowed_from={"starting", "running"}, desired="pause")
    if run.status == "cancelling":
        _desire(session, run_id, "kill" if "kill" in (desired, run.desired) else "cancel")
        return True
    return transition(session, run_id, "cancelling", allowed_from=states.HELD, desired=desired)


def resume(session: Session, run_id: str, job_id: str) -> bool:
    """Put a paused run back into the queue, as a run of ``job_id``: a new job that was created for it.

    The caller holds the row of the job it leaves (``jobs.lock``).

    Returns:
        False when the run is not paused; nothing was changed.
    """
    return transition(
        session, run_id, "queued", allowed_from={"paused"}, desired="run", job_id=job_id, resume_state_id=None
    )


def settle(session: Session, run: Run, *, reason: Reason | None, failed: bool = False) -> None:
    """Bring an active run that no trainer holds any more to where its user wants it, else back to the queue.

    Args:
        reason: why it lost its trainer.
        failed: the run is not to be tried again.
    """
    if run.desired in STOPPED:
        transition(session, run.id, "cancelled", reason=STOPPED[run.desired])
    elif failed:
        transition(session, run.id, "failed", reason=reason)
    elif run.desired == "pause":
        transition(session, run.id, "paused", resume_state_id=resume_state_of(session, run))
    elif run.status != "queued":
        transition(session, run.id, "queued", reason=reason)


def resume_state_of(session: Session, run: Run) -> str | None:
    """The resume state of the run's job, if it holds this run."""
    query = select(ResumeState).join(Job, Job.resume_state_id == ResumeState.id).where(Job.id == run.job_id)
    state = session.scalar(query)
    return state.id if state is not None and run.id in state.run_ids else None


def end_job_if_idle(session: Session, job_id: str) -> bool:
    """End a job that has no active run left."""
    has_active = select(Run.id).where(Run.job_id == job_id, Run.status.in_(states.ACTIVE)).exists()
    ended = (
        update(Job)
        .where(Job.id == job_id, Job.status != "ended", ~has_active)
        .values(status="ended", ended_at=now(), lease_expires_at=None)
    )
    return session.scalar(ended.returning(Job.id), execution_options={"synchronize_session": False}) is not None


def _locked_with_job(session: Session, run_id: str) -> Run | None:
    """The run, with its job's row locked first: the order in which everybody locks."""
    own_job = select(Run.job_id).where(Run.id == run_id)
    job_id = session.scalar(own_job)
    while job_id is not None:
        session.execute(select(Job.id).where(Job.id == job_id).with_for_update(key_share=True))
        locked, job_id = job_id, session.scalar(own_job)
        if job_id == locked:  # resuming, which moves a run to another job, locks the one it leaves
            return session.get(Run, run_id, populate_existing=True, with_for_update={"key_share": True})
    return None


def _at_once(session: Session, run: Run, desired: str) -> bool:
    if desired == "pause":
        if run.status == "paused":
            return True
        changed = transition(session, run.id, "paused", desired="pause", resume_state_id=resume_state_of(session, run))
    else:
        changed = transition(
            session, run.id, "cancelled", reason=STOPPED[desired], desired=desired, resume_state_id=None
        )
    end_job_if_idle(session, run.job_id)
    return changed


def _desire(session: Session, run_id: str, desired: str) -> None:
    session.execute(
        update(Run).where(Run.id == run_id).values(desired=desired), execution_options={"synchronize_session": False}
    )


def _status_data(status: str, reason: Reason | None) -> dict[str, Any]:
    return {"status": status, "reason": {"code": reason.code, "message": reason.message} if reason else None}


def _explain(session: Session, queue: str, device: str, which: ColumnElement[bool], reason: Reason | None) -> None:
    """Set the reason of queued runs, passing over those that somebody is moving just now. Writes no event."""
    query = (
        select(Run.id)
        .join(Job, Job.id == Run.job_id)
        .where(Run.status == "queued", Job.status == "queued", Job.queue == queue, Job.device == device, which)
        .with_for_update(of=Run, skip_locked=True, key_share=True)
    )
    session.execute(
        update(Run)
        .where(Run.id.in_(session.scalars(query).all()))
        .values(reason_code=reason.code if reason else None, reason_message=reason.message if reason else None),
        execution_options={"synchronize_session": False},
    )


def _insert_event(
    session: Session, run_id: str, seq: int, kind: str, data: Mapping[str, Any], env_steps: int | None = None
) -> None:
    row = {"run_id": run_id, "seq": seq, "type": kind, "env_steps": env_steps, "data": dict(data)}
    session.execute(insert(Event).values(**row, created_at=now()))
