"""Sessions: who may write, who waits, and what a failure leaves."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import create_engine, select, text
from sqlalchemy.exc import DBAPIError

from app.db import engine
from app.db.clock import now
from app.db.engine import Database
from app.db.models import Run
from app.db.repositories import runs, training
from tests.db import scene


class TestSessions:
    def test_writing_commits_and_rolls_back(self, database: Database) -> None:
        made = scene.make(database)
        with pytest.raises(ZeroDivisionError):
            fail_after_a_write(database, made.run_id)
        assert made.run().status == "queued"
        with database.writing() as session:
            runs.transition(session, made.run_id, "cancelled")
        assert made.run().status == "cancelled"

    def test_reading_keeps_nothing(self, database: Database) -> None:
        made = scene.make(database)
        with database.reading() as session:
            runs.transition(session, made.run_id, "cancelled")
        assert made.run().status == "queued"

    def test_objects_outlive_their_session(self, database: Database) -> None:
        made = scene.make(database)
        with database.writing() as session:
            run = runs.get(session, made.run_id)
        assert run is not None and run.created_at > 0

    def test_readers_do_not_wait_for_a_writer(self, database: Database) -> None:
        made = scene.make(database)
        with database.writing() as session:
            runs.transition(session, made.run_id, "cancelled")
            assert made.run().status == "queued"

    def test_reading_then_writing_from_many_threads_never_fails(self, database: Database) -> None:
        """A lost update or "database is locked" would show: each thread reads a number and writes it plus one."""
        made = scene.make(database)
        threads, each = 6, 20

        def count() -> None:
            for _ in range(each):
                with database.writing() as session:
                    query = select(Run).where(Run.id == made.run_id).with_for_update()
                    run = session.scalars(query).one()
                    run.env_steps = run.env_steps + 1

        with ThreadPoolExecutor(threads) as pool:
            for future in [pool.submit(count) for _ in range(threads)]:
                future.result()
        assert made.run().env_steps == threads * each

    def test_a_connection_that_died_is_replaced(self, postgres_url: str) -> None:
        database = Database(postgres_url)
        made = scene.make(database)
        killer = create_engine(postgres_url, isolation_level="AUTOCOMMIT")
        with killer.connect() as connection:
            others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
            connection.execute(text(f"{others} AND pid <> pg_backend_pid()"))
        killer.dispose()
        assert made.run().status == "queued"
        database.dispose()

    def test_a_frozen_process_loses_its_locks(self, postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(engine, "STALL_MS", 300)
        frozen = Database(postgres_url)
        monkeypatch.undo()
        database = Database(postgres_url)
        made = scene.make(database)
        attempt = made.begin()
        with pytest.raises(DBAPIError, match="idle-in-transaction"), frozen.writing() as session:  # noqa: PT012
            training.fence(session, made.job_id, attempt)
            assert made.request("kill")  # waits for the lock
            session.execute(select(now()))
        assert made.run().status == "cancelling"
        frozen.dispose()
        database.dispose()


class TestSqlite:
    def test_settings(self, sqlite_url: str) -> None:
        database = Database(sqlite_url)
        with database.reading() as session:
            pragmas = {
                name: session.scalar(text(f"PRAGMA {name}"))
                for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
            }
        database.dispose()
        assert pragmas == {"journal_mode": "wal", "synchronous": 1, "foreign_keys": 1, "busy_timeout": 15_000}

    def test_a_writer_waits_for_another_one(self, sqlite_url: str) -> None:
        database = Database(sqlite_url)
        made = scene.make(database)
        inside = threading.Event()

        def hold() -> None:
            with database.writing() as session:
                runs.append_event(session, made.run_id, "status", {})
                inside.set()
                time.sleep(0.3)

        with ThreadPoolExecutor(1) as pool:
            holder = pool.submit(hold)
            inside.wait()
            with database.writing() as session:
                assert runs.append_event(session, made.run_id, "status", {}) == 3
            holder.result()
        database.dispose()


class TestClock:
    def test_is_the_time_of_day_in_seconds(self, database: Database) -> None:
        with database.reading() as session:
            told = session.scalar(select(now()))
        assert told == pytest.approx(time.time(), abs=5)

    def test_goes_on_within_a_transaction(self, database: Database) -> None:
        with database.writing() as session:
            first = session.scalar(select(now()))
            time.sleep(0.02)
            second = session.scalar(select(now()))
        assert first is not None and second is not None
        assert 0.01 < second - first < 5


def fail_after_a_write(database: Database, run_id: str) -> None:
    with database.writing() as session:
        runs.transition(session, run_id, "cancelled")
        raise ZeroDivisionError
