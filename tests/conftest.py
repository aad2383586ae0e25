"""What the whole suite shares."""

import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from app.db.engine import Database
from app.db.migrate import migrate
from tests.postgres import Postgres, in_memory


def pytest_configure() -> None:
    """Processes in the background are begun with interrupts ignored, and hand that on to what tests interrupt."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a CUDA device where there is none."""
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="no CUDA device")
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(skip)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL server with a migrated database called ``trainyard``."""
    with Postgres(place=in_memory()) as server:
        server.execute("CREATE DATABASE trainyard")
        migrate(server.url("trainyard"))
        yield server


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated SQLite file."""
    path = tmp_path_factory.mktemp("sqlite") / "template.db"
    migrate(f"sqlite:///{path}")
    return path


@pytest.fixture
def sqlite_url(sqlite_template: Path, tmp_path: Path) -> str:
    """A fresh migrated SQLite database."""
    shutil.copyfile(sqlite_template, tmp_path / "trainyard.db")
    return f"sqlite:///{tmp_path / 'trainyard.db'}"


@pytest.fixture
def postgres_url(postgres: Postgres) -> str:
    """A migrated PostgreSQL database without rows and without connections of earlier tests. Leave its schema alone."""
    postgres.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()",
        *(f"DELETE FROM {table}" for table in ("experiments", "workers", "idempotency_keys")),  # the others cascade
        database="trainyard",
    )
    return postgres.url("trainyard")


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    """A fresh migrated database, of either kind in turn."""
    url: str = request.getfixturevalue("sqlite_url" if request.param == "sqlite" else "postgres_url")
    return url


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """A fresh migrated database, of either kind in turn."""
    database = Database(database_url)
    yield database
    database.dispose()
