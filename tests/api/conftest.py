"""The service as its clients see it, on a real database. Tests do a worker's part through the repositories."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

import app.main
from app.db.engine import Database
from app.settings import Settings
from tests.api.asgi import serve

ON_BOTH = pytest.mark.parametrize("url", ["sqlite", "postgresql"], indirect=True)
"""Runs a test on SQLite and on PostgreSQL; without it SQLite serves."""


class Bells:
    """Stands where the broker's doorbell is, and remembers. ``broken`` lets every ring fail."""

    def __init__(self) -> None:
        self.rung: list[str] = []
        self.broken = False

    def ring(self, queue: str) -> bool:
        self.rung.append(queue)
        return not self.broken

    def length(self, queue: str) -> int | None:
        return None

    def ping(self) -> bool:
        return not self.broken

    def close(self) -> None:
        """Nothing to close."""


@pytest.fixture
def url(request: pytest.FixtureRequest) -> str:
    kind = getattr(request, "param", "sqlite")
    found: str = request.getfixturevalue("sqlite_url" if kind == "sqlite" else "postgres_url")
    return found


@pytest.fixture
def settings(url: str, tmp_path: Path) -> Settings:
    return Settings(database_url=url, data_dir=tmp_path, lease_seconds=60, sweep_seconds=60, database_pool_size=4)


@pytest.fixture
def bells(monkeypatch: pytest.MonkeyPatch) -> Bells:
    bells = Bells()
    monkeypatch.setattr(app.main, "Doorbell", lambda broker_url: bells)
    return bells


@pytest.fixture
def client(settings: Settings, bells: Bells) -> Iterator[httpx.Client]:
    with serve(app.main.create_app(settings)) as client:
        yield client


@pytest.fixture
def database(settings: Settings) -> Iterator[Database]:
    """A second way into the service's database: the worker's."""
    database = Database(settings.database_url, pool_size=2)
    yield database
    database.dispose()
