"""Actions per second: one API process on one core, ``wrk`` on another, authentication and validation on.

    python benchmarks/serving.py [--connections 16] [--seconds 5] [--repeats 3]

Untrained PPO policies of two sizes are exported as a worker would export them and asked over HTTP, for one observation
or for 64 per request, for the most likely action or for a sample. The best of the repeats is printed; beside it the
processor time of the API process per request, which other work on the machine disturbs less. Needs Linux, two cores and
``wrk``.
"""

import argparse
import hashlib
import json
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import torch

from app.db.engine import Database
from app.db.ids import new_id
from app.db.migrate import migrate
from app.db.models import Checkpoint, Experiment, Job, Run
from app.schemas.experiment import ExperimentSpec, resolve
from app.settings import sqlite_url
from worker.rl.algorithms import ppo
from worker.rl.envs.spaces import EnvSpec
from worker.rl.export import export_policy

ROOT = Path(__file__).parents[1]
SCRIPT = Path(__file__).with_suffix(".lua")
SERVER_CORE, CLIENT_CORE = "0", "1"
POLICIES = {"CartPole-v1": [64, 64], "HalfCheetah-v5": [256, 256]}


class Load(NamedTuple):
    """What ``wrk`` and the clock of the API process saw."""

    per_second: float
    p50_ms: float
    p99_ms: float
    failed: int
    cpu_us: float


def add_policy(database: Database, artifacts: Path, environment_id: str, hidden: list[int]) -> tuple[str, EnvSpec]:
    """A run with one checkpoint: an untrained policy."""
    algorithm = {"name": "ppo", "hidden_sizes": hidden}
    spec = resolve(ExperimentSpec.model_validate({"environment": {"id": environment_id}, "algorithm": algorithm}))
    environment = gymnasium.make(environment_id)
    env_spec = EnvSpec.of(environment_id, environment.observation_space, environment.action_space)
    environment.close()
    agent = ppo.build(spec.algorithm, env_spec, [0], torch.device("cpu"), 1, 1)  # type: ignore[arg-type]
    ids = {kind: new_id(kind) for kind in ("exp", "job", "run", "ckpt")}
    folder = artifacts / ids["run"]
    folder.mkdir(parents=True)
    files = []
    for name, content in export_policy(agent, 0, env_spec, spec).items():
        (folder / name).write_bytes(content)
        files.append({"name": name, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()})
    parents = {"experiment_id": ids["exp"], "created_at": 0.0}
    rows: list[Any] = [
        Experiment(id=ids["exp"], name="benchmark", spec={}, spec_hash="", tags={}, created_at=0.0),
        Job(id=ids["job"], queue="default", device="cpu", status="ended", **parents),
        Run(id=ids["run"], job_id=ids["job"], position=0, seed=0, status="succeeded", total_env_steps=1, **parents),
        Checkpoint(id=ids["ckpt"], run_id=ids["run"], attempt=1, env_steps=1, kind="best", path=ids["run"]),
    ]
    rows[-1].files, rows[-1].created_at = files, 0.0
    with database.writing() as session:
        for row in rows:
            session.add(row)
            session.flush()
    return ids["run"], env_spec


@contextmanager
def serve(data_dir: Path, key: str) -> Iterator[tuple[str, int]]:
    """URL and process id of an API process on one core."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    server = ["uvicorn", "app.main:create_app", "--factory", "--port", str(port), "--log-level", "warning"]
    options = ["--no-access-log", "--no-server-header", "--loop", "uvloop", "--http", "httptools"]
    environment = os.environ | {"TRAINYARD_DATA_DIR": str(data_dir), "TRAINYARD_API_KEY": key}
    process = subprocess.Popen(
        ["taskset", "-c", SERVER_CORE, sys.executable, "-m", *server, *options], cwd=ROOT, env=environment
    )
    try:
        wait_until_up(url)
        yield url, process.pid
    finally:
        process.terminate()
        process.wait()


def wait_until_up(url: str) -> None:
    """Raises TimeoutError after half a minute."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            urllib.request.urlopen(f"{url}/healthz").close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise TimeoutError("the API did not start")


def cpu_seconds(pid: int) -> float:
    """Processor time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(url: str, pid: int, path: str, body: Path, key: str, connections: int, seconds: int) -> Load:
    """One run of ``wrk``."""
    before = cpu_seconds(pid)
    threads = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", str(SCRIPT), url, "--", path, str(body), key]
    output = subprocess.run(["taskset", "-c", CLIENT_CORE, *threads], check=True, capture_output=True, text=True)
    seen = json.loads(output.stdout.splitlines()[-1])
    cpu_us = (cpu_seconds(pid) - before) / seen["requests"] * 1e6
    return Load(seen["requests"] / seen["seconds"], seen["p50_ms"], seen["p99_ms"], seen["failed"], cpu_us)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    key = secrets.token_hex(32)
    with tempfile.TemporaryDirectory() as folder:
        data_dir = Path(folder)
        url = sqlite_url(data_dir / "trainyard.db")
        migrate(url)
        database = Database(url)
        policies = {
            name: add_policy(database, data_dir / "artifacts", name, hidden) for name, hidden in POLICIES.items()
        }
        database.dispose()
        print(f"{'policy':16}{'batch':>6}{'action':>8}{'req/s':>9}{'obs/s':>10}{'p50 ms':>8}{'p99 ms':>8}{'cpu µs':>8}")
        with serve(data_dir, key) as (url, pid):
            for name, (run_id, env_spec) in policies.items():
                shape = (64, *env_spec.observation_shape)
                observations = np.random.default_rng(0).normal(size=shape).astype(np.float32).tolist()
                for batch in (1, 64):
                    for sampled in (False, True):
                        asked: dict[str, Any] = (
                            {"observation": observations[0]} if batch == 1 else {"observations": observations}
                        )
                        body = data_dir / "body.json"
                        body.write_text(json.dumps(asked | ({"deterministic": False, "seed": 7} if sampled else {})))
                        loads = [
                            measure(
                                url,
                                pid,
                                f"/v1/runs/{run_id}/actions",
                                body,
                                key,
                                options.connections,
                                options.seconds,
                            )
                            for _ in range(options.repeats)
                        ]
                        best = max(loads)
                        failed = sum(load.failed for load in loads)
                        print(
                            f"{name:16}{batch:>6}{'sample' if sampled else 'best':>8}{best.per_second:>9.0f}"
                            f"{best.per_second * batch:>10.0f}{best.p50_ms:>8.2f}{best.p99_ms:>8.2f}"
                            f"{min(load.cpu_us for load in loads):>8.1f}" + (f"  {failed} FAILED" if failed else ""),
                            flush=True,
                        )


if __name__ == "__main__":
    main()
