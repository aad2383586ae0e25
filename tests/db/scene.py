"""Ready-made rows for tests of the database."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from sqlalchemy import update

from app.db.engine import Database
from app.db.ids import new_id
from app.db.models import Event, Job, Run
from app.db.repositories import experiments, jobs, metrics, runs, training, workers
from app.db.repositories.jobs import Claim
from app.db.repositories.metrics import Points

LEASE = 30.0


@dataclass(frozen=True)
class Scene:
    """An experiment with one job of some runs, and short ways to act on them."""

    database: Database
    experiment_id: str
    job_id: str
    run_ids: tuple[str, ...]

    @property
    def run_id(self) -> str:
        return self.run_ids[0]

    def claim(self, worker_id: str = "worker_a") -> Claim:
        """Claim the job, which has to be the best one."""
        with self.database.writing() as session:
            won = jobs.claim(
                session,
                worker_id=worker_id,
                queues=["default"],
                devices=workers.takes("cpu"),
                lease_seconds=LEASE,
            )
        assert won is not None and won.job_id == self.job_id
        return won

    def begin(self, env_steps: int = 0) -> int:
        """Claim the job and begin to train. Returns the attempt."""
        attempt = self.claim().attempt
        with self.database.writing() as session:
            training.begin(
                session, job_id=self.job_id, attempt=attempt, env_steps=env_steps, device="cpu", facts={"threads": 1}
            )
        return attempt

    def flush(self, attempt: int, points: Mapping[str, Points], run_id: str | None = None) -> int:
        """Append points to one run."""
        last = max((int(steps[-1]) for steps, _, _ in points.values() if len(steps)), default=0)
        with self.database.writing() as session:
            return training.append_metrics(
                session,
                job_id=self.job_id,
                attempt=attempt,
                points={run_id or self.run_id: points},
                progress={run_id or self.run_id: (last, 100.0)},
            )

    def publish(self, attempt: int, env_steps: int) -> training.Stored:
        """Publish a resume state of all runs."""
        with self.database.writing() as session:
            return training.publish(
                session,
                job_id=self.job_id,
                attempt=attempt,
                env_steps=env_steps,
                path=f"jobs/{self.job_id}/a{attempt}/{env_steps}",
                run_ids=self.run_ids,
            )

    def checkpoint(
        self, attempt: int, env_steps: int, kind: str = "scheduled", return_mean: float | None = None, keep: int = 2
    ) -> training.Stored:
        """Store a checkpoint of the first run."""
        with self.database.writing() as session:
            return training.add_checkpoint(
                session,
                job_id=self.job_id,
                attempt=attempt,
                run_id=self.run_id,
                env_steps=env_steps,
                kind=kind,
                return_mean=return_mean,
                path=f"runs/{self.run_id}/a{attempt}/{env_steps}",
                files=[{"name": "policy.onnx", "bytes": 3, "sha256": "00"}],
                keep=keep,
            )

    def finish(self, attempt: int, outcome: str, run_id: str | None = None, **more: object) -> tuple[str, ...]:
        """Bring a run to its end."""
        with self.database.writing() as session:
            return training.finish(
                session,
                job_id=self.job_id,
                attempt=attempt,
                run_id=run_id or self.run_id,
                outcome=outcome,
                **more,  # type: ignore[arg-type]
            )

    def release(self, attempt: int, outcome: str, **more: object) -> None:
        """End an attempt."""
        with self.database.writing() as session:
            jobs.release(session, job_id=self.job_id, attempt=attempt, outcome=outcome, **more)  # type: ignore[arg-type]

    def request(self, desired: str, run_id: str | None = None) -> bool:
        """Act on a run as a user."""
        with self.database.writing() as session:
            return runs.request(session, run_id or self.run_id, desired)

    def job(self) -> Job:
        with self.database.reading() as session:
            job = session.get(Job, self.job_id)
        assert job is not None
        return job

    def run(self, run_id: str | None = None) -> Run:
        with self.database.reading() as session:
            run = runs.get(session, run_id or self.run_id)
        assert run is not None
        return run

    def statuses(self) -> list[str]:
        return [self.run(run_id).status for run_id in self.run_ids]

    def events(self, run_id: str | None = None) -> list[Event]:
        with self.database.reading() as session:
            return runs.events(session, run_id or self.run_id, 0, 10_000)

    def series(self, key: str, run_id: str | None = None) -> tuple[list[int], list[float]]:
        with self.database.reading() as session:
            steps, values = metrics.series(session, run_id or self.run_id, key)
        return steps.tolist(), values.tolist()

    def force(self, run_id: str | None = None, **values: object) -> None:
        """Set columns of a run, past every rule."""
        with self.database.writing() as session:
            session.execute(update(Run).where(Run.id == (run_id or self.run_id)).values(**values))

    def force_job(self, **values: object) -> None:
        """Set columns of the job, past every rule."""
        with self.database.writing() as session:
            session.execute(update(Job).where(Job.id == self.job_id).values(**values))


def make(
    database: Database,
    *,
    seeds: Sequence[int] = (0,),
    queue: str = "default",
    device: str = "auto",
    priority: int = 0,
) -> Scene:
    """An experiment with one queued job that trains one run per seed."""
    scene = Scene(database, new_id("exp"), new_id("job"), tuple(new_id("run") for _ in seeds))
    with database.writing() as session:
        experiments.create(
            session,
            experiment_id=scene.experiment_id,
            name="a test",
            spec={"algorithm": {"name": "ppo"}},
            spec_hash="sha256:00",
            tags={"team": "tests"},
        )
        jobs.create(
            session,
            job_id=scene.job_id,
            experiment_id=scene.experiment_id,
            queue=queue,
            device=device,
            priority=priority,
        )
        pack = enumerate(zip(scene.run_ids, seeds, strict=True))
        new = [runs.NewRun(run_id, scene.job_id, position, seed) for position, (run_id, seed) in pack]
        runs.create(session, experiment_id=scene.experiment_id, total_env_steps=1000, runs=new)
    return scene


def points(first: int, last: int, value: float | None = None) -> Points:
    """Points at the steps ``first .. last``; a point's value is its step unless given."""
    steps = np.arange(first, last + 1, dtype=np.int64)
    values = steps.astype(np.float64) if value is None else np.full(len(steps), value)
    return steps, values, 1e9 + steps.astype(np.float64)
