"""Takes a claimed job through its life: hands it to a trainer, keeps the lease, passes on orders, records the end.

Runs in a thread of the worker and never loads torch.
"""

import logging
import signal
import time

from pydantic import ValidationError

from app.db.repositories import jobs, logs, runs
from app.db.repositories.jobs import Claim
from app.schemas.experiment import ExperimentSpec
from app.schemas.packing import threads
from worker.jobs.away import DATABASE_AWAY
from worker.jobs.host import Host
from worker.jobs.logs import LogBuffer
from worker.jobs.process import TrainerProcess
from worker.jobs.protocol import JobMessage, Verdict
from worker.jobs.slots import Slot, cores

log = logging.getLogger(__name__)

WAKE_SECONDS = 0.1
WATCH_SECONDS = 0.5
"""How often it asks what users desire."""
LOG_SECONDS = 1.0
PREEMPT_SECONDS = 20.0
"""Time a trainer has to checkpoint when the worker shuts down."""
END_SECONDS = 10.0
"""Time a trainer has to end after its verdict."""
OUTCOMES = {"done": "done", "stale": "done", "preempted": "preempted", "killed": "killed"}
"""Of an attempt, by verdict; every other is a crash. A stale one has nothing to record: its job was taken away, or has
ended by a commit whose answer was lost."""
RECORD_SECONDS = 600.0
"""How long an end is kept for a database that is away; after that the lease tells it."""


class Supervisor:
    """One attempt at one job, in one slot."""

    def __init__(self, host: Host, claim: Claim, slot: Slot) -> None:
        self._host = host
        self._claim = claim
        self._slot = slot
        self._lease = host.settings.lease_seconds
        self._orders: dict[str, str] = {}
        self._preempting_since: float | None = None
        self._killed = False
        self._stale = False
        self._frozen = False

    def run(self) -> None:
        """Supervise until the trainer has ended, and record how."""
        try:
            job = self._message()
        except ValidationError as error:
            message = f"this version cannot train the stored spec: {error}"
            self._record(Verdict("invalid_spec", message, retryable=False), LogBuffer())
        else:
            self._supervise(job)

    def _supervise(self, job: JobMessage) -> None:
        try:
            process = self._host.spares.take()
        except OSError as error:
            log.error("job %s: no trainer could be started: %s", self._claim.job_id, error)
            time.sleep(self._lease / 4)  # or this very worker would fail its next attempts in no time
            self._record(Verdict("no_trainer", f"the worker could not start a trainer: {error}"), LogBuffer())
            return
        try:
            process.send({"type": "job", "job": job.model_dump(mode="json")})
            process.tick(self._lease / 4)
            self._watch(process)
        finally:
            process.tick(None)
            status = process.wait(END_SECONDS if process.verdict else 0)
        if not self._stale:
            self._record(self._verdict(process, status), process.log)

    def _message(self) -> JobMessage:
        settings = self._host.settings
        spec = ExperimentSpec.model_validate(self._claim.spec)
        return JobMessage.of(
            self._claim,
            artifacts_dir=str(settings.artifacts_dir),
            lease_seconds=self._lease,
            device="cpu" if spec.resources.device == "cpu" else self._slot.device,
            threads=usable_threads(spec, len(self._claim.runs), len(self._host.slots.all)),
        )

    def _watch(self, process: TrainerProcess) -> None:
        """Return once the trainer has given its verdict or ended, or has been killed."""
        renew_every = self._lease / 3
        next_renewal = time.monotonic() + renew_every
        next_watch = next_log = 0.0
        while process.alive() and process.verdict is None:
            now = time.monotonic()
            if self._host.stopping and not self._preempt(process, now):
                return
            try:
                if now >= next_renewal:
                    next_renewal = now + renew_every
                    self._renew()
                if now >= next_watch:
                    next_watch = now + WATCH_SECONDS
                    self._obey(process)
                if now >= next_log:
                    next_log = now + LOG_SECONDS
                    self._write_log(process.log)
            except DATABASE_AWAY as error:
                log.warning("job %s: the database is away: %s", self._claim.job_id, error)
                next_renewal = min(next_renewal, now + 1)
            self._frozen = process.deaf_for() >= self._host.settings.frozen_seconds
            if self._killed or self._stale or self._frozen:
                return
            process.changed.wait(WAKE_SECONDS)

    def _preempt(self, process: TrainerProcess, now: float) -> bool:
        """Tell the trainer, once, to checkpoint and end; False when it has had its time."""
        if self._preempting_since is None:
            self._preempting_since = now
            process.send({"type": "preempt"})
        return now < self._preempting_since + PREEMPT_SECONDS

    def _renew(self) -> None:
        with self._host.database.writing() as session:
            self._stale = not jobs.renew(
                session, job_id=self._claim.job_id, attempt=self._claim.attempt, lease_seconds=self._lease
            )

    def _obey(self, process: TrainerProcess) -> None:
        with self._host.database.reading() as session:
            orders = jobs.desires(session, job_id=self._claim.job_id, attempt=self._claim.attempt)
            if orders is None:
                self._stale = True
                return
            if orders and set(orders.values()) == {"kill"}:
                self._killed = runs.active_ids(session, self._claim.job_id) == set(orders)
        if orders != self._orders:
            self._orders = orders
            process.send({"type": "desired", "runs": orders})

    def _write_log(self, buffer: LogBuffer) -> None:
        with buffer.taken() as lines:
            if lines:
                with self._host.database.writing() as session:
                    logs.append(session, self._claim.job_id, self._claim.attempt, lines)

    def _verdict(self, process: TrainerProcess, status: int) -> Verdict:
        """How the attempt ended, in words where the trainer had none left."""
        if self._killed:
            return Verdict(runs.KILLED.code, runs.KILLED.message)
        if process.verdict is not None:
            return process.verdict
        if self._preempting_since is not None:
            return Verdict("preempted", "its worker shut down before it could checkpoint")
        if self._frozen:
            limit = self._host.settings.frozen_seconds
            return Verdict("trainer_frozen", f"the trainer process did not react for {limit:g} s and was ended")
        if status < 0:
            name = signal.Signals(-status).name
            hint = ", most likely because memory ran out" if -status == signal.SIGKILL else ""
            return Verdict("trainer_killed", f"the trainer process was ended by {name}{hint}")
        if (frame := process.log.stuck_at) is not None:
            message = (
                f"the trainer process did not react for {self._lease:g} s and ended itself: code that holds Python's"
                " lock so long, a machine without free CPU, or a worker that stood still"
            )
            return Verdict("trainer_frozen", f"{message}; it was at {frame}" if frame else message)
        said = f": {process.log.last}" if process.log.last else ""
        return Verdict("trainer_ended", f"the trainer process ended with status {status} and no verdict{said}")

    def _record(self, verdict: Verdict, buffer: LogBuffer) -> None:
        give_up = time.monotonic() + RECORD_SECONDS
        while True:
            try:
                self._write_log(buffer)
                with self._host.database.writing() as session:
                    jobs.release(
                        session,
                        job_id=self._claim.job_id,
                        attempt=self._claim.attempt,
                        outcome=OUTCOMES.get(verdict.code, "crashed"),
                        code=None if verdict.code == "done" else verdict.code,
                        message=verdict.message or None,
                        retryable=verdict.retryable,
                    )
                return
            except DATABASE_AWAY as error:
                if self._host.stopping or time.monotonic() > give_up:
                    log.error("job %s: its end (%s) could not be recorded: %s", self._claim.job_id, verdict.code, error)
                    return
                time.sleep(1)


def usable_threads(spec: ExperimentSpec, runs: int, slots: int) -> int:
    """Threads for a job of so many runs: as the spec says; where that is ``auto``, no more than a slot has cores."""
    wanted = threads(spec, runs)
    return min(wanted, max(1, cores() // slots)) if spec.resources.threads == "auto" else wanted
