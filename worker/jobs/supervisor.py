"""Takes a claimed job through its life: hands it to a trainer, keeps the lease, passes on orders, records the end.

Runs in a thread of the worker and never loads torch.
"""

import logging
import signal
import time
from dataclasses import dataclass, field

from app.db.repositories import jobs, logs, runs
from app.db.repositories.jobs import Claim
from app.schemas.experiment import ExperimentSpec
from app.schemas.packing import threads
from worker.jobs.away import DATABASE_AWAY
from worker.jobs.host import Host
from worker.jobs.process import TrainerProcess
from worker.jobs.protocol import JobMessage, Verdict
from worker.jobs.slots import Slot

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
"""Of an attempt, by verdict; every other is a crash. A stale one records nothing unless its last commit was answered by
a lost connection: then all its runs are finished."""
RECORD_SECONDS = 600.0
"""How long an end is kept for a database that is away; after that the lease tells it."""


@dataclass
class Supervisor:
    """One attempt at one job."""

    host: Host
    claim: Claim
    slot: Slot
    process: TrainerProcess
    orders: dict[str, str] = field(default_factory=dict)
    preempting_since: float | None = None
    killed: bool = False
    stale: bool = False

    def run(self) -> None:
        """Supervise until the trainer has ended, and record how."""
        job = JobMessage.of(
            self.claim,
            database_url=self.host.settings.database_url,
            artifacts_dir=str(self.host.settings.artifacts_dir),
            lease_seconds=self.host.settings.lease_seconds,
            device=self._device(),
            threads=threads(ExperimentSpec.model_validate(self.claim.spec), len(self.claim.runs)),
        )
        self.process.send({"type": "job", "job": job.model_dump(mode="json")})
        self.process.tick(self.host.settings.lease_seconds / 4)
        try:
            self._watch()
        finally:
            self.process.tick(None)
            ending = END_SECONDS if self.process.verdict else 0
            status = self.process.wait(ending)
        if not self.stale:
            self._record(self._verdict(status))

    def _device(self) -> str:
        asked = self.claim.spec["resources"]["device"]
        return "cpu" if asked == "cpu" else self.slot.device

    def _watch(self) -> None:
        """Return once the trainer has given its verdict or ended, or has been killed."""
        renew_every = self.host.settings.lease_seconds / 3
        next_renewal = time.monotonic() + renew_every
        next_watch = next_log = 0.0
        while self.process.alive() and self.process.verdict is None:
            now = time.monotonic()
            if self.host.stopping and not self._preempt(now):
                return
            try:
                if now >= next_renewal:
                    next_renewal = now + renew_every
                    self._renew()
                if now >= next_watch:
                    next_watch = now + WATCH_SECONDS
                    self._obey()
                if now >= next_log:
                    next_log = now + LOG_SECONDS
                    self._write_log()
            except DATABASE_AWAY as error:
                log.warning("job %s: the database is away: %s", self.claim.job_id, error)
                next_renewal = min(next_renewal, now + 1)
            if self.killed or self.stale:
                return
            self.process.changed.wait(WAKE_SECONDS)

    def _preempt(self, now: float) -> bool:
        """Tell the trainer, once, to checkpoint and end; False when it has had its time."""
        if self.preempting_since is None:
            self.preempting_since = now
            self.process.send({"type": "preempt"})
        return now < self.preempting_since + PREEMPT_SECONDS

    def _renew(self) -> None:
        with self.host.database.writing() as session:
            lease = self.host.settings.lease_seconds
            self.stale = not jobs.renew(
                session, job_id=self.claim.job_id, attempt=self.claim.attempt, lease_seconds=lease
            )

    def _obey(self) -> None:
        with self.host.database.reading() as session:
            orders = jobs.desires(session, job_id=self.claim.job_id, attempt=self.claim.attempt)
            if orders is None:
                self.stale = True
                return
            if orders and set(orders.values()) == {"kill"}:
                self.killed = {run.id for run in runs.active(session, self.claim.job_id)} == set(orders)
        if orders != self.orders:
            self.orders = orders
            self.process.send({"type": "desired", "runs": orders})

    def _write_log(self) -> None:
        if lines := self.process.log.take():
            with self.host.database.writing() as session:
                logs.append(session, self.claim.job_id, self.claim.attempt, lines)

    def _verdict(self, status: int) -> Verdict:
        """How the attempt ended, in words where the trainer had none left."""
        if self.killed:
            return Verdict("killed", "killed by the user")
        if self.process.verdict is not None:
            return self.process.verdict
        if self.preempting_since is not None:
            return Verdict("preempted", "its worker shut down before it could checkpoint")
        if status < 0:
            name = signal.Signals(-status).name
            hint = ", most likely because memory ran out" if -status == signal.SIGKILL else ""
            return Verdict("trainer_killed", f"the trainer process was ended by {name}{hint}")
        said = f": {self.process.log.last}" if self.process.log.last else ""
        return Verdict("trainer_ended", f"the trainer process ended with status {status} and no verdict{said}")

    def _record(self, verdict: Verdict) -> None:
        give_up = time.monotonic() + RECORD_SECONDS
        while True:
            try:
                self._write_log()
                with self.host.database.writing() as session:
                    jobs.release(
                        session,
                        job_id=self.claim.job_id,
                        attempt=self.claim.attempt,
                        outcome=OUTCOMES.get(verdict.code, "crashed"),
                        code=None if verdict.code == "done" else verdict.code,
                        message=verdict.message or None,
                        retryable=verdict.retryable,
                    )
                return
            except DATABASE_AWAY as error:
                if self.host.stopping or time.monotonic() > give_up:
                    log.error("job %s: its end (%s) could not be recorded: %s", self.claim.job_id, verdict.code, error)
                    return
                time.sleep(1)
