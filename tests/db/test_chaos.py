"""Workers that crash, freeze and vanish, users who change their minds, several sweepers: all at once, on one database.

Whatever happens, every run ends once, by transitions of the table only, and its series has neither gap nor duplicate.
"""

import random
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import groupby, pairwise

import pytest
from sqlalchemy import update

from app.db import states
from app.db.engine import Database
from app.db.ids import new_id
from app.db.models import Job
from app.db.repositories import jobs, metrics, runs, training
from app.db.repositories.training import StaleAttempt, StateFolder
from app.services import sweep
from tests.db import scene

LENGTH = 30
"""Env steps of a run; each is one point."""
JOBS, PACK, WORKERS, USERS, SWEEPERS = 8, 3, 3, 2, 2
REQUESTS = 40
"""Requests of each user."""


class Trainer:
    """What a worker and its trainer do to the database in one attempt, ending badly now and then."""

    def __init__(self, database: Database, claim: jobs.Claim, chance: random.Random) -> None:
        self.database, self.chance = database, chance
        self.own = {"job_id": claim.job_id, "attempt": claim.attempt}
        self.active = [run_id for run_id, _ in claim.runs]
        self.step = claim.resume.env_steps if claim.resume else 0

    def train(self) -> None:
        try:
            with self.database.writing() as session:
                training.begin(session, **self.own, env_steps=self.step, device="cpu", facts={})
            while self.active and not self._fails():
                self._obey()
                self._advance()
            if not self.active:
                self._release("done")
        except StaleAttempt:
            return  # frozen for longer than its lease

    def _fails(self) -> bool:
        event = self.chance.random()
        if event < 0.06:
            self._release("crashed" if event < 0.03 else "preempted")
            return True
        if event < 0.12:  # vanishes, or goes on as if nothing had been
            with self.database.writing() as session:
                session.execute(update(Job).where(Job.id == self.own["job_id"]).values(lease_expires_at=1.0))
            return event < 0.09
        return False

    def _obey(self) -> None:
        with self.database.reading() as session:
            wanted = jobs.desires(session, **self.own)
        if wanted is None:
            raise StaleAttempt
        for run_id, desired in wanted.items():
            state = StateFolder(f"jobs/{run_id}/{self.step}", self.step, (run_id,)) if desired == "pause" else None
            with self.database.writing() as session:
                outcome = "paused" if state else "cancelled"
                training.finish(session, **self.own, run_id=run_id, outcome=outcome, resume_state=state)
            self.active.remove(run_id)

    def _advance(self) -> None:
        first, self.step = self.step + 1, min(self.step + self.chance.randint(1, 6), LENGTH)
        if not self.active:
            return
        with self.database.writing() as session:
            series = {run_id: {"k": scene.points(first, self.step)} for run_id in self.active}
            training.append_metrics(session, **self.own, points=series if first <= self.step else {}, progress={})
            if self.chance.random() < 0.4:
                path = f"jobs/{self.own['job_id']}/a{self.own['attempt']}/{self.step}"
                training.publish(session, **self.own, env_steps=self.step, path=path, run_ids=self.active)
        if self.step == LENGTH:
            for run_id in self.active:
                with self.database.writing() as session:
                    training.finish(session, **self.own, run_id=run_id, outcome="succeeded")
            self.active = []

    def _release(self, outcome: str) -> None:
        with self.database.writing() as session:
            jobs.release(session, **self.own, outcome=outcome)


class Yard:
    """The workers, users and sweepers of one database."""

    def __init__(self, database: Database, made: list[scene.Scene]) -> None:
        self.database, self.made = database, made
        self.run_ids = [run_id for one in made for run_id in one.run_ids]
        self.done = threading.Event()

    def work(self, seed: int) -> None:
        chance = random.Random(seed)
        while not self.done.wait(0.002):
            with self.database.writing() as session:
                claim = jobs.claim(
                    session, worker_id=f"worker_{seed}", queues=["default"], devices=["auto"], lease_seconds=60
                )
            if claim is not None:
                Trainer(self.database, claim, chance).train()

    def use(self, seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(REQUESTS):
            run_id = chance.choice(self.run_ids)
            action = chance.choices(["pause", "resume", "cancel", "kill"], [6, 6, 1, 1])[0]
            if action == "resume":
                self.resume(run_id)
            else:
                with self.database.writing() as session:
                    runs.request(session, run_id, action)
            self.done.wait(0.01)

    def sweep(self) -> None:
        while not self.done.wait(0.01):
            sweep.sweep_once(self.database)

    def resume(self, run_id: str) -> None:
        with self.database.writing() as session:
            run = runs.get(session, run_id)
            assert run is not None
            before = jobs.lock(session, run.job_id)
            job = jobs.create(
                session,
                job_id=new_id("job"),
                experiment_id=run.experiment_id,
                queue="default",
                device="auto",
                resume_state_id=run.resume_state_id,
                attempt=before.attempt,
            )
            if not runs.resume(session, run_id, job.id):
                runs.end_job_if_idle(session, job.id)

    def resume_all_until_done(self) -> None:
        deadline = time.monotonic() + 300
        while not all(self.status(run_id) in states.TERMINAL for run_id in self.run_ids):
            assert time.monotonic() < deadline, [self.status(run_id) for run_id in self.run_ids]
            for run_id in self.run_ids:
                if self.status(run_id) == "paused":
                    self.resume(run_id)
            self.done.wait(0.02)

    def status(self, run_id: str) -> str:
        with self.database.reading() as session:
            run = runs.get(session, run_id)
        assert run is not None
        return run.status


@pytest.mark.parametrize("seed", [1, 2])
def test_every_run_ends_once_with_a_whole_series(
    database: Database, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "CHUNK", 8)
    monkeypatch.setattr(jobs, "MAX_FAILURES", 10**6)
    monkeypatch.setattr(jobs, "MAX_TOTAL_FAILURES", 10**6)
    yard = Yard(database, [scene.make(database, seeds=range(PACK)) for _ in range(JOBS)])
    with ThreadPoolExecutor(WORKERS + USERS + SWEEPERS) as pool:
        users = [pool.submit(yard.use, 100 * seed + number) for number in range(USERS)]
        others: list[Future[None]] = [pool.submit(yard.work, 1000 * seed + number) for number in range(WORKERS)]
        others += [pool.submit(yard.sweep) for _ in range(SWEEPERS)]
        try:
            for user in users:
                user.result(timeout=300)
            yard.resume_all_until_done()
        finally:
            yard.done.set()
        for other in others:
            other.result(timeout=60)
    for one in yard.made:
        for run_id in one.run_ids:
            _check_history(one, run_id)
    with database.reading() as session:
        assert jobs.queued_queues(session) == []
        assert not jobs.needs_sweep(session)


def _check_history(made: scene.Scene, run_id: str) -> None:
    statuses = [event.data["status"] for event in made.events(run_id) if event.type == "status"]
    assert statuses[0] == "queued"
    assert all(after in states.TRANSITIONS[before] for before, after in pairwise(statuses)), statuses
    assert [status for status in statuses if status in states.TERMINAL] == [statuses[-1]]
    steps, values = made.series("k", run_id)
    assert steps == list(range(1, len(steps) + 1))
    assert values == steps
    assert len(steps) == LENGTH or statuses[-1] == "cancelled"
    with made.database.reading() as session:
        attempts = runs.attempts(session, run_id)
    assert all(len(list(same)) == 1 for _, same in groupby(attempts, key=lambda attempt: attempt.attempt))
