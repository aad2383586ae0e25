"""Starting the embedded service for a measurement, and asking it."""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil


class Service:
    """An embedded service in a folder of its own."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        environment = {f"TRAINYARD_{name.upper()}": str(value) for name, value in settings.items()}
        began = time.monotonic()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "app.embedded", "--data-dir", str(folder), "--port", "0"],
            env=os.environ | environment,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        self.start_seconds = time.monotonic() - began
        found = re.search(r"ready at (\S+)", line)
        if not found:
            raise SystemExit(f"the service did not start: {line}")
        self.url = found[1]

    def ask(self, path: str, body: Any = None) -> Any:
        """GET, or POST with a body."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as response:
            return json.load(response)

    def post(self, spec: dict[str, Any]) -> list[str]:
        """Create an experiment; the ids of its runs."""
        return [run["id"] for run in self.ask("/v1/experiments", spec)["runs"]]

    def await_status(self, run_id: str, *statuses: str, every: float = 0.02) -> dict[str, Any]:
        """Poll until the run has one of the statuses."""
        while (run := self.ask(f"/v1/runs/{run_id}"))["status"] not in statuses:
            if run["status"] in ("failed", "succeeded", "cancelled"):
                raise SystemExit(f"{run['status']}: {run['reason']}")
            time.sleep(every)
        return dict(run)

    def status_times(self, run_id: str) -> list[tuple[str, float]]:
        """Every status the run has had, and when (epoch seconds, the database's clock: the same machine's)."""
        events = self.ask(f"/v1/runs/{run_id}/events?limit=100")["data"]
        return [
            (event["data"]["status"], seconds(event["created_at"])) for event in events if event["type"] == "status"
        ]

    def times(self, run_id: str) -> tuple[float, float]:
        """When a finished run took its first step, and when it ended."""
        run = self.ask(f"/v1/runs/{run_id}")
        return seconds(run["started_at"]), seconds(run["finished_at"])

    def family(self) -> list[psutil.Process]:
        """The process and all that it has started."""
        parent = psutil.Process(self.process.pid)
        return [parent, *parent.children(recursive=True)]

    def child(self, word: str) -> psutil.Process:
        """The process with this argument."""
        return self.children(word)[0]

    def children(self, word: str) -> list[psutil.Process]:
        """The processes with this argument."""
        found = []
        for process in self.family():
            with suppress(psutil.NoSuchProcess):
                if word in process.cmdline():
                    found.append(process)
        return found

    def await_spare(self) -> None:
        """Wait until a trainer waits for a job: asleep, warm, without using the CPU."""
        while True:
            for spare in self.children("worker.jobs.trainer"):
                with suppress(psutil.NoSuchProcess):
                    if spare.cpu_percent(0.5) == 0.0 and sum(spare.cpu_times()[:2]) > 1:
                        return
            time.sleep(0.1)

    def stop(self) -> float:
        """End it; seconds it took."""
        began = time.monotonic()
        self.process.terminate()
        self.process.wait(60)
        return time.monotonic() - began


@contextmanager
def service(**settings: Any) -> Iterator[Service]:
    """A service in a temporary folder."""
    with tempfile.TemporaryDirectory() as folder:
        running = Service(Path(folder), **settings)
        try:
            yield running
        finally:
            running.stop()


def until(condition: Callable[[], Any], every: float = 0.01) -> float:
    """Wait for a condition; seconds it took."""
    began = time.monotonic()
    while not condition():
        time.sleep(every)
    return time.monotonic() - began


def seconds(time: str) -> float:
    """Epoch seconds of an RFC 3339 time."""
    return datetime.fromisoformat(time).timestamp()


def cartpole(total_env_steps: int, **training: Any) -> dict[str, Any]:
    """PPO on CartPole with its defaults."""
    return {
        "environment": {"id": "CartPole-v1"},
        "algorithm": {"name": "ppo"},
        "training": {"total_env_steps": total_env_steps} | training,
    }
