"""A stage for tests of jobs: a database, a broker, real workers."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from sqlalchemy import select

from app.db import states
from app.db.engine import Database
from app.db.models import Attempt, Checkpoint, Event, Job, LogLine, Run
from app.db.repositories import metrics, resume_states, workers
from app.queue import Doorbell
from app.schemas.experiment import ExperimentSpec, resolve
from app.services import experiments, runs

LEASE = 3.0
PATIENCE = 90.0
"""Seconds a test waits for what must happen: generous, since the machine may be busy."""


def eventually(condition: Callable[[], Any], what: str, seconds: float = PATIENCE, every: float = 0.05) -> Any:
    """Wait until ``condition`` answers something true, and return that."""
    deadline = time.monotonic() + seconds
    while not (answer := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what}")
        time.sleep(every)
    return answer


@dataclass
class Stage:
    """Everything a job passes through, without HTTP."""

    database_url: str
    broker_url: str
    folder: Path
    queue: str
    workers: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.database = Database(self.database_url)
        self.doorbell = Doorbell(self.broker_url)

    @property
    def artifacts(self) -> Path:
        return self.folder / "artifacts"

    def start_worker(self, **settings: Any) -> subprocess.Popen[bytes]:
        """A worker process with one slot and, to save time, without a spare."""
        given = {
            "data_dir": self.folder,
            "database_url": self.database_url,
            "broker_url": self.broker_url,
            "artifacts_dir": self.artifacts,
            "queues": self.queue,
            "devices": "cpu",
            "lease_seconds": LEASE,
            "sweep_seconds": 0.5,
            "spares": 0,
        } | settings
        environment = {f"TRAINYARD_{name.upper()}": str(value) for name, value in given.items()}
        with (self.folder / f"worker-{len(self.workers)}.log").open("wb") as log:
            worker = subprocess.Popen(
                [sys.executable, "-m", "worker"],
                env=os.environ | environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.workers.append(worker)
        return worker

    def post(self, *, seeds: tuple[int, ...] = (0,), ring: bool = True, **changes: Any) -> list[str]:
        """Create an experiment as the API does; the ids of its runs."""
        spec = resolve(ExperimentSpec.model_validate(spec_of(seeds, self.queue, **changes)))
        with self.database.writing() as session:
            outcome = experiments.create(session, spec)
        for queue in outcome.queues if ring else ():
            assert self.doorbell.ring(queue)
        return [run.id for run in outcome.experiment.runs]

    def act(self, run_id: str, action: runs.Action) -> None:
        """Do what a user asks, and ring for what it queues."""
        with self.database.writing() as session:
            _, queues = runs.act(session, run_id, action)
        for queue in queues:
            self.doorbell.ring(queue)

    def run(self, run_id: str) -> Run:
        with self.database.reading() as session:
            return session.get_one(Run, run_id)

    def job(self, run_id: str) -> Job:
        with self.database.reading() as session:
            return session.get_one(Job, session.get_one(Run, run_id).job_id)

    def attempts(self, run_id: str) -> list[Attempt]:
        """Attempts of the run's present job, oldest first."""
        with self.database.reading() as session:
            query = select(Attempt).join(Run, Run.job_id == Attempt.job_id).where(Run.id == run_id)
            return list(session.scalars(query.order_by(Attempt.attempt)))

    def status_events(self, run_id: str) -> list[dict[str, Any]]:
        """The data of the run's status events, in order."""
        with self.database.reading() as session:
            query = select(Event).where(Event.run_id == run_id, Event.type == "status").order_by(Event.seq)
            return [event.data for event in session.scalars(query)]

    def statuses(self, run_id: str) -> list[str]:
        """Every status the run has had."""
        return [event["status"] for event in self.status_events(run_id)]

    def checkpoints(self, run_id: str) -> list[Checkpoint]:
        with self.database.reading() as session:
            query = select(Checkpoint).where(Checkpoint.run_id == run_id).order_by(Checkpoint.env_steps)
            return list(session.scalars(query))

    def series(self, run_id: str) -> dict[str, list[tuple[int, float]]]:
        """Every point of every series."""
        with self.database.reading() as session:
            keys = [row.key for row in metrics.latest(session, run_id)]
            found = {key: metrics.series(session, run_id, key) for key in keys}
        return {key: list(zip(*(column.tolist() for column in pair[:2]), strict=True)) for key, pair in found.items()}

    def await_status(self, run_id: str, *statuses: str, seconds: float = PATIENCE) -> Run:
        """Wait for one of the statuses; a run that ends otherwise fails the test at once."""

        def reached() -> Run | None:
            run = self.run(run_id)
            if run.status in statuses:
                return run
            if run.status in states.TERMINAL:
                raise AssertionError(f"{run.status}: {run.reason_code}: {run.reason_message}\n{self.logs()}")
            return None

        found: Run = eventually(reached, f"{run_id} {statuses}", seconds)
        return found

    def await_steps(self, run_id: str, steps: int) -> Run:
        """Wait until a running run has taken so many env steps."""
        found: Run = eventually(
            lambda: (run := self.run(run_id)).status == "running" and run.env_steps >= steps and run, f"{steps} steps"
        )
        return found

    def await_log(self, run_id: str, words: str) -> None:
        """Wait until a trainer of the run has printed a line with these words."""

        def printed() -> bool:
            with self.database.reading() as session:
                query = select(LogLine.text).where(LogLine.job_id == session.get_one(Run, run_id).job_id)
                return any(words in text for text in session.scalars(query))

        eventually(printed, words)

    def await_resume_state(self, run_id: str) -> None:
        """Wait until there is a state to go on from."""
        eventually(lambda: self.job(run_id).resume_state_id, "a resume state")

    def resumes_from(self, run_id: str) -> Path | None:
        """The folder of the state that the run's job would go on from."""
        with self.database.reading() as session:
            job = session.get_one(Job, session.get_one(Run, run_id).job_id)
            state = resume_states.get(session, job.resume_state_id)
            return self.artifacts / state.path if state else None

    def workers_alive(self) -> int:
        """Workers heard of within a lease."""
        with self.database.reading() as session:
            return len(workers.live(session, LEASE))

    def logs(self) -> str:
        return "\n".join(path.read_text()[-4000:] for path in sorted(self.folder.glob("worker-*.log")))

    def close(self) -> None:
        """End all workers and what they have started."""
        for worker in self.workers:
            family = [worker.pid, *(child.pid for child in descendants(worker.pid))]
            for pid in family:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            worker.wait()
        self.database.dispose()
        self.doorbell.close()


def spec_of(seeds: tuple[int, ...], queue: str, **training: Any) -> dict[str, Any]:
    """PPO on CartPole; ``training`` are fields of the training section, other sections by their names."""
    sections = {name: training.pop(name) for name in ("environment", "algorithm", "resources") if name in training}
    return {
        "environment": {"id": "CartPole-v1", "num_envs": 4} | sections.get("environment", {}),
        "algorithm": {"name": "ppo", "num_steps": 64, "hidden_sizes": [16]} | sections.get("algorithm", {}),
        "training": {
            "total_env_steps": 30_000,
            "evaluate_every": 10_000,
            "evaluation_episodes": 2,
            "checkpoint_every": 5_000,
        }
        | training,
        "seeds": seeds,
        "resources": {"queue": queue, "device": "cpu"} | sections.get("resources", {}),
    }


def descendants(pid: int) -> list[psutil.Process]:
    """Children and theirs; none when the process is gone."""
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def trainers(worker: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """The trainer processes of a worker, spares among them."""
    found = []
    for child in descendants(worker.pid):
        with contextlib.suppress(psutil.NoSuchProcess):
            if "worker.jobs.trainer" in child.cmdline():
                found.append(child)
    return found


def busiest(processes: list[psutil.Process]) -> psutil.Process:
    """The one with most CPU time: the trainer that trains, not the spare."""
    return max(processes, key=lambda process: sum(process.cpu_times()[:2]))
