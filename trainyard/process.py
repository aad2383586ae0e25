"""The embedded service as a child process."""

import importlib.util
import os
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from trainyard.client import Client, TrainyardError

START_SECONDS = 60.0
STOP_SECONDS = 40.0


def command(arguments: Sequence[str]) -> list[str]:
    """How the embedded service is started.

    Raises:
        TrainyardError: if the service is not installed.
    """
    if importlib.util.find_spec("app") is None:
        raise TrainyardError("the service is not installed here: pip install 'trainyard[embedded]'")
    return [sys.executable, "-m", "app.embedded", *arguments]


def shell_command() -> str:
    """How a shell in this folder calls this very ``trainyard``: by name where PATH leads to it, else by its path."""
    python = Path(sys.executable)
    script, found = python.with_name("trainyard"), shutil.which("trainyard")
    if found and Path(found).parent.resolve() == script.parent.resolve():
        return "trainyard"
    path, rest = (script, "") if script.exists() else (python, " -m trainyard")
    below = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
    return shlex.quote(str(below)) + rest


def replace(arguments: Sequence[str]) -> NoReturn:
    """Become the embedded service: signals and the exit status are its own."""
    os.execv(sys.executable, command(arguments))  # noqa: S606


@contextmanager
def service(data_dir: Path, log: Path) -> Iterator[str]:
    """A service with default settings on a free port; yields its URL once it is ready, stops it at the end.

    It leads a session of its own, so that Ctrl-C reaches only us and it is stopped in order.
    """
    port = _free_port()
    url = f"http://127.0.0.1:{port}"
    with log.open("wb") as output:
        child = subprocess.Popen(
            command(["--host", "127.0.0.1", "--port", str(port), "--data-dir", str(data_dir)]),
            env={name: value for name, value in os.environ.items() if not name.startswith("TRAINYARD_")},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        _wait_until_ready(child, url, log)
        yield url
    finally:
        child.terminate()
        try:
            child.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def _wait_until_ready(child: "subprocess.Popen[bytes]", url: str, log: Path) -> None:
    end = time.monotonic() + START_SECONDS
    with Client(url) as client:
        while not client.ready():
            if child.poll() is not None:
                tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
                raise TrainyardError(f"the service ended while starting; the end of {log}:\n{tail}")
            if time.monotonic() > end:
                raise TrainyardError(f"the service was not ready after {START_SECONDS:.0f} s; see {log}")
            time.sleep(0.05)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
