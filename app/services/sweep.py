"""The sweeper: brings back what dead processes left, rings again for queued jobs, clears away what nobody needs.

Runs in every API and worker process; each sweep may be repeated, interrupted, or made by several at once.
"""

import contextlib
import logging
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

from sqlalchemy.exc import OperationalError, SQLAlchemyError

from app.db.engine import Database
from app.db.repositories import folders, idempotency, jobs, resume_states, runs, workers
from app.db.repositories.runs import Reason

log = logging.getLogger(__name__)

GONE_SECONDS = 30.0
"""A worker not heard of for so long counts as gone."""
KEPT_SECONDS = 24 * 3600.0
"""Age at which idempotency keys, workers not heard of, and folders that no row names are removed."""
CLEAN_SECONDS = 3600.0
FIRST_CLEAN_SECONDS = 60.0
"""After the start: a service may run for a few minutes a day."""
GRACE_SECONDS = 10.0
"""After a sweep that failed or came late: others, too, may have been kept from renewing their leases."""
PROMPT_SECONDS = 1.0
"""Whoever waited longer for its turn to write expires nothing: those who renew their leases were waiting, too."""
LATE_SECONDS = 5.0
"""A sweep so much later than due says that this process, perhaps the whole machine, was frozen or asleep."""

NO_WORKER = "no_worker"


def sweep_once(
    database: Database,
    ring: Callable[[str], object] | None = None,
    queue_length: Callable[[str], int | None] | None = None,
    expire: bool = True,
) -> None:
    """Take expired leases back, settle what is half done, say which runs no worker can take, ring for queued jobs.

    Args:
        ring: sends a doorbell message to a queue.
        queue_length: messages waiting in a queue, None when the broker is away. Only empty queues are rung.
        expire: False leaves expired leases alone.
    """
    with database.reading() as session:
        needed = jobs.needs_sweep(session)
    if needed:
        asked = time.monotonic()
        with database.writing() as session:
            session.connection()  # begins the transaction
            expire = expire and time.monotonic() < asked + PROMPT_SECONDS
            expired, settled = jobs.expire(session) if expire else 0, jobs.settle(session)
        if expired or settled:
            log.warning("took %d expired leases back, settled %d jobs", expired, settled)
    _explain_waiting(database)
    if ring is None or queue_length is None:
        return
    with database.reading() as session:
        queues = jobs.queued_queues(session)
    for queue in queues:
        if queue_length(queue) == 0:
            ring(queue)


def clean(database: Database, artifacts_dir: Path | None, *, max_age: float = KEPT_SECONDS) -> None:
    """Remove old idempotency keys, workers long gone, states nothing goes on from, and old folders no row names."""
    with database.writing() as session:
        idempotency.purge(session, max_age)
        workers.purge(session, max_age)
        resume_states.drop_unused(session)
    if artifacts_dir is None:
        return
    old = _folders_older_than(artifacts_dir, time.time() - max_age)
    with database.reading() as session:
        unnamed = folders.unnamed(session, old)
    for path in unnamed:
        folder = artifacts_dir / path
        shutil.rmtree(folder, ignore_errors=True)
        with contextlib.suppress(OSError):  # the attempt's and the run's folder, if this was the last in them
            folder.parent.rmdir()
            folder.parent.parent.rmdir()


class Sweeper(threading.Thread):
    """Sweeps every ``interval`` seconds, cleans soon after the start and once an hour, until :meth:`stop`.

    Args:
        artifacts_dir: root of the artifacts; None when this process does not see them.
    """

    def __init__(
        self,
        database: Database,
        *,
        interval: float,
        ring: Callable[[str], object] | None = None,
        queue_length: Callable[[str], int | None] | None = None,
        artifacts_dir: Path | None = None,
    ) -> None:
        super().__init__(name="sweeper", daemon=True)
        self._database = database
        self._interval = interval
        self._ring = ring
        self._queue_length = queue_length
        self._artifacts_dir = artifacts_dir
        self._stopped = threading.Event()

    def run(self) -> None:
        clean_at = time.monotonic() + FIRST_CLEAN_SECONDS
        patient_until = 0.0
        swept = time.time()  # the monotonic clock stands still while a machine sleeps
        while not self._stopped.wait(self._interval):
            if time.time() - swept > self._interval + LATE_SECONDS:
                patient_until = time.monotonic() + GRACE_SECONDS
            try:
                sweep_once(self._database, self._ring, self._queue_length, time.monotonic() > patient_until)
                if time.monotonic() > clean_at:
                    clean_at = time.monotonic() + CLEAN_SECONDS
                    clean(self._database, self._artifacts_dir)
            except (SQLAlchemyError, OSError) as error:
                patient_until = time.monotonic() + GRACE_SECONDS
                passes = isinstance(error, OperationalError)  # away, or no room on the disk: no defect to be traced
                log.error("sweep failed; tries again in %s s: %s", self._interval, error, exc_info=not passes)
            swept = time.time()

    def stop(self) -> None:
        """Stop after the sweep under way, and wait for it."""
        self._stopped.set()
        if self.is_alive():
            self.join()


def _explain_waiting(database: Database) -> None:
    with database.reading() as session:
        waiting = jobs.waiting(session, NO_WORKER)
        live = workers.live(session, GONE_SECONDS) if waiting else ()
    taken = {
        (queue, device)
        for worker in live
        for queue in worker.queues
        for slot in worker.devices
        for device in workers.takes(slot)
    }
    for queue, device, queued, explained in waiting:
        if (queue, device) in taken and explained:
            with database.writing() as session:
                runs.clear_queued(session, queue=queue, device=device, code=NO_WORKER)
        elif (queue, device) not in taken and explained < queued:
            message = f"no live worker takes jobs of the queue {queue!r} for the device {device!r}"
            with database.writing() as session:
                runs.explain_queued(session, queue=queue, device=device, reason=Reason(NO_WORKER, message))


def _folders_older_than(artifacts_dir: Path, moment: float) -> list[str]:
    """``runs|jobs/{id}/a{attempt}/{step}`` last written before ``moment`` (epoch seconds), relative to the root."""
    found = []
    for kind in ("runs", "jobs"):
        for folder in (artifacts_dir / kind).glob("*/*/*"):
            with contextlib.suppress(FileNotFoundError):
                if folder.stat().st_mtime < moment:
                    found.append(folder.relative_to(artifacts_dir).as_posix())
    return found
