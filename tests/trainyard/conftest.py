"""The whole service, running, for the tests of what talks to it."""

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil
import pytest

from trainyard import Client, process

ROOT = Path(__file__).parents[2]
SPEC: dict[str, Any] = {
    "name": "client",
    "environment": {"id": "CartPole-v1", "num_envs": 8},
    "algorithm": {"name": "ppo"},
    "training": {
        "total_env_steps": 8_192,
        "evaluate_every": 4_096,
        "evaluation_episodes": 2,
        "checkpoint_every": 4_096,
    },
    "seeds": [0, 1],
}


@pytest.fixture(scope="session")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("service")
    with process.service(folder / "data", folder / "log") as url:
        yield url


@pytest.fixture
def client(url: str) -> Iterator[Client]:
    with Client(url) as client:
        yield client


@pytest.fixture(scope="session")
def trained(url: str) -> dict[str, Any]:
    """An experiment that has ended."""
    with Client(url) as client:
        experiment = client.create(SPEC)
        for run in experiment["runs"]:
            assert client.wait(run["id"])["status"] == "succeeded"
        return client.experiment(experiment["id"])


@pytest.fixture
def command(tmp_path: Path) -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    """Starts ``trainyard ...`` in an empty folder; whatever still runs at the end is killed."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str, **environment: str) -> "subprocess.Popen[str]":
        child = subprocess.Popen(
            [sys.executable, "-m", "trainyard", *arguments],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(child)
        return child

    yield start
    for child in started:
        if child.poll() is None:
            child.kill()
        child.communicate()


@pytest.fixture
def impostor() -> Iterator[Callable[..., Client]]:
    """Makes clients of a server that gives one answer to every request, and closes the connection."""
    with contextlib.ExitStack() as stack:

        def make(body: bytes, kind: str = "application/json", status: int = 200, missing: int = 0) -> Client:
            class Handler(BaseHTTPRequestHandler):
                def do_GET(self) -> None:
                    self.send_response(status)
                    self.send_header("Content-Type", kind)
                    self.send_header("Content-Length", str(len(body) + missing))
                    self.end_headers()
                    self.wfile.write(body)

                def log_message(self, *_: object) -> None: ...

            server = stack.enter_context(ThreadingHTTPServer(("127.0.0.1", 0), Handler))
            threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
            stack.callback(server.shutdown)
            return stack.enter_context(Client(f"http://127.0.0.1:{server.server_port}"))

        yield make


@pytest.fixture
def restarting() -> Iterator[Callable[..., Client]]:
    """Makes clients of a server that gives one answer, is away for a moment, gives the others, and ends."""
    with contextlib.ExitStack() as stack:

        def make(*answers: tuple[int, bytes], seen: list[str | None]) -> Client:
            left = list(answers)

            class Handler(BaseHTTPRequestHandler):
                def do_GET(self) -> None:
                    seen.append(self.headers["Last-Event-ID"])
                    status, body = left.pop(0)
                    self.send_response(status)
                    self.end_headers()
                    self.wfile.write(body)

                def log_message(self, *_: object) -> None: ...

            def serve(server: HTTPServer) -> None:
                with server:
                    server.handle_request()
                time.sleep(0.7)
                if left:
                    with HTTPServer(server.server_address, Handler) as again:
                        while left:
                            again.handle_request()

            first = HTTPServer(("127.0.0.1", 0), Handler)
            thread = threading.Thread(target=serve, args=(first,), daemon=True)
            thread.start()
            stack.callback(thread.join, 20)
            return stack.enter_context(Client(f"http://127.0.0.1:{first.server_port}"))

        yield make


def processes_of(folder: Path) -> list[str]:
    """Command lines of the processes that work in a data directory."""
    found = []
    for candidate in psutil.process_iter(["cmdline", "environ"]):
        known = " ".join(candidate.info["cmdline"] or []), (candidate.info["environ"] or {}).get("TRAINYARD_DATA_DIR")
        if str(folder) in known[0] or known[1] == str(folder):
            found.append(known[0])
    return found
