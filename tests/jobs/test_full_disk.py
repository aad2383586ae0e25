"""A disk without room: training waits, and says why it ends where nobody makes any."""

import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.db.engine import Database
from tests.jobs.scene import Stage
from tests.jobs.test_control import JOB
from worker.jobs import training
from worker.jobs.control import Control
from worker.jobs.protocol import JobMessage
from worker.jobs.trainer import _train


def mount(*arguments: str) -> bool:
    """Whether this process may do that."""
    return subprocess.run(["mount", *arguments], check=False, capture_output=True).returncode == 0


@pytest.fixture
def small_disk(stage: Stage) -> Iterator[Path]:
    """A file system of its own for the artifacts, with room for nearly nothing."""
    stage.artifacts.mkdir()
    if not mount("-t", "tmpfs", "-o", "size=16k", "tmpfs", str(stage.artifacts)):
        pytest.skip("only root can mount")
    yield stage.artifacts
    stage.close()
    subprocess.run(["umount", "--lazy", str(stage.artifacts)], check=True)


def test_training_goes_on_once_there_is_room(stage: Stage, small_disk: Path) -> None:
    stage.start_worker()
    [run_id] = stage.post(total_env_steps=10_000)
    stage.await_log(run_id, "the disk is full")
    assert stage.run(run_id).status == "running"
    assert mount("-o", "remount,size=64m", str(small_disk))
    stage.await_status(run_id, "succeeded")
    assert [attempt.attempt for attempt in stage.attempts(run_id)] == [1]


def test_the_reason_is_in_words(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> bool:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/models/jobs")

    monkeypatch.setattr(training, "train", full)
    database = Database(sqlite_url)
    verdict = _train(JobMessage.model_validate(JOB | {"artifacts_dir": "/models"}), Control(), database)
    database.dispose()
    assert (verdict.code, verdict.retryable) == ("disk_full", True)
    assert verdict.message.startswith("there is no room in /models") and "No space left" in verdict.message
