"""A database that is away for a while: training goes on, nothing is lost."""

import sqlite3
import time

from tests.jobs.scene import LEASE, Stage
from tests.postgres import Postgres


def assert_nothing_is_missing(stage: Stage, run_id: str) -> None:
    run = stage.await_status(run_id, "succeeded")
    steps = [step for step, _ in stage.series(run_id)["losses/value"]]
    assert steps == list(range(256, run.env_steps + 1, 256))
    assert len(stage.attempts(run_id)) == 1, "the same trainer all the while"
    assert stage.statuses(run_id) == ["queued", "starting", "running", "succeeded"]


def test_a_server_that_refuses_connections(postgres: Postgres, postgres_stage: Stage) -> None:
    stage = postgres_stage
    stage.start_worker()
    [run_id] = stage.post(total_env_steps=60_000, checkpoint_every=10_000, algorithm={"epochs": 10})
    stage.await_steps(run_id, 1_000)
    name = stage.database.engine.url.database
    postgres.execute(f"ALTER DATABASE {name} WITH ALLOW_CONNECTIONS false")  # for longer than a lease
    postgres.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")
    time.sleep(1.5 * LEASE)
    postgres.execute(f"ALTER DATABASE {name} WITH ALLOW_CONNECTIONS true")
    assert_nothing_is_missing(stage, run_id)


def test_a_file_that_is_locked(stage: Stage) -> None:
    stage.start_worker()
    [run_id] = stage.post(total_env_steps=60_000, checkpoint_every=10_000, algorithm={"epochs": 10})
    stage.await_steps(run_id, 1_000)
    with sqlite3.connect(stage.folder / "trainyard.db", isolation_level=None, timeout=30) as other:
        other.execute("BEGIN IMMEDIATE")
        time.sleep(LEASE / 2)
        other.execute("COMMIT")
    other.close()
    assert_nothing_is_missing(stage, run_id)
