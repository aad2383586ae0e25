"""Engines and sessions. The only place, with ``clock``, that knows which database it talks to."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from threading import Lock
from typing import Any

from sqlalchemy import Connection, Engine, Insert, create_engine, event
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import make_url
from sqlalchemy.orm import DeclarativeBase, Session, sessionmaker

BUSY_TIMEOUT_MS = 15_000
CONNECT_TIMEOUT_S = 5
_KEEPALIVE = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3, "tcp_user_timeout": 20_000}
"""PostgreSQL: a server that cannot be reached is noticed within half a minute, not after hours."""
STALL_MS = 15_000
"""PostgreSQL: how long to wait for a lock, and how long a process may hold its own without saying anything.

A frozen process keeps its connection, and would keep the row of its job locked for good.
"""


def make_engine(url: str, *, pool_size: int = 5) -> Engine:
    """An engine whose transactions read, or write when ``execution_options(writes=True)`` says so.

    PostgreSQL: a statement with the execution option ``binary_results`` fetches blobs as they are, not as text of twice
    their length.

    SQLite: WAL, and writing transactions begin IMMEDIATE, since one that reads first and writes then fails with
    "database is locked" whatever the timeout.
    """
    if make_url(url).get_backend_name() != "sqlite":
        engine = create_engine(
            url,
            pool_size=pool_size,
            max_overflow=pool_size,
            pool_pre_ping=True,
            connect_args={
                "connect_timeout": CONNECT_TIMEOUT_S,
                **_KEEPALIVE,
                "options": f"-c lock_timeout={STALL_MS} -c idle_in_transaction_session_timeout={STALL_MS}",
            },
        )
        event.listen(engine, "before_cursor_execute", _choose_format)
        return engine
    engine = create_engine(
        url, pool_size=pool_size, max_overflow=pool_size, connect_args={"timeout": BUSY_TIMEOUT_MS / 1000}
    )
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _choose_format(_conn: Any, cursor: Any, _sql: Any, _params: Any, context: Any, _many: bool) -> None:
    if context is not None and context.execution_options.get("binary_results"):
        cursor.format = 1


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # the driver would begin transactions of its own
    for pragma in (
        f"busy_timeout = {BUSY_TIMEOUT_MS}",
        "journal_mode = WAL",
        "synchronous = NORMAL",
        "foreign_keys = ON",
    ):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE" if connection.get_execution_options().get("writes") else "BEGIN")


def insert_missing(session: Session, model: type[DeclarativeBase]) -> Insert:
    """``INSERT … ON CONFLICT DO NOTHING`` in the dialect of the session's database."""
    if session.get_bind().dialect.name == "sqlite":
        return sqlite.insert(model).on_conflict_do_nothing()
    return postgresql.insert(model).on_conflict_do_nothing()


class Database:
    """One database and the two ways to use it. Safe to share between threads, not between processes.

    Args:
        url: SQLAlchemy URL: ``sqlite:///…`` or ``postgresql+psycopg://…``.
        pool_size: connections kept open; as many again may be opened at peaks.
    """

    def __init__(self, url: str, *, pool_size: int = 5) -> None:
        self.engine = make_engine(url, pool_size=pool_size)
        self._reading = sessionmaker(self.engine, expire_on_commit=False, autoflush=True)
        self._writing = sessionmaker(self.engine.execution_options(writes=True), expire_on_commit=False, autoflush=True)
        # SQLite lets whoever asks at the right moment write next: a thread among many could be passed over too long.
        self._turn: AbstractContextManager[object] = Lock() if self.engine.name == "sqlite" else nullcontext()

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A session for reading: what is written in it is rolled back."""
        with self._reading() as session:
            yield session

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """A session in one transaction: committed on success, rolled back on an exception. Not to be nested."""
        with self._turn, self._writing() as session, session.begin():
            yield session

    def dispose(self) -> None:
        """Close all connections."""
        self.engine.dispose()
