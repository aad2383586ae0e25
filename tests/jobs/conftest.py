"""One broker for all tests of jobs; a stage for each, with a queue of its own."""

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.broker import Broker
from tests.jobs.scene import Stage


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A running broker."""
    broker = Broker(tmp_path_factory.mktemp("broker"))
    broker.start()
    broker.wait(20)
    yield broker
    broker.stop()


@pytest.fixture
def stage(sqlite_url: str, broker: Broker, tmp_path: Path) -> Iterator[Stage]:
    """On SQLite."""
    yield from _stage(sqlite_url, broker, tmp_path)


@pytest.fixture
def each_stage(database_url: str, broker: Broker, tmp_path: Path) -> Iterator[Stage]:
    """On SQLite and PostgreSQL in turn."""
    yield from _stage(database_url, broker, tmp_path)


@pytest.fixture
def postgres_stage(postgres_url: str, broker: Broker, tmp_path: Path) -> Iterator[Stage]:
    """On PostgreSQL."""
    yield from _stage(postgres_url, broker, tmp_path)


def _stage(database_url: str, broker: Broker, folder: Path) -> Iterator[Stage]:
    stage = Stage(database_url, broker.url, folder, queue=f"q{secrets.token_hex(4)}")
    yield stage
    stage.close()
