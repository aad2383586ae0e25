"""The sweeper: what dead processes left is brought back, by as many sweepers as there are."""

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from sqlalchemy import update

from app.db import clock
from app.db.engine import Database
from app.db.models import IdempotencyKey, Worker
from app.db.repositories import idempotency, runs, training, workers
from app.db.repositories.training import StateFolder
from app.db.repositories.workers import WorkerInfo
from app.services import sweep
from tests.db import scene


def wait_until(condition: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


class TestSweepOnce:
    def test_brings_lost_jobs_back_and_rings(self, database: Database) -> None:
        made = scene.make(database)
        made.begin()
        made.force_job(lease_expires_at=1.0)
        rung: list[str] = []
        sweep.sweep_once(database, rung.append, lambda queue: 0)
        assert (made.job().status, made.run().status, rung) == ("queued", "queued", ["default"])
        before = made.events()[-1].seq
        sweep.sweep_once(database)
        assert made.events()[-1].seq == before

    @pytest.mark.parametrize(("length", "rings"), [(0, 1), (1, 0), (None, 0)])
    def test_rings_only_where_no_message_waits(self, database: Database, length: int | None, rings: int) -> None:
        scene.make(database)
        rung: list[str] = []
        sweep.sweep_once(database, rung.append, lambda queue: length)
        assert len(rung) == rings

    def test_rings_for_no_empty_queue(self, database: Database) -> None:
        scene.make(database).begin()
        rung: list[str] = []
        sweep.sweep_once(database, rung.append, lambda queue: 0)
        assert rung == []

    def test_expires_nothing_when_it_had_to_wait_to_write(
        self, sqlite_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sweep, "PROMPT_SECONDS", 0.2)
        database = Database(sqlite_url)
        made = scene.make(database)
        made.begin()
        made.force_job(lease_expires_at=1.0)
        with database.writing() as session:
            session.connection()
            sweeping = threading.Thread(target=sweep.sweep_once, args=(database,))
            sweeping.start()
            time.sleep(0.5)
        sweeping.join()
        assert made.job().status == "leased"
        monkeypatch.undo()
        sweep.sweep_once(database)
        assert made.job().status == "queued"
        database.dispose()

    def test_exhausted_jobs_fail(self, database: Database) -> None:
        made = scene.make(database)
        for _ in range(3):
            made.begin()
            made.force_job(lease_expires_at=1.0)
            sweep.sweep_once(database)
        run = made.run()
        assert (run.status, run.reason_code) == ("failed", "worker_lost")

    def test_says_which_runs_no_worker_can_take(self, database: Database) -> None:
        plain, cuda = scene.make(database), scene.make(database, device="cuda")
        sweep.sweep_once(database)
        assert (plain.run().reason_code, cuda.run().reason_code) == ("no_worker", "no_worker")
        with database.writing() as session:
            workers.register(session, WorkerInfo("worker_a", "a", ("default",), ("cpu",)))
        sweep.sweep_once(database)
        assert (plain.run().reason_code, cuda.run().reason_code) == (None, "no_worker")
        message = cuda.run().reason_message
        assert message is not None and "'cuda'" in message and "'default'" in message
        plain.begin()
        with database.writing() as session:
            workers.stop(session, "worker_a")
        sweep.sweep_once(database)
        assert plain.run().reason_code is None
        assert len(cuda.events()) == 1


class TestClean:
    def test_removes_old_folders_that_no_row_names(self, database: Database, tmp_path: Path) -> None:
        made = scene.make(database, seeds=(0, 1))
        attempt = made.begin()
        made.checkpoint(attempt, 5)
        made.publish(attempt, 5)
        named = [f"runs/{made.run_id}/a1/5", f"jobs/{made.job_id}/a1/5"]
        old, fresh = f"runs/{made.run_id}/a1/4", f"runs/{made.run_id}/a1/6"
        gone = "jobs/job_gone/a1/5"
        for path in (*named, old, fresh, gone):
            (tmp_path / path).mkdir(parents=True)
            (tmp_path / path / "file").write_text("x")
            if path != fresh:
                os.utime(tmp_path / path, (1, 1))
        sweep.clean(database, tmp_path)
        assert all((tmp_path / path / "file").exists() for path in (*named, fresh))
        assert not (tmp_path / old).exists()
        assert not (tmp_path / "jobs/job_gone").exists()
        sweep.clean(database, tmp_path / "not there")
        sweep.clean(database, None)

    def test_forgets_old_keys_and_states_nobody_needs(self, database: Database) -> None:
        key = {"principal": "p", "route": "r", "key": "k"}
        with database.writing() as session:
            idempotency.store(session, **key, body_hash="h", status=201, location=None, body={})
            session.execute(update(IdempotencyKey).values(created_at=clock.now() - 25 * 3600))
        made = scene.make(database)
        attempt = made.begin()
        made.request("pause")
        made.finish(attempt, "paused", resume_state=StateFolder("jobs/x/a1/5", 5, made.run_ids))
        made.force(status="cancelled", resume_state_id=None)
        sweep.clean(database, None)
        with database.writing() as session:
            assert idempotency.find(session, **key) is None
            assert training.resume_states.drop_unused(session) == ()

    def test_forgets_workers_long_gone(self, database: Database) -> None:
        with database.writing() as session:
            for name in ("old", "new"):
                workers.register(session, WorkerInfo(f"worker_{name}", name, ("default",), ("cpu",)))
            session.execute(
                update(Worker).where(Worker.id == "worker_old").values(heartbeat_at=clock.now() - 25 * 3600)
            )
        sweep.clean(database, None)
        with database.reading() as session:
            assert [worker.id for worker in workers.live(session, 10**6)] == ["worker_new"]


class TestSweeper:
    def test_sweeps_until_stopped(self, database: Database) -> None:
        made = scene.make(database)
        made.begin()
        made.force_job(lease_expires_at=1.0)
        sweepers = [sweep.Sweeper(database, interval=0.02) for _ in range(3)]
        for sweeper in sweepers:
            sweeper.start()
        wait_until(lambda: made.run().status == "queued")
        for sweeper in sweepers:
            sweeper.stop()
        assert not any(sweeper.is_alive() for sweeper in sweepers)
        assert made.job().failures == 1

    def test_goes_on_after_a_failure(
        self, sqlite_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        database = Database(sqlite_url)
        swept = threading.Event()
        failures = iter([True])

        def fail_once(*_: object) -> None:
            if next(failures, False):
                raise OSError("the disk is away")
            swept.set()

        monkeypatch.setattr(sweep, "sweep_once", fail_once)
        sweeper = sweep.Sweeper(database, interval=0.01)
        sweeper.start()
        assert swept.wait(30)
        sweeper.stop()
        assert "sweep failed" in caplog.text
        database.dispose()

    def test_leaves_leases_alone_after_the_machine_slept(
        self, sqlite_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Its worker, which slept too, is to renew its leases first."""
        database = Database(sqlite_url)
        asleep = 0.0
        expiring: list[bool] = []
        monkeypatch.setattr(sweep, "sweep_once", lambda *arguments: expiring.append(arguments[-1]))
        clocks = SimpleNamespace(monotonic=time.monotonic, time=lambda: time.time() + asleep)
        monkeypatch.setattr(sweep, "time", clocks)
        sweeper = sweep.Sweeper(database, interval=0.01)
        sweeper.start()
        wait_until(lambda: expiring[-1:] == [True])
        asleep = 3600.0
        wait_until(lambda: expiring[-1:] == [False])
        sweeper.stop()
        database.dispose()

    def test_cleans_soon_after_the_start(
        self, sqlite_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        database = Database(sqlite_url)
        cleaned: list[object] = []
        monkeypatch.setattr(sweep, "clean", lambda *arguments: cleaned.append(arguments))
        monkeypatch.setattr(sweep, "FIRST_CLEAN_SECONDS", 0.0)
        sweeper = sweep.Sweeper(database, interval=0.01, artifacts_dir=tmp_path)
        sweeper.start()
        wait_until(lambda: bool(cleaned))
        sweeper.stop()
        assert cleaned == [(database, tmp_path)]
        database.dispose()

    def test_stop_before_start(self, sqlite_url: str) -> None:
        database = Database(sqlite_url)
        sweep.Sweeper(database, interval=1).stop()
        database.dispose()


def test_events_of_a_run_the_sweeper_touched_have_no_gaps(database: Database) -> None:
    made = scene.make(database)
    for _ in range(3):
        made.begin()
        made.force_job(lease_expires_at=1.0)
        sweep.sweep_once(database)
    with database.reading() as session:
        numbers = [event.seq for event in runs.events(session, made.run_id)]
    assert numbers == list(range(1, len(numbers) + 1))
