"""Bring a database to the schema this code knows; refuse one that a newer version has changed.

SchemaError
├── SchemaTooNew     a newer Trainyard has migrated this database
└── SchemaOutdated   ``migrate`` has not been run
"""

import sys
from collections.abc import Callable
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, func, select, text
from sqlalchemy.exc import ArgumentError, DBAPIError

from app.db.engine import make_engine
from app.settings import get_settings

_LOCK = 0x7472_6169_6E79_6172
"""Key of PostgreSQL's advisory lock: one migrator at a time. On SQLite the immediate transaction serves."""


class SchemaError(Exception):
    """The database's schema is not the one this code works with."""


class SchemaTooNew(SchemaError):
    """The database was migrated by a newer version."""


class SchemaOutdated(SchemaError):
    """The database has to be migrated first."""


def migrate(url: str, revision: str = "head") -> None:
    """Upgrade the database to ``revision`` in one transaction. Safe to call from several processes at once.

    Raises:
        SchemaTooNew: the database has a revision this code does not know.
    """
    _run(url, command.upgrade, revision)


def downgrade(url: str, revision: str) -> None:
    """Take the database back to ``revision`` (``base``: no tables)."""
    _run(url, command.downgrade, revision)


def check(url: str) -> None:
    """Return if the database has exactly the schema this code knows.

    Raises:
        SchemaTooNew, SchemaOutdated: it has another one.
    """
    engine = make_engine(url, pool_size=1)
    try:
        with engine.connect() as connection:
            current, head = _current(connection), _scripts().get_current_head()
    finally:
        engine.dispose()
    if current != head:
        raise SchemaOutdated(f"the database is at revision {current}, this version needs {head}: migrate it first")


def _run(url: str, action: Callable[[Config, str], None], revision: str) -> None:
    engine = make_engine(url, pool_size=1)
    try:
        with engine.execution_options(writes=True).begin() as connection:
            if connection.dialect.name == "postgresql":
                connection.execute(text("SET LOCAL lock_timeout = 0"))  # another migrator may take its time
                connection.execute(select(func.pg_advisory_xact_lock(_LOCK)))
            _current(connection)
            action(_config(connection), revision)
    finally:
        engine.dispose()


def _current(connection: Connection) -> str | None:
    """The database's revision, None for an empty one."""
    current = MigrationContext.configure(connection).get_current_revision()
    known = {script.revision for script in _scripts().walk_revisions()}
    if current is not None and current not in known:
        raise SchemaTooNew(
            f"the database is at revision {current}, which this version does not know: upgrade Trainyard"
        )
    return current


def _config(connection: Connection | None = None) -> Config:
    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def _scripts() -> ScriptDirectory:
    return ScriptDirectory.from_config(_config())


def main() -> None:
    """``python -m app.db.migrate [URL]``: migrate to the newest revision. Without a URL the settings name it."""
    if len(sys.argv) > 2:
        sys.exit("usage: python -m app.db.migrate [URL]")
    try:
        migrate(sys.argv[1] if len(sys.argv) == 2 else get_settings().database_url)
    except DBAPIError as error:
        sys.exit(f"the database cannot be used: {' '.join(str(error.orig).split())}")
    except (ArgumentError, ImportError) as error:
        sys.exit(f"the database cannot be used: {error}")
    except SchemaError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
