"""Migrations: up, down, by several migrators at once, never past what this version knows, equal to the models."""

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import inspect, text

from app.db import migrate
from app.db.engine import make_engine
from app.db.models import Base
from tests.postgres import Postgres


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A database without tables."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'empty.db'}"
        return
    server: Postgres = request.getfixturevalue("postgres")
    server.execute("CREATE DATABASE empty")
    yield server.url("empty")
    server.execute("DROP DATABASE empty WITH (FORCE)")


def tables(url: str) -> set[str]:
    engine = make_engine(url)
    with engine.connect() as connection:
        names = set(inspect(connection).get_table_names())
    engine.dispose()
    return names - {"alembic_version"}


def execute(url: str, statement: str) -> None:
    engine = make_engine(url)
    with engine.begin() as connection:
        connection.execute(text(statement))
    engine.dispose()


class TestMigrate:
    def test_up_and_down_and_up(self, empty_url: str) -> None:
        with pytest.raises(migrate.SchemaOutdated):
            migrate.check(empty_url)
        migrate.migrate(empty_url)
        migrate.check(empty_url)
        assert tables(empty_url) == set(Base.metadata.tables)
        migrate.downgrade(empty_url, "base")
        assert tables(empty_url) == set()
        with pytest.raises(migrate.SchemaOutdated):
            migrate.check(empty_url)
        migrate.migrate(empty_url)
        migrate.migrate(empty_url)
        migrate.check(empty_url)

    def test_agrees_with_the_models(self, database_url: str) -> None:
        engine = make_engine(database_url)
        with engine.connect() as connection:
            context = MigrationContext.configure(connection, opts={"compare_type": True})
            differences = compare_metadata(context, Base.metadata)
        engine.dispose()
        assert differences == []

    def test_a_newer_schema_is_refused_and_left_alone(self, empty_url: str) -> None:
        migrate.migrate(empty_url)
        execute(empty_url, "UPDATE alembic_version SET version_num = '9999'")
        for refused in (migrate.check, migrate.migrate, lambda url: migrate.downgrade(url, "base")):
            with pytest.raises(migrate.SchemaTooNew, match="9999"):
                refused(empty_url)
        assert tables(empty_url) == set(Base.metadata.tables)

    def test_several_migrators_at_once(self, empty_url: str) -> None:
        command = [sys.executable, "-m", "app.db.migrate", empty_url]
        with ThreadPoolExecutor(3) as pool:
            runs = [pool.submit(subprocess.run, command, check=False) for _ in range(3)]
            assert [run.result().returncode for run in runs] == [0, 0, 0]
        migrate.check(empty_url)

    def test_a_failed_migration_leaves_nothing_behind(self, empty_url: str) -> None:
        execute(empty_url, "CREATE TABLE workers (id INTEGER)")
        with pytest.raises(Exception, match="workers"):
            migrate.migrate(empty_url)
        assert tables(empty_url) == {"workers"}


class TestCommand:
    def test_refusals_are_one_line(self, sqlite_url: str) -> None:
        execute(sqlite_url, "UPDATE alembic_version SET version_num = '9999'")
        for arguments in ([sqlite_url, "more"], [sqlite_url]):
            command = [sys.executable, "-m", "app.db.migrate", *arguments]
            ended = subprocess.run(command, check=False, capture_output=True, text=True)
            assert ended.returncode == 1
            assert len(ended.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "url", ["mysql://x/y", "oddly://x", "postgresql+psycopg://u:hush@127.0.0.1:1/x", "sqlite:///{}"]
)
def test_a_database_that_cannot_be_used_takes_one_line(tmp_path: Path, url: str) -> None:
    other = tmp_path / "other.db"
    other.write_text("not a database, but long enough to be read as one" * 40)
    command = [sys.executable, "-m", "app.db.migrate", url.format(other)]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 1
    [line] = ended.stderr.splitlines()
    assert line.startswith("the database cannot be used: ")
    assert "hush" not in line
