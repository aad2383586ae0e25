"""A server that is told to end does so at once, open streams or not."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx

from app.db.engine import Database
from tests.db.scene import make

GRACE = 120


def test_streams_do_not_hold_up_the_end(sqlite_url: str, tmp_path: Path) -> None:
    database = Database(sqlite_url)
    job = make(database)
    database.dispose()
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "uvicorn", "app.main:create_app", "--factory", "--port", str(port)]
    server = subprocess.Popen(
        [*command, "--timeout-graceful-shutdown", str(GRACE), "--log-level", "warning"],
        env=os.environ | {"TRAINYARD_DATABASE_URL": sqlite_url, "TRAINYARD_DATA_DIR": str(tmp_path)},
        stderr=subprocess.PIPE,
    )
    try:
        base = f"http://127.0.0.1:{port}"
        _await_ready(f"{base}/readyz")
        with httpx.stream("GET", f"{base}/v1/runs/{job.run_id}/stream", timeout=GRACE) as answer:
            lines = answer.iter_lines()
            while next(lines) != "event: status":
                pass
            began = time.monotonic()
            server.send_signal(signal.SIGTERM)
            assert "event: done" not in list(lines)
        _, errors = server.communicate(timeout=GRACE)
        assert time.monotonic() - began < GRACE / 2, "it ended by itself, not by the end of the grace"
        assert errors == b""
    finally:
        server.kill()
        server.wait()


def _await_ready(url: str) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            if httpx.get(url).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.1)
    raise AssertionError("the server did not become ready")
