"""What a trainer writes. Every function takes job and attempt, and first locks the job's row under the fence."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from statistics import fmean, pstdev
from typing import Any

from sqlalchemy import BigInteger, Double, bindparam, delete, func, select, update
from sqlalchemy.orm import Session

from app.db import states
from app.db.clock import now
from app.db.ids import new_id
from app.db.models import Attempt, Checkpoint, Event, Job, Run
from app.db.repositories import jobs, metrics, resume_states, runs
from app.db.repositories.metrics import Points
from app.db.repositories.runs import Reason

_runs = Run.metadata.tables["runs"]


class StaleAttempt(Exception):
    """The attempt no longer holds its job: stop, nothing was written."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A row that was written, and the folders no row names any more: the writer removes them after the commit."""

    id: str
    obsolete: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class StateFolder:
    """A resume state on disk: where, at which step, and its replicas in order."""

    path: str
    env_steps: int
    run_ids: tuple[str, ...]


def fence(session: Session, job_id: str, attempt: int) -> Job:
    """Lock the job for this transaction, if the attempt still holds it.

    Raises:
        StaleAttempt: it does not.
    """
    job = session.scalar(jobs.locked(select(Job).where(*jobs.holding(job_id, attempt))))
    if job is None:
        raise StaleAttempt(f"attempt {attempt} no longer holds {job_id}")
    return job


def begin(
    session: Session,
    *,
    job_id: str,
    attempt: int,
    env_steps: int,
    device: str,
    facts: Mapping[str, Any],
    earlier: StateFolder | None = None,
    damage: str = "",
) -> tuple[str, ...]:
    """The trainer has loaded its state at ``env_steps`` and trains from here: starting -> running.

    Whatever its runs have beyond that step (points, evaluations, checkpoints) is cut, and what is derived from it is
    computed anew.

    Args:
        earlier: the state it loaded because the job's could not be used; the job goes on from this one from now on.
        damage: why, in words: the reason of the runs' new status.

    Returns:
        The folders no row names any more.
    """
    job = fence(session, job_id, attempt)
    reason = Reason("earlier_state", f"{damage}; goes on from env step {env_steps}") if earlier else None
    for run in runs.active(session, job_id):
        _cut(session, run.id, env_steps)
        _set(session, run.id, env_steps=env_steps, env_steps_per_second=None, device=device)
        runs.transition(session, run.id, "running", reason=reason, allowed_from={"starting"})
    obsolete: tuple[str, ...] = ()
    if earlier is not None:
        state_id = resume_states.put(
            session,
            job_id=job_id,
            attempt=attempt,
            env_steps=earlier.env_steps,
            path=earlier.path,
            run_ids=earlier.run_ids,
        )
        _set_job(session, job_id, resume_state_id=state_id)
        obsolete = resume_states.drop_unused(session, job.experiment_id)
    resumed = earlier is not None or job.resume_state_id is not None
    session.execute(
        update(Attempt)
        .where(Attempt.job_id == job_id, Attempt.attempt == attempt)
        .values(device=device, resumed_from_env_steps=env_steps if resumed else None, facts=dict(facts)),
        execution_options={"synchronize_session": False},
    )
    return obsolete


def append_metrics(
    session: Session,
    *,
    job_id: str,
    attempt: int,
    points: Mapping[str, Mapping[str, Points]],
    progress: Mapping[str, tuple[int, float | None]],
) -> int:
    """One flush: run id -> key -> points, and run id -> (env steps, env steps per second).

    Returns:
        The number of points refused because the series already has them (see ``metrics.append``).
    """
    fence(session, job_id, attempt)
    touched = sorted(points.keys() | progress.keys())
    if not touched:
        return 0
    refused = metrics.append(session, points)
    flushed = (
        update(_runs)
        .where(_runs.c.id == bindparam("b_id"), _runs.c.job_id == job_id)
        .values(
            metrics_version=_runs.c.metrics_version + 1,
            env_steps=func.coalesce(bindparam("b_steps", type_=BigInteger), _runs.c.env_steps),
            env_steps_per_second=func.coalesce(bindparam("b_rate", type_=Double), _runs.c.env_steps_per_second),
        )
    )
    rows = []
    for run_id in touched:
        steps, rate = progress.get(run_id, (None, None))
        rows.append({"b_id": run_id, "b_steps": steps, "b_rate": rate})
    if session.connection().execute(flushed, rows).rowcount != len(rows):
        raise StaleAttempt(f"attempt {attempt} of {job_id} no longer holds all of {', '.join(touched)}")
    return refused


def add_evaluation(
    session: Session,
    *,
    job_id: str,
    attempt: int,
    run_id: str,
    env_steps: int,
    returns: Sequence[float],
    lengths: Sequence[int],
) -> None:
    """Write the ``evaluation`` event of one run; once per step, also when the flush is repeated."""
    fence(session, job_id, attempt)
    there = select(Event.seq).where(Event.run_id == run_id, Event.type == "evaluation", Event.env_steps == env_steps)
    if session.scalar(there.limit(1)) is not None:
        return
    data = {
        "env_steps": env_steps,
        "episodes": len(returns),
        "return_mean": _finite(fmean(returns)) if returns else None,
        "return_std": _finite(pstdev(returns)) if returns and all(map(isfinite, returns)) else None,
        "returns": [_finite(value) for value in returns],
        "lengths": [int(length) for length in lengths],
    }
    runs.append_event(session, run_id, "evaluation", data, env_steps=env_steps)


def add_checkpoint(
    session: Session,
    *,
    job_id: str,
    attempt: int,
    run_id: str,
    env_steps: int,
    kind: str,
    return_mean: float | None,
    path: str,
    files: Sequence[Mapping[str, Any]],
    keep: int,
) -> Stored:
    """Store a checkpoint whose files are in place, and apply the retention rule: ``keep`` scheduled ones and the best.

    Of either kind the newest at or before the job's resume state stays too, since a crash cuts those after it. A
    checkpoint that is there already, because the flush is repeated, is left as it is.

    Args:
        kind: ``scheduled``, ``best`` or ``final``.
        files: ``{name, bytes, sha256}`` per file.
    """
    job = fence(session, job_id, attempt)
    same = select(Checkpoint).where(
        Checkpoint.run_id == run_id, Checkpoint.kind == kind, Checkpoint.env_steps == env_steps
    )
    found = session.scalar(same)
    if found is not None:
        return Stored(found.id, ())
    return_mean = None if return_mean is None else _finite(return_mean)
    checkpoint = Checkpoint(
        id=new_id("ckpt"),
        run_id=run_id,
        attempt=attempt,
        env_steps=env_steps,
        kind=kind,
        return_mean=return_mean,
        path=path,
        files=[dict(file) for file in files],
        created_at=now(),
    )
    session.add(checkpoint)
    session.flush()
    if kind == "best":
        _set(session, run_id, best_checkpoint_id=checkpoint.id, best_return=return_mean)
    data = {"id": checkpoint.id, "env_steps": env_steps, "kind": kind, "return_mean": return_mean}
    runs.append_event(session, run_id, "checkpoint", data, env_steps=env_steps)
    state = resume_states.get(session, job.resume_state_id)
    limit = {"scheduled": keep, "best": 1}.get(kind)
    obsolete = () if limit is None else _retain(session, run_id, kind, limit, state.env_steps if state else None)
    return Stored(checkpoint.id, obsolete)


def publish(
    session: Session, *, job_id: str, attempt: int, env_steps: int, path: str, run_ids: Sequence[str]
) -> Stored:
    """Make the state in ``path`` the one the job goes on from, in the transaction with every metric up to its step.

    A later state than the one before proves progress: failures are counted from zero again.
    """
    job = fence(session, job_id, attempt)
    before = resume_states.get(session, job.resume_state_id)
    state_id = resume_states.put(
        session, job_id=job_id, attempt=attempt, env_steps=env_steps, path=path, run_ids=run_ids
    )
    progressed = env_steps > (before.env_steps if before else 0)
    _set_job(session, job_id, resume_state_id=state_id, failures=0 if progressed else job.failures)
    obsolete = resume_states.drop_unused(session, job.experiment_id)
    for run_id in _with_several_best(session, run_ids):
        obsolete += _retain(session, run_id, "best", 1, env_steps)
    return Stored(state_id, obsolete)


def finish(
    session: Session,
    *,
    job_id: str,
    attempt: int,
    run_id: str,
    outcome: str,
    final_return: float | None = None,
    reason: Reason | None = None,
    resume_state: StateFolder | None = None,
    keep: int | None = None,
) -> tuple[str, ...]:
    """Bring a run to its end: ``succeeded``, ``failed``, ``cancelled``, or ``paused`` with the state to go on from.

    A run that its user wants cancelled or killed by now is not paused but cancelled, for that reason. The job and its
    attempt end with the last active run.

    Args:
        keep: scheduled checkpoints to keep; None keeps all there are.

    Returns:
        The folders no row names any more.
    """
    job = fence(session, job_id, attempt)
    run = session.get(Run, run_id, populate_existing=True, with_for_update={"key_share": True})
    if run is None or run.job_id != job_id:
        raise StaleAttempt(f"{run_id} is no run of {job_id}")
    if outcome in ("paused", "cancelled") and run.desired in runs.STOPPED:
        outcome, reason = "cancelled", runs.STOPPED[run.desired]
    values: dict[str, Any] = {}
    if final_return is not None:
        values["final_return"] = _finite(final_return)
    if outcome == "paused" and resume_state is not None:
        values["resume_state_id"] = resume_states.put(
            session,
            job_id=job_id,
            attempt=attempt,
            env_steps=resume_state.env_steps,
            path=resume_state.path,
            run_ids=resume_state.run_ids,
        )
        values["env_steps"] = resume_state.env_steps
    changed = runs.transition(session, run_id, outcome, reason=reason, allowed_from=states.HELD, **values)
    if not changed and run.status != outcome:
        raise StaleAttempt(f"{run_id} is {run.status} and cannot become {outcome}")
    obsolete: tuple[str, ...] = ()
    if outcome in states.TERMINAL:
        obsolete += _retain(session, run_id, "best", 1, None)
        obsolete += () if keep is None else _retain(session, run_id, "scheduled", keep, None)
    if runs.end_job_if_idle(session, job_id):
        jobs.end_attempt(session, job_id, attempt, "done")
        obsolete += resume_states.drop_unused(session, job.experiment_id)
    return obsolete


def _cut(session: Session, run_id: str, env_steps: int) -> None:
    metrics.cut(session, run_id, env_steps)
    session.execute(delete(Event).where(Event.run_id == run_id, Event.env_steps > env_steps))
    session.execute(delete(Checkpoint).where(Checkpoint.run_id == run_id, Checkpoint.env_steps > env_steps))
    query = select(Checkpoint).where(Checkpoint.run_id == run_id, Checkpoint.kind == "best")
    best = session.scalar(query.order_by(Checkpoint.env_steps.desc()).limit(1))
    _set(
        session,
        run_id,
        best_checkpoint_id=best.id if best else None,
        best_return=best.return_mean if best else None,
        metrics_version=Run.metrics_version + 1,
    )


def _with_several_best(session: Session, run_ids: Sequence[str]) -> Sequence[str]:
    best = select(Checkpoint.run_id).where(Checkpoint.run_id.in_(run_ids), Checkpoint.kind == "best")
    return session.scalars(best.group_by(Checkpoint.run_id).having(func.count() > 1)).all()


def _retain(session: Session, run_id: str, kind: str, limit: int, safe_step: int | None) -> tuple[str, ...]:
    """Drop all but the ``limit`` newest checkpoints of a kind and the newest at or before ``safe_step``."""
    query = select(Checkpoint).where(Checkpoint.run_id == run_id).order_by(Checkpoint.env_steps.desc())
    every = session.scalars(query).all()
    same = [checkpoint for checkpoint in every if checkpoint.kind == kind]
    safe = [checkpoint for checkpoint in same if safe_step is not None and checkpoint.env_steps <= safe_step]
    kept = {checkpoint.id for checkpoint in same[:limit] + safe[:1]}
    dropped = [checkpoint for checkpoint in same if checkpoint.id not in kept]
    if not dropped:
        return ()
    session.execute(
        delete(Checkpoint).where(Checkpoint.id.in_([checkpoint.id for checkpoint in dropped])),
        execution_options={"synchronize_session": False},
    )
    named = {checkpoint.path for checkpoint in every if checkpoint not in dropped}
    return tuple(sorted({checkpoint.path for checkpoint in dropped} - named))


def _set(session: Session, run_id: str, **values: Any) -> None:
    session.execute(
        update(Run).where(Run.id == run_id).values(**values), execution_options={"synchronize_session": False}
    )


def _set_job(session: Session, job_id: str, **values: Any) -> None:
    session.execute(
        update(Job).where(Job.id == job_id).values(**values), execution_options={"synchronize_session": False}
    )


def _finite(value: float) -> float | None:
    return float(value) if isfinite(value) else None
