"""Jobs: queue, claim, lease, and how an attempt ends.

A job's ``attempt`` is its fencing token: it grows at every claim, and whatever an attempt writes is refused once the
job is leased under another one, or under none. Rows are locked in the order job, runs by position.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, CompoundSelect, Select, case, exists, func, insert, or_, select, union, update
from sqlalchemy.orm import Session

from app.db import states
from app.db.clock import now
from app.db.models import Attempt, Experiment, Job, ResumeState, Run, RunAttempt
from app.db.repositories import runs
from app.db.repositories.runs import Reason

MAX_FAILURES = 3
"""Lost workers and crashes since the last new resume state, at which a job is given up."""
MAX_TOTAL_FAILURES = 20

LOST = Reason("worker_lost", "the worker stopped renewing its lease")


@dataclass(frozen=True, slots=True)
class ResumePointer:
    """A resume state: where it lies (relative to the artifact root), its step, and its replicas in order."""

    id: str
    path: str
    env_steps: int
    run_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Claim:
    """A job won: what to train, under which attempt, from where."""

    job_id: str
    attempt: int
    experiment_id: str
    spec: dict[str, Any]
    spec_hash: str
    runs: tuple[tuple[str, int], ...]
    """(run id, seed) of the active runs, in position order."""
    resume: ResumePointer | None


def create(
    session: Session,
    *,
    job_id: str,
    experiment_id: str,
    queue: str,
    device: str,
    priority: int = 0,
    resume_state_id: str | None = None,
    attempt: int = 0,
) -> Job:
    """A queued job.

    Args:
        attempt: the last one of the job its runs come from, so that a run's attempts keep growing.
    """
    job = Job(
        id=job_id,
        experiment_id=experiment_id,
        queue=queue,
        device=device,
        priority=priority,
        resume_state_id=resume_state_id,
        attempt=attempt,
        created_at=now(),
    )
    session.add(job)
    session.flush()
    return job


def lock(session: Session, job_id: str) -> Job:
    """The job, locked until the transaction ends."""
    return session.scalars(locked(select(Job).where(Job.id == job_id))).one()


def claim(
    session: Session,
    *,
    worker_id: str,
    queues: Sequence[str],
    devices: Sequence[str],
    lease_seconds: float,
    excluding: Collection[str] = (),
) -> Claim | None:
    """Win the best queued job (priority, then age), or None. Of concurrent claimers exactly one wins a job.

    Runs go from queued to starting; those whose users want them stopped are settled instead.

    Args:
        devices: the values of ``Job.device`` that this slot can take (see ``workers.takes``).
        excluding: jobs whose trainers still run on this worker, their leases lost.
    """
    while job := _take(session, worker_id, queues, devices, lease_seconds, excluding):
        started = [run for run in runs.active(session, job.id) if _start(session, run, worker_id)]
        if started:
            return _record(session, job, started)
        runs.end_job_if_idle(session, job.id)
    return None


def renew(session: Session, *, job_id: str, attempt: int, lease_seconds: float) -> bool:
    """Extend the lease, also one that has just expired; False: the job has been taken away, stop.

    A job that has ended under this attempt was not taken away; it has no lease any more.
    """
    until = case((Job.status == "leased", now() + lease_seconds), else_=None)
    renewed = (
        update(Job)
        .where(*_not_taken(job_id, attempt))
        .values(lease_seconds=lease_seconds, lease_expires_at=until)
        .returning(Job.id)
    )
    return session.scalar(renewed, execution_options={"synchronize_session": False}) is not None


def desires(session: Session, *, job_id: str, attempt: int) -> dict[str, str] | None:
    """What users want of the job's active runs, where that is not "run"; None: the job has been taken away, stop."""
    if session.scalar(select(Job.id).where(*_not_taken(job_id, attempt))) is None:
        return None
    query = select(Run.id, Run.desired).where(Run.job_id == job_id, Run.status.in_(states.ACTIVE), Run.desired != "run")
    return dict(session.execute(query).all())


def release(
    session: Session,
    *,
    job_id: str,
    attempt: int,
    outcome: str,
    code: str | None = None,
    message: str | None = None,
    retryable: bool = True,
) -> None:
    """Record how a trainer ended. Does nothing when the attempt is stale.

    Args:
        outcome: ``done``, ``preempted`` (goes back to the queue and counts as no failure), ``killed`` or ``crashed``.
        retryable: False fails the active runs at once.
    """
    job = session.scalar(locked(select(Job).where(*_not_taken(job_id, attempt))))
    if job is None:
        return
    active = runs.active(session, job_id)
    if not active:
        end_attempt(session, job_id, attempt, outcome, code, message)
        runs.end_job_if_idle(session, job_id)
    elif outcome == "preempted":
        end_attempt(session, job_id, attempt, outcome, code, message)
        _requeue(session, job, active, Reason("preempted", message or "its worker shut down; waits for another one"))
    elif outcome == "done":
        reason = Reason("unfinished", "the trainer ended without finishing this run")
        end_attempt(session, job_id, attempt, "crashed", reason.code, reason.message)
        _count_failure(session, job, active, reason, retryable=True)
    else:
        end_attempt(session, job_id, attempt, outcome, code, message)
        reason = Reason(code or "crashed", message or "the trainer crashed")
        _count_failure(session, job, active, reason, retryable=retryable)


def expire(session: Session) -> int:
    """Take the jobs back whose leases ran out: a lost worker each. Returns how many there were.

    A lease that ends further ahead than twice its length was given before the clock jumped, and counts as expired.
    """
    expired = select(Job).where(Job.status == "leased", _expired()).order_by(Job.id)
    jobs = session.scalars(locked(expired, skip=True)).all()
    for job in jobs:
        end_attempt(session, job.id, job.attempt, "lost", LOST.code, LOST.message)
        _count_failure(session, job, runs.active(session, job.id), LOST, retryable=True)
    return len(jobs)


def settle(session: Session) -> int:
    """Finish what a dead process may have left half done. Returns how many jobs were touched.

    Runs that are held although their job is not leased go where their users want them; jobs without active runs end.
    """
    unsettled = select(Job).where(Job.id.in_(_unsettled())).order_by(Job.id)
    jobs = session.scalars(locked(unsettled, skip=True)).all()
    for job in jobs:
        for run in runs.active(session, job.id):
            if job.status == "ended" or run.status in states.HELD:
                runs.settle(session, run, reason=LOST, failed=job.status == "ended")
        runs.end_job_if_idle(session, job.id)
    return len(jobs)


def end_attempt(
    session: Session, job_id: str, attempt: int, outcome: str, code: str | None = None, message: str | None = None
) -> None:
    """Record how an attempt ended, unless that has been done."""
    session.execute(
        update(Attempt)
        .where(Attempt.job_id == job_id, Attempt.attempt == attempt, Attempt.ended_at.is_(None))
        .values(outcome=outcome, code=code, message=message, ended_at=now()),
        execution_options={"synchronize_session": False},
    )


def needs_sweep(session: Session) -> bool:
    """Whether ``expire`` or ``settle`` would find anything: a read, so that idle sweepers don't write."""
    leases = select(Job.id).where(Job.status == "leased", _expired()).exists()
    return bool(session.scalar(select(or_(leases, _unsettled().exists()))))


def queued_queues(session: Session) -> list[str]:
    """The queues in which jobs wait."""
    return list(session.scalars(select(Job.queue).where(Job.status == "queued").distinct().order_by(Job.queue)))


def waiting(session: Session, code: str) -> list[tuple[str, str, int, int]]:
    """(queue, device, queued runs, those among them whose reason is ``code``) of the queued jobs."""
    explained = func.count().filter(Run.reason_code == code)
    query = (
        select(Job.queue, Job.device, func.count(), explained)
        .join(Run, Run.job_id == Job.id)
        .where(Job.status == "queued", Run.status == "queued")
        .group_by(Job.queue, Job.device)
        .order_by(Job.queue, Job.device)
    )
    return [(queue, device, runs_, told) for queue, device, runs_, told in session.execute(query)]


def holding(job_id: str, attempt: int) -> tuple[ColumnElement[bool], ...]:
    """The fence: true of the job's row while ``attempt`` holds it, whether or not its lease has expired."""
    return Job.id == job_id, Job.attempt == attempt, Job.status == "leased"


def locked(query: Select[Job], *, skip: bool = False) -> Select[Job]:
    """Lock the jobs' rows until the transaction ends, reading them anew; ``skip`` passes over rows locked by others."""
    query = query.with_for_update(skip_locked=skip, key_share=True)
    return query.execution_options(populate_existing=True)


def _not_taken(job_id: str, attempt: int) -> tuple[ColumnElement[bool], ...]:
    """True of the job's row while ``attempt`` holds it, and once it has ended under it."""
    return Job.id == job_id, Job.attempt == attempt, Job.status != "queued"


def _take(
    session: Session,
    worker_id: str,
    queues: Sequence[str],
    devices: Sequence[str],
    lease_seconds: float,
    excluding: Collection[str],
) -> Job | None:
    claimable = (
        Job.status == "queued",
        Job.queue.in_(queues),
        Job.device.in_(devices),
        Job.id.not_in(excluding),
    )
    best = (
        select(Job.id)
        .where(*claimable)
        .order_by(Job.priority.desc(), Job.created_at, Job.id)
        .limit(1)
        .with_for_update(skip_locked=True, key_share=True)
        .scalar_subquery()
    )
    taken = (
        update(Job)
        .where(Job.id == best, *claimable)
        .values(
            status="leased",
            attempt=Job.attempt + 1,
            worker_id=worker_id,
            lease_seconds=lease_seconds,
            lease_expires_at=now() + lease_seconds,
        )
        .returning(Job)
    )
    return session.scalar(taken, execution_options={"synchronize_session": False, "populate_existing": True})


def _start(session: Session, run: Run, worker_id: str) -> bool:
    if run.desired == "run" and run.status == "queued":
        return runs.transition(session, run.id, "starting", worker_id=worker_id)
    runs.settle(session, run, reason=None)
    return False


def _record(session: Session, job: Job, started: Sequence[Run]) -> Claim:
    session.execute(
        insert(Attempt).values(
            job_id=job.id,
            attempt=job.attempt,
            worker_id=job.worker_id,
            device=job.device,
            facts={},
            started_at=now(),
        )
    )
    rows = [{"run_id": run.id, "job_id": job.id, "attempt": job.attempt} for run in started]
    session.execute(insert(RunAttempt), rows)
    experiment = session.get_one(Experiment, job.experiment_id)
    state = session.get(ResumeState, job.resume_state_id) if job.resume_state_id else None
    return Claim(
        job_id=job.id,
        attempt=job.attempt,
        experiment_id=job.experiment_id,
        spec=experiment.spec,
        spec_hash=experiment.spec_hash,
        runs=tuple((run.id, run.seed) for run in started),
        resume=ResumePointer(state.id, state.path, state.env_steps, tuple(state.run_ids)) if state else None,
    )


def _count_failure(session: Session, job: Job, active: Sequence[Run], reason: Reason, *, retryable: bool) -> None:
    failures, total = job.failures + 1, job.total_failures + 1
    _set(session, job, failures=failures, total_failures=total)
    final: Reason | None = None if retryable else reason
    if failures >= MAX_FAILURES:
        final = Reason(reason.code, f"{reason.message} (given up: {failures} failures since the last checkpoint)")
    elif total >= MAX_TOTAL_FAILURES:
        final = Reason(reason.code, f"{reason.message} (given up: {total} failures in all)")
    if final is None:
        _requeue(session, job, active, Reason("retrying", f"{reason.message}; goes on from its last checkpoint"))
        return
    for run in active:
        runs.settle(session, run, reason=final, failed=True)
    runs.end_job_if_idle(session, job.id)


def _requeue(session: Session, job: Job, active: Sequence[Run], reason: Reason) -> None:
    _set(session, job, status="queued", worker_id=None, lease_seconds=None, lease_expires_at=None)
    for run in active:
        runs.settle(session, run, reason=reason)
    runs.end_job_if_idle(session, job.id)


def _expired() -> ColumnElement[bool]:
    return or_(Job.lease_expires_at < now(), Job.lease_expires_at > now() + 2 * Job.lease_seconds)


def _unsettled() -> CompoundSelect[str]:
    """Ids of queued jobs with a run that is held, or with none to execute, and of ended ones with a run to execute."""

    def has_run(statuses: Collection[str]) -> ColumnElement[bool]:
        return exists().where(Run.job_id == Job.id, Run.status.in_(statuses))

    queued = select(Job.id).where(Job.status == "queued", has_run(states.HELD) | ~has_run(states.ACTIVE))
    has_ended = exists().where(Job.id == Run.job_id, Job.status == "ended")
    ended = select(Run.job_id).where(Run.status.in_(states.ACTIVE), has_ended)
    return union(queued, ended)


def _set(session: Session, job: Job, **values: Any) -> None:
    session.execute(
        update(Job).where(Job.id == job.id).values(**values), execution_options={"synchronize_session": False}
    )
