"""A worker's threads, in this process: where the machine, not the job, is at fault."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import select, text

from app.db.models import Attempt
from app.db.repositories import runs, workers
from app.schemas.experiment import ExperimentSpec, resolve
from app.services import experiments
from app.settings import Settings
from tests.jobs.scene import eventually, spec_of
from worker.jobs import dispatch, supervisor
from worker.jobs.host import Host
from worker.jobs.supervisor import usable_threads


@pytest.fixture
def host(sqlite_url: str, tmp_path: Path) -> Iterator[Host]:
    """One that is not started: its sweeper would ring for nobody."""
    settings = Settings(
        data_dir=tmp_path, database_url=sqlite_url, devices=("cpu",), spares=0, lease_seconds=1, sweep_seconds=1
    )
    host = Host(settings)
    yield host
    host.database.dispose()


def spec(**changes: object) -> ExperimentSpec:
    return resolve(ExperimentSpec.model_validate(spec_of((0,), "default", **changes)))


def test_a_worker_that_cannot_start_trainers_says_so(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    with host.database.writing() as session:
        [run] = experiments.create(session, spec()).experiment.runs
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    dispatch.work(host)
    with host.database.reading() as session:
        ended = runs.get(session, run.id)
        attempts = session.scalars(select(Attempt)).all()
    assert ended is not None and (ended.status, ended.reason_code) == ("failed", "no_trainer")
    assert ended.reason_message is not None and "/nowhere/python" in ended.reason_message
    assert [(attempt.outcome, attempt.code) for attempt in attempts] == [("crashed", "no_trainer")] * 3


STUCK = """
import ctypes, os
from worker.jobs.control import Control
from worker.jobs.protocol import READY
control = Control()
control.start()
os.write(1, READY + b"\\n")
def act():
    control.job()
    ctypes.PyDLL(None).sleep(600)
act()
"""


def test_a_trainer_that_its_watchdog_ended_says_where_it_stood(
    host: Host, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "stuck.py").write_text(STUCK)
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\nPYTHONPATH={Path.cwd()} exec {sys.executable} {tmp_path / 'stuck.py'}\n")
    python.chmod(0o700)
    with host.database.writing() as session:
        experiments.create(session, spec())
    monkeypatch.setattr(sys, "executable", str(python))
    dispatch.work(host)
    with host.database.reading() as session:
        attempts = session.scalars(select(Attempt)).all()
    assert [(attempt.outcome, attempt.code) for attempt in attempts] == [("crashed", "trainer_frozen")] * 3
    for attempt in attempts:
        assert attempt.message is not None and "did not react for 1 s" in attempt.message
        assert attempt.message.endswith(f'; it was at File "{tmp_path / "stuck.py"}", line 10 in act')


def test_heartbeats_go_on_whatever_the_database_says(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    def execute(sql: str) -> None:
        with host.database.writing() as session:
            session.execute(text(sql))

    def known() -> bool:
        with host.database.reading() as session:
            return bool(workers.live(session, 60))

    execute("CREATE TRIGGER refused BEFORE INSERT ON workers BEGIN SELECT RAISE(ABORT, 'not now'); END")
    host.start()
    eventually(lambda: "not now" in caplog.text, "the first heartbeat fails")
    execute("DROP TRIGGER refused")
    eventually(known, "a later one does not")
    host.stop()


def test_auto_threads_are_no_more_than_a_slot_has_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    wide = spec(algorithm={"hidden_sizes": [1024], "num_steps": 512})
    for cores, slots, threads in ((2, 1, 2), (1, 1, 1), (2, 2, 1), (8, 3, 2), (1, 2, 1)):
        monkeypatch.setattr(supervisor, "cores", lambda cores=cores: cores)
        assert usable_threads(wide, 1, slots) == threads
    asked = spec(algorithm={"hidden_sizes": [1024]}, resources={"threads": 3})
    assert usable_threads(asked, 1, 2) == 3, "what a user says is not changed"
