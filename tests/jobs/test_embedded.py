"""The whole service as one process group: started, doubled, killed, stopped."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.jobs.scene import PATIENCE, descendants, eventually, spec_of


class Instance:
    """A running ``python -m app.embedded``."""

    def __init__(self, data_dir: Path) -> None:
        self._output = data_dir.with_suffix(f".{time.monotonic_ns()}.log")
        environment = {"TRAINYARD_LEASE_SECONDS": "3", "TRAINYARD_SWEEP_SECONDS": "0.5"}
        with self._output.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "app.embedded", "--data-dir", str(data_dir), "--port", "0"],
                env=os.environ | environment,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    @property
    def output(self) -> str:
        return self._output.read_text()

    def url(self) -> str:
        """Where it listens, once it is ready."""

        def ready() -> str | None:
            assert self.process.poll() is None, self.output
            found = re.search(r"ready at (\S+)", self.output)
            return found[1] if found else None

        return str(eventually(ready, "ready"))

    def request(self, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url() + path, data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as response:
            return json.load(response)

    def post(self, **training: Any) -> str:
        """The id of the run of a new experiment."""
        return str(self.request("/v1/experiments", spec_of((0,), "default", **training))["runs"][0]["id"])

    def await_run(self, run_id: str, status: str, steps: int = 0) -> None:
        def reached() -> bool:
            run = self.request(f"/v1/runs/{run_id}")
            return bool(run["status"] == status and run["progress"]["env_steps"] >= steps)

        eventually(reached, f"{run_id} {status}", every=0.2)

    def family(self, *, broker: bool) -> list[psutil.Process]:
        """Everything it has started, with or without the broker."""
        found = [*descendants(self.process.pid)]
        return [process for process in found if broker or "server" not in process.name()]

    def child(self, word: str) -> psutil.Process:
        """The child with this argument."""
        return next(process for process in self.family(broker=True) if word in process.cmdline())


@pytest.fixture
def instances() -> Iterator[list[Instance]]:
    started: list[Instance] = []
    yield started
    for instance in started:
        for process in instance.family(broker=True):
            process.kill()
        instance.process.kill()
        instance.process.wait()


def gone(processes: list[psutil.Process]) -> None:
    eventually(lambda: not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in processes), "all ended")


def test_one_instance_per_folder_from_start_to_stop(instances: list[Instance], tmp_path: Path) -> None:
    first = Instance(tmp_path / "data")
    instances.append(first)
    url = first.url()
    second = Instance(tmp_path / "data")
    instances.append(second)
    assert second.process.wait(PATIENCE) == 1
    holder = f"already running at {url} (process {first.process.pid}); it holds {tmp_path / 'data'}"
    assert second.output == f"trainyard: {holder}\n"

    done = first.post(total_env_steps=1_000)
    first.await_run(done, "succeeded")
    interrupted = first.post(total_env_steps=10_000_000)
    first.await_run(interrupted, "running", 1_000)
    family = first.family(broker=True)
    assert len(family) >= 4
    first.process.send_signal(signal.SIGINT)
    assert first.process.wait(PATIENCE) == 0
    gone(family)

    third = Instance(tmp_path / "data")
    instances.append(third)
    before = third.request(f"/v1/runs/{interrupted}")["progress"]["env_steps"]
    third.await_run(interrupted, "running", before + 1_000)
    family = third.family(broker=True)
    for _ in range(2):  # in a hurry: nobody waits for a checkpoint
        third.process.send_signal(signal.SIGINT)
        time.sleep(0.1)
    assert third.process.wait(PATIENCE) == 0
    gone(family)


def test_nothing_is_orphaned_when_it_is_killed(instances: list[Instance], tmp_path: Path) -> None:
    first = Instance(tmp_path / "data")
    instances.append(first)
    run_id = first.post(total_env_steps=40_000)
    first.await_run(run_id, "running", 1_000)
    family, broker = first.family(broker=False), first.family(broker=True)
    first.process.kill()
    first.process.wait()
    gone(family)
    [left] = [process for process in broker if process not in family]
    assert left.is_running()

    heir = Instance(tmp_path / "data")
    instances.append(heir)
    heir.await_run(run_id, "succeeded")
    assert not any("server" in process.name() for process in heir.family(broker=True)), "it took the broker over"
    family = heir.family(broker=True)
    heir.process.send_signal(signal.SIGHUP)
    assert heir.process.wait(PATIENCE) == 0
    gone([*family, left])


def test_what_dies_is_started_again(instances: list[Instance], tmp_path: Path) -> None:
    instance = Instance(tmp_path / "data")
    instances.append(instance)
    run_id = instance.post(total_env_steps=40_000)
    instance.await_run(run_id, "running", 1_000)
    instance.child("worker").kill()
    instance.await_run(run_id, "succeeded")
    instance.child("uvicorn").kill()
    eventually(lambda: "API ended" in instance.output, "the end is noticed")

    def answers() -> bool:
        try:
            return bool(instance.request(f"/v1/runs/{run_id}"))
        except OSError:
            return False

    eventually(answers, "the API is back")
    instance.process.terminate()
    assert instance.process.wait(PATIENCE) == 0
