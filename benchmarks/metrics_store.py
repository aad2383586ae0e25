"""How fast metric points go in and come back, and what writing trainers cost the API, on SQLite and PostgreSQL.

    python -m benchmarks.metrics_store [--points 1000000] [--seconds 10]

Both databases are on disk with their durable settings. Ingest is one writer with flushes of 4,096 points over eight
series, each in a fenced transaction of its own, as a trainer writes them. The write of the API creates an experiment
with a job and four runs, while eight trainer processes flush (a point for each of 15 series of four runs) 50 times a
second in all.
"""

import argparse
import multiprocessing as mp
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.synchronize import Event
from pathlib import Path
from statistics import median

import numpy as np

from app.db.engine import Database
from app.db.ids import new_id
from app.db.migrate import migrate
from app.db.repositories import experiments, jobs, metrics, runs, training
from app.db.repositories.metrics import Points
from app.settings import sqlite_url
from tests.postgres import Postgres

FLUSH = 4096
KEYS = 8
TRAINERS = 8
FLUSHES_PER_SECOND = 50


@dataclass(frozen=True)
class Training:
    """A job that an attempt holds."""

    job_id: str
    attempt: int
    run_ids: tuple[str, ...]

    def flush(self, database: Database, points: dict[str, dict[str, Points]]) -> None:
        with database.writing() as session:
            training.append_metrics(session, job_id=self.job_id, attempt=self.attempt, points=points, progress={})


def create(database: Database, run_count: int) -> tuple[str, tuple[str, ...]]:
    """What a POST writes. Returns the job's and the runs' ids."""
    experiment_id, job_id = new_id("exp"), new_id("job")
    run_ids = tuple(new_id("run") for _ in range(run_count))
    with database.writing() as session:
        experiments.create(
            session, experiment_id=experiment_id, name="benchmark", spec={}, spec_hash="sha256:00", tags={}
        )
        jobs.create(session, job_id=job_id, experiment_id=experiment_id, queue=job_id, device="cpu")
        new = [runs.NewRun(run_id, job_id, position, position) for position, run_id in enumerate(run_ids)]
        runs.create(session, experiment_id=experiment_id, total_env_steps=10**9, runs=new)
    return job_id, run_ids


def begin(database: Database, run_count: int) -> Training:
    """A job with its runs, claimed and begun."""
    job_id, run_ids = create(database, run_count)
    with database.writing() as session:
        claim = jobs.claim(session, worker_id="bench", queues=[job_id], devices=["cpu"], lease_seconds=600)
        assert claim is not None
        training.begin(session, job_id=job_id, attempt=claim.attempt, env_steps=0, device="cpu", facts={})
    return Training(job_id, claim.attempt, run_ids)


def ingest(database: Database, total: int) -> float:
    """Points per second of one writer."""
    held, generator, per_key = begin(database, 1), np.random.default_rng(0), FLUSH // KEYS
    flushes = []
    for first in range(0, total // KEYS, per_key):
        steps = np.arange(first, first + per_key, dtype=np.int64)
        series = {f"losses/{key}": (steps, generator.normal(size=per_key), steps * 1e-3) for key in range(KEYS)}
        flushes.append({held.run_ids[0]: series})
    started = time.perf_counter()
    for flush in flushes:
        held.flush(database, flush)
    return len(flushes) * FLUSH / (time.perf_counter() - started)


def read(database: Database, total: int) -> float:
    """Seconds from the database to 1,000 buckets of a series of ``total`` points (median of 15)."""
    held, generator = begin(database, 1), np.random.default_rng(0)
    for first in range(0, total, FLUSH):
        steps = np.arange(first, min(first + FLUSH, total), dtype=np.int64)
        held.flush(database, {held.run_ids[0]: {"k": (steps, generator.normal(size=len(steps)), steps * 1e-3)}})

    def once() -> None:
        with database.reading() as session:
            steps, values = metrics.series(session, held.run_ids[0], "k")
        buckets = metrics.downsample(steps, values, 1000)
        assert len(steps) == total and len(buckets.step) == 1000

    return median(timed(once, 15))


def api_writes(database: Database, url: str, seconds: float) -> tuple[float, float, float]:
    """Seconds of the API's write beside eight trainers: median and 99th percentile; and flushes per second reached."""
    context = mp.get_context("spawn")
    stop, flushed = context.Event(), context.Value("q", 0)
    trainers = [context.Process(target=trainer, args=(url, stop, flushed), daemon=True) for _ in range(TRAINERS)]
    for process in trainers:
        process.start()
    while flushed.value < 2 * TRAINERS:
        time.sleep(0.1)
    taken, before, started = [], flushed.value, time.perf_counter()
    while time.perf_counter() - started < seconds:
        taken += timed(lambda: create(database, 4), 1)
        time.sleep(0.02)
    rate = (flushed.value - before) / (time.perf_counter() - started)
    stop.set()
    for process in trainers:
        process.join()
    median_, p99 = np.percentile(taken, [50, 99])
    return float(median_), float(p99), rate


def trainer(url: str, stop: Event, flushed: "mp.sharedctypes.Synchronized[int]") -> None:
    """Flush at a fixed rate until told to stop."""
    database = Database(url, pool_size=1)
    held, step = begin(database, 4), 0
    due = time.perf_counter()
    while not stop.is_set():
        step += 1
        point = (np.array([step], dtype=np.int64), np.array([1.0]), np.array([1.0]))
        held.flush(database, {run_id: {f"k{key}": point for key in range(15)} for run_id in held.run_ids})
        with flushed.get_lock():
            flushed.value += 1
        due += TRAINERS / FLUSHES_PER_SECOND
        time.sleep(max(0.0, due - time.perf_counter()))
    database.dispose()


def timed(call: Callable[[], object], times: int) -> list[float]:
    taken = []
    for _ in range(times):
        started = time.perf_counter()
        call()
        taken.append(time.perf_counter() - started)
    return taken


def measure(name: str, url: str, points: int, seconds: float) -> None:
    migrate(url)
    database = Database(url)
    print(f"{name:<12} ingest              {ingest(database, points):>12,.0f} points/s")
    print(f"{name:<12} {points:,} points to 1,000 buckets {1e3 * read(database, points):>8.1f} ms")
    median_, p99, rate = api_writes(database, url, seconds)
    print(f"{name:<12} API write beside {rate:.0f} flushes/s: median {1e3 * median_:.1f} ms, p99 {1e3 * p99:.1f} ms")
    database.dispose()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=10.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measure("SQLite", sqlite_url(Path(folder) / "trainyard.db"), options.points, options.seconds)
    with Postgres({}) as server:
        server.execute("CREATE DATABASE trainyard")
        measure("PostgreSQL", server.url("trainyard"), options.points, options.seconds)


if __name__ == "__main__":
    main()
