import platform
from pathlib import Path

import pytest

from app.db.engine import Database
from app.db.migrate import migrate
from app.db.repositories import workers
from app.settings import Settings
from worker.health import alive


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    settings = Settings(data_dir=tmp_path)
    migrate(settings.database_url)
    return settings


@pytest.mark.parametrize(("host", "expected"), [(platform.node(), True), ("elsewhere", False)])
def test_only_a_worker_of_this_host_counts(settings: Settings, host: str, expected: bool) -> None:
    database = Database(settings.database_url)
    with database.writing() as session:
        workers.register(session, workers.WorkerInfo("wrk_1", f"{host}:7", ("default",), ("cpu",)))
    database.dispose()
    assert alive(settings) is expected


def test_a_worker_that_shut_down_does_not(settings: Settings) -> None:
    database = Database(settings.database_url)
    with database.writing() as session:
        workers.register(session, workers.WorkerInfo("wrk_1", f"{platform.node()}:7", ("default",), ("cpu",)))
        workers.stop(session, "wrk_1")
    database.dispose()
    assert not alive(settings)


def test_a_database_that_is_away_is_no_crash(tmp_path: Path) -> None:
    assert not alive(Settings(data_dir=tmp_path / "nothing"))
