"""The trainer's writing thread."""

import errno
import math
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from sqlalchemy import select
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from app.db.engine import Database
from app.db.models import ResumeState
from app.db.repositories import jobs, metrics
from app.db.repositories.training import StaleAttempt
from tests.db import scene
from tests.jobs.scene import eventually
from worker.jobs import writer as module
from worker.jobs.writer import Batch, Row, Write, Writer, by_run
from worker.jobs.writes import Fence, Folders, Publish
from worker.rl.reporter import State


def row(step: int, *values: float, runs: tuple[str, ...] = ("a", "b")) -> Row:
    return Row(step, float(step), runs, {"k": np.array(values)})


def test_points_are_sorted_by_run_and_key() -> None:
    points = by_run([row(1, 1.0, math.nan), row(2, 2.0, 20.0), row(3, 30.0, runs=("b",))])
    assert points["a"]["k"][0].tolist() == [1, 2]
    assert points["b"]["k"][0].tolist() == [2, 3], "NaN is no value"
    assert points["b"]["k"][1].tolist() == [20.0, 30.0]


def test_the_last_of_several_values_at_one_step_stays() -> None:
    points = by_run([row(1, 1.0, 1.0), row(1, 2.0, 2.0), row(2, 3.0, 3.0)])
    assert points["a"]["k"][0].tolist() == [1, 2]
    assert points["a"]["k"][1].tolist() == [2.0, 3.0]


def test_infinite_values_are_kept_to_be_flagged() -> None:
    assert by_run([row(1, math.inf, 0.0)])["a"]["k"][1].tolist() == [math.inf]


class Note(Write):
    """A write that keeps a log of what happened to it."""

    urgent = True

    def __init__(self, log: list[str], name: str, *, begins: bool = False) -> None:
        self.log = log
        self.name = name
        self.begins = begins  # type: ignore[misc]

    def prepare(self) -> None:
        self.log.append(f"prepare {self.name}")

    def apply(self, session: Session) -> tuple[str, ...]:
        self.log.append(f"apply {self.name}")
        return (f"jobs/{self.name}",)


class Outage(Write):
    """A database that is away, from the first write until it is over."""

    begins = True
    urgent = True

    def __init__(self) -> None:
        self.felt = threading.Event()
        self.over = threading.Event()

    def apply(self, session: Session) -> tuple[str, ...]:
        self.felt.set()
        if not self.over.is_set():
            raise OperationalError("SELECT 1", None, ConnectionError("away"))
        return ()


class TestWriter:
    @pytest.fixture
    def made(self, database: Database) -> scene.Scene:
        made = scene.make(database)
        made.begin()
        return made

    @pytest.fixture
    def writer(self, made: scene.Scene, database: Database) -> Iterator[Writer]:
        self.retired: list[str] = []
        writer = Writer(database, job_id=made.job_id, attempt=1, retire=self.retired.extend)
        yield writer
        if writer.is_alive():
            writer.close()

    def test_everything_is_written_at_its_end(self, writer: Writer, made: scene.Scene, database: Database) -> None:
        writer.start()
        log: list[str] = []
        for step in range(1, 101):
            writer.add_row(Row(step, 0.0, (made.run_id,), {"k": np.array([step / 2])}))
        writer.add(Note(log, "x"))
        writer.close()
        assert log == ["prepare x", "apply x"]
        assert self.retired == ["jobs/x"]
        with database.reading() as session:
            steps, values, *_ = metrics.series(session, made.run_id, "k")
        assert steps.tolist() == list(range(1, 101))
        assert values[-1] == 50.0

    def test_what_begins_comes_before_points_and_the_rest_after(self, writer: Writer) -> None:
        log: list[str] = []
        writer.add(Note(log, "last"))
        writer.add(Note(log, "first", begins=True))
        writer.start()
        writer.close()
        assert log[2:] == ["apply first", "apply last"]

    def test_a_stale_attempt_stops_the_training_thread(
        self, writer: Writer, made: scene.Scene, database: Database
    ) -> None:
        writer.start()
        with database.writing() as session:
            jobs.release(session, job_id=made.job_id, attempt=1, outcome="preempted")
        writer.add_row(Row(1, 0.0, (made.run_id,), {"k": np.array([1.0])}))
        with pytest.raises(StaleAttempt):
            writer.close()
        with pytest.raises(StaleAttempt):
            writer.check()
        with pytest.raises(StaleAttempt):
            writer.add(Note([], "x"))
        with database.reading() as session:
            assert metrics.latest(session, made.run_id) == []

    def test_training_waits_when_too_much_is_waiting(
        self, writer: Writer, made: scene.Scene, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "MAX_POINTS", 10)
        added = threading.Event()

        def train() -> None:
            for step in range(1, 21):
                writer.add_row(Row(step, 0.0, (made.run_id,), {"k": np.array([0.0])}))
            added.set()

        thread = threading.Thread(target=train)
        thread.start()
        time.sleep(0.2)
        assert not added.is_set()
        writer.start()
        assert added.wait(30)
        thread.join()

    def test_writes_count_until_they_are_stored(self, writer: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "MAX_WRITES", 3)
        outage, log = Outage(), list[str]()
        writer.start()
        writer.add(outage)
        assert outage.felt.wait(30)
        added = threading.Event()

        def train() -> None:
            for number in range(4):
                writer.add(Note(log, str(number)))
            added.set()

        thread = threading.Thread(target=train)
        thread.start()
        eventually(lambda: log == ["prepare 0", "prepare 1"], "two more fit")
        assert not added.wait(0.5)
        assert log == ["prepare 0", "prepare 1"]
        outage.over.set()
        assert added.wait(30)
        thread.join()
        writer.close()
        assert [line for line in log if line.startswith("apply")] == [f"apply {number}" for number in range(4)]

    def test_of_states_that_could_not_be_stored_the_newest_is_kept(
        self, writer: Writer, made: scene.Scene, database: Database, tmp_path: Path
    ) -> None:
        fence: Fence = {"job_id": made.job_id, "attempt": 1}
        folders = Folders(tmp_path, fence, None)
        outage = Outage()
        writer.start()
        writer.add(outage)
        for step in (10, 20, 20, 30):
            state, saved = State({"weights": torch.ones(1, 2)}, {"env_step": step}), threading.Event()
            writer.add(Publish(fence, folders, made.run_ids, state, saved))
            assert saved.wait(30)
        states = tmp_path / "jobs" / made.job_id / "a1"
        eventually(lambda: [folder.name for folder in states.iterdir()] == ["30"], "the others are removed")
        outage.over.set()
        writer.close()
        with database.reading() as session:
            pointer = session.scalars(select(ResumeState)).one()
        assert (pointer.env_steps, (tmp_path / pointer.path / "state.json").exists()) == (30, True)

    def test_a_full_disk_is_waited_for(
        self, writer: Writer, made: scene.Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        tried = fill_disk(monkeypatch, times=2)
        writer.start()
        writer.add(publish(made, tmp_path))
        writer.close()
        assert len(tried) > 2
        assert made.job().resume_state_id is not None
        assert [folder.name for folder in (tmp_path / "jobs" / made.job_id / "a1").iterdir()] == ["10"]

    def test_a_disk_that_stays_full_ends_it(
        self, writer: Writer, made: scene.Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "NO_SPACE_SECONDS", 0.1)
        fill_disk(monkeypatch, times=1000)
        writer.start()
        writer.add(publish(made, tmp_path))
        with pytest.raises(OSError, match="No space left"):
            writer.close()
        assert made.job().resume_state_id is None
        assert not list((tmp_path / "jobs" / made.job_id / "a1").iterdir())


def fill_disk(monkeypatch: pytest.MonkeyPatch, *, times: int) -> list[int]:
    """Let the first syncs fail as on a full disk. Returns what is synced from now on."""
    tried: list[int] = []

    def sync(descriptor: int) -> None:
        tried.append(descriptor)
        if len(tried) <= times:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", sync)
    return tried


def publish(made: scene.Scene, root: Path) -> Publish:
    fence: Fence = {"job_id": made.job_id, "attempt": 1}
    state = State({"weights": torch.ones(1, 2)}, {"env_step": 10})
    return Publish(fence, Folders(root, fence, None), made.run_ids, state, threading.Event())


def test_a_state_that_may_have_been_stored_is_not_given_up() -> None:
    fence: Fence = {"job_id": "job_1", "attempt": 1}
    folders = Folders(Path(), fence, None)
    first, second, third = (Publish(fence, folders, (), None, threading.Event()) for _ in range(3))
    batch = Batch(writes=[first], doubtful=1)
    batch.extend(Batch(writes=[second]))
    assert batch.give_up() == []
    batch.extend(Batch(writes=[third]))
    assert batch.give_up() == [(second, third)]
    assert batch.writes == [first, third]
