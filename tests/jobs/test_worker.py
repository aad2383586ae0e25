"""The worker process: when it refuses to start."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from app.db import migrate
from app.db.engine import Database


def start(database_url: str) -> subprocess.Popen[str]:
    settings = {"TRAINYARD_DATABASE_URL": database_url, "TRAINYARD_BROKER_URL": "redis://127.0.0.1:1/0"}
    return subprocess.Popen(
        [sys.executable, "-m", "worker"], env=os.environ | settings, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize(("revision", "advice"), [(None, "migrate it first"), ("of_tomorrow", "upgrade Trainyard")])
def test_a_schema_it_does_not_know_is_refused(tmp_path: Path, revision: str | None, advice: str) -> None:
    url = f"sqlite:///{tmp_path / 'trainyard.db'}"
    if revision is not None:
        migrate.migrate(url)
        database = Database(url)
        with database.engine.begin() as connection:
            connection.exec_driver_sql("UPDATE alembic_version SET version_num = 'of_tomorrow'")
        database.dispose()
    with start(url) as worker:
        _, said = worker.communicate(timeout=60)
    assert worker.returncode == 1
    assert said.startswith("trainyard worker: the database is at revision") and advice in said


def test_a_database_that_is_away_is_waited_for(tmp_path: Path) -> None:
    folder = tmp_path / "mounted late"
    with start(f"sqlite:///{folder / 'trainyard.db'}") as worker:
        assert worker.stderr is not None
        assert "the database is away" in worker.stderr.readline()
        folder.mkdir()
        assert "migrate it first" in worker.stderr.read()
    assert worker.returncode == 1
