"""``python -m app.embedded``: broker, worker and API as one process group on one machine.

One instance per data directory, by an ``flock`` on it. The children import while the database is migrated, and run
once it is; each leads a session of its own, so that Ctrl-C reaches this process alone, which stops them in order: API,
worker, broker. API and worker also end when this process dies in any other way (``app.lifeline``); a broker left behind
is adopted by the next start.
"""

import argparse
import contextlib
import fcntl
import http.client
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from pydantic import ValidationError

from app.broker import Broker, BrokerError
from app.settings import Settings, messages

START_SECONDS = 60.0
API_SECONDS = 10.0
WORKER_SECONDS = 30.0
RESTART_SECONDS = 1.0


class StartError(RuntimeError):
    """The service cannot start; the message says why."""


class Signals:
    """Counts the signals that ask for an end, and wakes the waiting main thread. The handlers do nothing else."""

    def __init__(self) -> None:
        self.stops = 0
        self._read, write = socket.socketpair()
        self._read.setblocking(False)
        write.setblocking(False)
        self._write = write
        signal.set_wakeup_fd(write.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._stop)
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        self.stops += 1

    def wait(self, seconds: float) -> None:
        """Return after ``seconds``, or earlier when a signal came."""
        if select.select([self._read], [], [], seconds)[0]:
            with contextlib.suppress(BlockingIOError):
                self._read.recv(4096)


@dataclass
class Child:
    """A module run under ``app.lifeline``: started again when it dies."""

    name: str
    arguments: Sequence[str]
    environment: dict[str, str]
    process: subprocess.Popen[bytes] = field(init=False)
    started: float = 0.0

    def start(self) -> None:
        """Start importing."""
        self.started = time.monotonic()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "app.lifeline", *self.arguments],
            stdin=subprocess.PIPE,
            env=os.environ | self.environment,
            start_new_session=True,
        )

    def go(self) -> None:
        """Run."""
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):
            self.process.stdin.write(b"\n")
            self.process.stdin.flush()

    def alive(self) -> bool:
        return self.process.poll() is None

    def stop(self, seconds: float, signals: Signals) -> None:
        """SIGTERM; SIGKILL after ``seconds`` or once the user has asked twice."""
        if self.alive():
            self.process.terminate()
        deadline = time.monotonic() + seconds
        while self.alive() and time.monotonic() < deadline and signals.stops < 2:
            signals.wait(0.2)
        if self.alive():
            self.process.kill()
        self.process.wait()


class Service:
    """The processes of one instance."""

    def __init__(self, settings: Settings, signals: Signals) -> None:
        self._settings = settings
        self._signals = signals
        self._broker = None if settings.broker_url else Broker(settings.data_dir)
        broker_url = self._broker.url if self._broker else str(settings.broker_url)
        self._environment = environment = {
            "TRAINYARD_DATA_DIR": str(settings.data_dir),
            "TRAINYARD_HOST": settings.host,
            "TRAINYARD_PORT": str(settings.port),
            "TRAINYARD_BROKER_URL": broker_url,
        }
        served = ("--factory", "--host", settings.host, "--port", str(settings.port), "--log-level", "warning")
        stopping = ("--timeout-graceful-shutdown", "3", "--no-access-log", "--no-server-header")
        self._api = Child(
            "API", ("--import", "app.main", "uvicorn", "app.main:create_app", *served, *stopping), environment
        )
        self._worker = Child("worker", ("--import", "worker.tasks", "worker"), environment)

    def start(self) -> None:
        """Start everything and return when the API says it is ready.

        Raises:
            StartError, BrokerError: something did not start.
        """
        migration = subprocess.Popen(
            [sys.executable, "-m", "app.db.migrate"], env=os.environ | self._environment, start_new_session=True
        )
        if self._broker:
            self._broker.start()
        for child in (self._api, self._worker):
            child.start()
        while migration.poll() is None and not self._signals.stops:
            self._signals.wait(0.5)
        if migration.wait() != 0:
            raise StartError(f"migrating the database failed (exit status {migration.returncode})")
        if self._broker:
            self._broker.wait(10)
        for child in (self._api, self._worker):
            child.go()
        self._await_ready()

    def _await_ready(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not self._signals.stops and not self._ready():
            for child in (self._api, self._worker):
                if not child.alive():
                    raise StartError(f"the {child.name} ended at its start (exit status {child.process.returncode})")
            if time.monotonic() > deadline:
                raise StartError(f"the API was not ready within {START_SECONDS:.0f} s")
            self._signals.wait(0.02)

    def _ready(self) -> bool:
        connection = http.client.HTTPConnection(_reachable(self._settings.host), self._settings.port, timeout=2)
        try:
            connection.request("GET", "/readyz")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()

    def watch(self) -> None:
        """Start again what dies, until a signal asks for the end."""
        while not self._signals.stops:
            self._signals.wait(1.0)
            now = time.monotonic()
            for child in (self._api, self._worker):
                if not child.alive() and now > child.started + RESTART_SECONDS and not self._signals.stops:
                    _say(f"the {child.name} ended (exit status {child.process.returncode}); starting it again")
                    child.start()
                    child.go()
            if self._broker and not self._broker.alive():
                _say("the broker ended; starting it again")
                self._broker.start()

    def stop(self) -> None:
        """End API, worker and broker, in this order."""
        self._stop(self._api, API_SECONDS)
        self._stop(self._worker, WORKER_SECONDS)
        if self._broker:
            self._broker.stop()

    def _stop(self, child: Child, seconds: float) -> None:
        if hasattr(child, "process"):
            child.stop(seconds, self._signals)


class Instance:
    """The lock on a data directory; its file says where the instance that holds it listens."""

    def __init__(self, data_dir: Path) -> None:
        data_dir.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(data_dir / "instance.lock", os.O_RDWR | os.O_CREAT, 0o600)

    def lock(self) -> bool:
        """Take the lock; False if another instance has it. It goes with this process, however it ends."""
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        os.ftruncate(self._descriptor, 0)
        return True

    def write(self, url: str) -> None:
        """Tell other instances where this one listens."""
        os.pwrite(self._descriptor, json.dumps({"pid": os.getpid(), "url": url}).encode(), 0)

    def holder(self) -> str:
        """Where the instance that holds the lock listens, and which process it is."""
        deadline = time.monotonic() + 2
        while time.monotonic() < deadline:
            if content := os.pread(self._descriptor, 4096, 0):
                told = json.loads(content)
                return f"{told['url']} (process {told['pid']})"
            time.sleep(0.05)
        return "an address it has not told yet"


def _reachable(host: str) -> str:
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - it is being replaced


def _free_port(host: str, port: int) -> int:
    """``port``, or a free one for 0. Waits a little for the API of an instance that was killed just before."""
    deadline = time.monotonic() + 5
    while True:
        try:
            with socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
                return int(probe.getsockname()[1])
        except OSError as error:
            if time.monotonic() > deadline:
                raise StartError(f"cannot listen on {host}:{port}: {error.strerror}") from error
            time.sleep(0.2)


def _say(message: str) -> None:
    with contextlib.suppress(OSError):  # nobody may be reading any more
        sys.stdout.write(f"trainyard: {message}\n")
        sys.stdout.flush()


def _settings(arguments: argparse.Namespace) -> Settings:
    given = {name: value for name, value in vars(arguments).items() if value is not None}
    return Settings(**given)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the service in the foreground. Returns the exit status."""
    began = time.monotonic()
    parser = argparse.ArgumentParser(prog="trainyard up", description="Run API, worker and broker on this machine.")
    parser.add_argument("--host", help="address to listen on (127.0.0.1; others need TRAINYARD_API_KEY)")
    parser.add_argument("--port", type=int, help="port to listen on (8000; 0 takes a free one)")
    parser.add_argument("--data-dir", dest="data_dir", type=Path, help="where everything is kept (./.trainyard)")
    arguments = parser.parse_args(argv)
    try:
        settings = _settings(arguments)
    except ValidationError as error:
        for message in messages(error):
            _say(message)
        return 2
    signals = Signals()
    try:
        return _run(settings, signals, began)
    except (StartError, BrokerError, OSError) as error:
        _say(str(error))
        return 1


def _run(settings: Settings, signals: Signals, began: float) -> int:
    instance = Instance(settings.data_dir)
    if not instance.lock():
        _say(f"already running at {instance.holder()}; it holds {settings.data_dir}")
        return 1
    settings = settings.model_copy(update={"port": _free_port(settings.host, settings.port)})
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    url = f"http://{host}:{settings.port}"
    instance.write(url)
    service = Service(settings, signals)
    try:
        service.start()
        if not signals.stops:
            _say(f"ready at {url} after {time.monotonic() - began:.1f} s; Ctrl-C ends it")
        service.watch()
        _say("stopping")
    finally:
        service.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
