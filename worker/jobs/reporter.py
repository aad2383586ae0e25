"""The driver's reporter: everything goes to the database and the artifact root, fenced by the job's attempt."""

import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from app.db.engine import Database
from app.db.repositories import runs
from app.db.repositories.training import StaleAttempt
from app.schemas.bundle import Lineage, PolicyBundle
from app.schemas.experiment import ExperimentSpec
from worker.jobs import facts
from worker.jobs.control import Control
from worker.jobs.protocol import JobMessage
from worker.jobs.states import Loaded
from worker.jobs.writer import Row, Writer
from worker.jobs.writes import Begin, Checkpoint, Evaluation, Fence, Finish, Folders, Pause, Publish
from worker.rl.reporter import CheckpointKind, Order, Outcome, PolicyFiles, Reason, Result, State

_NOTHING: Mapping[int, Order] = {}
PROGRESS_SECONDS = 0.5


class DatabaseReporter:
    """Reporter of one job. A context: at its end all is written, or the reason why not is raised.

    Args:
        loaded: the state training goes on from, if any.
    """

    def __init__(
        self, job: JobMessage, spec: ExperimentSpec, database: Database, control: Control, loaded: Loaded | None
    ) -> None:
        self._job = job
        self._keep = spec.training.keep_checkpoints
        self._control = control
        self._run_ids = tuple(run_id for run_id, _ in job.runs)
        self._seeds = dict(job.runs)
        self._fence: Fence = {"job_id": job.job_id, "attempt": job.attempt}
        self._loaded = loaded
        self._folders = Folders(Path(job.artifacts_dir), self._fence, loaded.folder if loaded else None)
        self._writer = Writer(database, **self._fence, retire=self._folders.retire)
        self._saved = threading.Event()
        self._saved.set()
        self._pausing: list[str] = []
        self._paused_state: State | None = None
        self._env_step = 0
        self._begun = self._progress = (time.monotonic(), 0)
        self.was_preempted = False

    def __enter__(self) -> Self:
        self._writer.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if isinstance(error, StaleAttempt):
            return
        self._pause()
        self._writer.close()
        if error is None and not self.was_preempted:
            self._folders.clear()

    def started(self, env_step: int) -> None:
        self._env_step = env_step
        self._begun = self._progress = (time.monotonic(), env_step)
        gathered = facts.gather(pack=len(self._run_ids), device=self._job.device)
        begin = Begin(self._fence, env_step, self._job.device, gathered)
        if self._loaded and self._loaded.damage:
            begin.earlier, begin.damage = self._loaded.stored, self._loaded.damage
        self._writer.add(begin)

    def metrics(self, env_step: int, values: Mapping[str, np.ndarray]) -> None:
        copies = {key: np.array(row, np.float64) for key, row in values.items()}
        self._writer.add_row(Row(env_step, time.time(), self._run_ids, copies))
        self.progress(env_step)

    def progress(self, env_step: int) -> None:
        self._env_step = env_step
        since, before = self._progress
        elapsed = time.monotonic() - since
        if elapsed >= PROGRESS_SECONDS:
            self._progress = (time.monotonic(), env_step)
            self._writer.set_progress(dict.fromkeys(self._run_ids, (env_step, (env_step - before) / elapsed)))

    def evaluation(self, env_step: int, returns: np.ndarray, lengths: np.ndarray) -> None:
        rows = list(zip(self._run_ids, returns.tolist(), lengths.tolist(), strict=True))
        self._writer.add(Evaluation(self._fence, env_step, rows))

    def checkpoint(
        self, env_step: int, kind: CheckpointKind, replica: int, files: PolicyFiles, return_mean: float | None
    ) -> None:
        run_id = self._run_ids[replica]
        complete = dict(files) | {"bundle.json": self._with_lineage(files["bundle.json"], run_id, env_step)}
        self._writer.add(
            Checkpoint(self._fence, self._folders, run_id, env_step, kind, complete, return_mean, self._keep)
        )

    def publish(self, env_step: int, state: State) -> None:
        while not self._saved.wait(1.0):  # one state in memory at a time
            self._writer.check()
        self._saved.clear()
        self._writer.add(Publish(self._fence, self._folders, self._run_ids, state, self._saved))

    def poll(self) -> Mapping[int, Order]:
        self._writer.check()
        orders, preempt = self._control.orders, self._control.preempt
        if not orders and not preempt:
            return _NOTHING
        given: dict[int, Order] = {}
        for index, run_id in enumerate(self._run_ids):
            if run_id in orders:
                given[index] = orders[run_id]
            elif preempt:
                given[index] = "preempt"
        return given

    def finish(
        self, replica: int, outcome: Outcome, result: Result | None, reason: Reason | None, state: State | None
    ) -> None:
        run_id = self._run_ids[replica]
        self._writer.set_progress({run_id: (self._env_step, self._mean_rate())})
        if outcome == "paused":
            self._pausing.append(run_id)
            self._paused_state = state
            return
        why = runs.Reason(reason.code, reason.message) if reason else None
        final_return = result.final_return if result else None
        self._writer.add(Finish(self._fence, run_id, outcome, final_return, why, self._keep))

    def drop(self, keep: Sequence[int]) -> None:
        self._pause()
        self._run_ids = tuple(self._run_ids[index] for index in keep)

    def preempted(self, env_step: int) -> None:
        self.was_preempted = True

    def _pause(self) -> None:
        """Store the runs paused since the last call: their state has them in the order of their ends."""
        if self._pausing:
            self._writer.add(Pause(self._fence, self._folders, tuple(self._pausing), self._paused_state))
            self._pausing, self._paused_state = [], None

    def _mean_rate(self) -> float | None:
        """Env steps per second since training began; None where there was none."""
        since, before = self._begun
        taken = self._env_step - before
        return taken / (time.monotonic() - since) if taken else None

    def _with_lineage(self, bundle: bytes, run_id: str, env_step: int) -> bytes:
        lineage = Lineage(
            experiment_id=self._job.experiment_id,
            run_id=run_id,
            spec_hash=self._job.spec_hash,
            seed=self._seeds[run_id],
            env_steps=env_step,
            attempt=self._job.attempt,
            versions=facts.versions(),
        )
        complete = PolicyBundle.model_validate_json(bundle).model_copy(update={"lineage": lineage})
        return complete.model_dump_json(indent=2).encode()
