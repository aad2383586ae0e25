"""Workers, logs and idempotency keys."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar

import pytest
from sqlalchemy import update

from app.db.clock import now
from app.db.engine import Database
from app.db.models import IdempotencyKey, Worker
from app.db.repositories import folders, idempotency, logs, workers
from app.db.repositories.logs import Cursor
from app.db.repositories.workers import WorkerInfo
from tests.db import scene


class TestWorkers:
    def test_live_are_those_heard_of(self, database: Database) -> None:
        with database.writing() as session:
            for name in ("a", "b", "c"):
                workers.register(session, WorkerInfo(f"worker_{name}", name, ("default",), ("cpu", "cpu")))
            assert workers.heartbeat(session, "worker_a", 2)
            assert not workers.heartbeat(session, "worker_none", 0)
            session.execute(update(Worker).where(Worker.id == "worker_b").values(heartbeat_at=now() - 60))
            workers.stop(session, "worker_c")
        with database.reading() as session:
            live = workers.live(session, 30)
            assert [(worker.id, worker.busy, worker.devices) for worker in live] == [("worker_a", 2, ["cpu", "cpu"])]
            assert len(workers.live(session, 90)) == 2


class TestLogs:
    def test_pages_over_the_attempts_of_a_run(self, database: Database) -> None:
        made = scene.make(database, seeds=(0, 1))
        for word in ("first", "second"):
            attempt = made.begin()
            with database.writing() as session:
                logs.append(session, made.job_id, attempt, [("stdout", f"{word} {n}") for n in range(3)])
                logs.append(session, made.job_id, attempt, [("stderr", f"{word} end")])
            made.release(attempt, "crashed")
        with database.reading() as session:
            page = logs.page(session, made.run_ids[1], limit=6)
            rest = logs.page(session, made.run_ids[1], after=Cursor(page[-1].attempt, page[-1].seq))
        assert [line.text for line in page + rest] == [
            f"{word} {end}" for word in ("first", "second") for end in (0, 1, 2, "end")
        ]
        assert [line.stream for line in rest] == ["stdout", "stderr"]

    def test_keep_the_newest_lines(self, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(logs, "MAX_LINES", 5)
        made = scene.make(database)
        attempt = made.begin()
        for start in (0, 4, 8):
            with database.writing() as session:
                logs.append(session, made.job_id, attempt, [("stdout", str(start + n)) for n in range(4)])
        with database.writing() as session:
            logs.append(session, made.job_id, attempt, [])
        with database.reading() as session:
            page = logs.page(session, made.run_id)
        assert [(line.seq, line.text) for line in page] == [(n + 1, str(n)) for n in range(7, 12)]

    def test_lines_are_cut_and_cleaned(self, database: Database) -> None:
        made = scene.make(database)
        attempt = made.begin()
        with database.writing() as session:
            logs.append(session, made.job_id, attempt, [("stdout", "x" * 10_000), ("stdout", "a\0b")])
        with database.reading() as session:
            long, clean = logs.page(session, made.run_id)
        assert len(long.text) == logs.MAX_CHARACTERS
        assert clean.text == "a\N{REPLACEMENT CHARACTER}b"


class TestIdempotency:
    KEY: ClassVar = {"principal": "operator", "route": "POST /experiments", "key": "k1"}

    def store(self, database: Database, location: str) -> bool:
        with database.writing() as session:
            return idempotency.store(
                session, **self.KEY, body_hash="h", status=201, location=location, body={"id": location}
            )

    def test_the_first_answer_stays(self, database: Database) -> None:
        assert self.store(database, "one")
        assert not self.store(database, "two")
        with database.reading() as session:
            found = idempotency.find(session, **self.KEY)
            assert found is not None
            assert (found.location, found.body) == ("one", {"id": "one"})
            assert idempotency.find(session, **{**self.KEY, "principal": "other"}) is None

    def test_of_concurrent_requests_one_is_first(self, database: Database) -> None:
        barrier = threading.Barrier(4)

        def request(number: int) -> bool:
            barrier.wait()
            return self.store(database, str(number))

        with ThreadPoolExecutor(4) as pool:
            stored = [future.result() for future in [pool.submit(request, number) for number in range(4)]]
        assert sum(stored) == 1
        with database.reading() as session:
            found = idempotency.find(session, **self.KEY)
        assert found is not None and found.location == str(stored.index(True))

    def test_old_ones_are_purged(self, database: Database) -> None:
        self.store(database, "one")
        with database.writing() as session:
            assert idempotency.purge(session, 60) == 0
            session.execute(update(IdempotencyKey).values(created_at=now() - 61))
            assert idempotency.purge(session, 60) == 1
        assert self.store(database, "two")


class TestFolders:
    def test_unnamed(self, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(folders, "_BATCH", 2)
        made = scene.make(database)
        attempt = made.begin()
        made.checkpoint(attempt, 5)
        made.publish(attempt, 5)
        named = [f"runs/{made.run_id}/a1/5", f"jobs/{made.job_id}/a1/5"]
        with database.reading() as session:
            assert folders.unnamed(session, ["x", *named, "y", "z"]) == ["x", "y", "z"]
            assert folders.unnamed(session, []) == []
