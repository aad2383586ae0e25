"""``python -m benchmarks.footprint [start] [idle] [growth]``: how fast the embedded service starts, what memory it
takes while idle, and whether a long training grows (Atari, about half an hour of one core)."""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from benchmarks.service import Service, service

PONG: dict[str, Any] = {
    "environment": {"id": "ALE/Pong-v5"},
    "algorithm": {
        "name": "dqn",
        "learning_rate": 1e-4,
        "batch_size": 32,
        "buffer_size": 10_000,
        "train_every": 4,
        "epsilon_fraction": 0.1,
    },
    "training": {"total_env_steps": 100_000, "evaluate_every": 50_000, "evaluation_episodes": 1},
    "seeds": [0],
}
"""The replay is full after a tenth: what grows later is not the replay."""


def pss(pid: int) -> float:
    """Proportional set size in MB: shared pages count by their share."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) * 1024 / 1e6


def start() -> None:
    """Print how long a start takes."""
    times = []
    for _ in range(5):
        with service() as running:
            times.append(running.start_seconds)
    print(f"start-up to ready: median {statistics.median(times):.2f} s, longest {max(times):.2f} s")


def idle() -> None:
    """Print the memory of each process and of all."""
    with service() as running:
        running.await_spare()
        total = 0.0
        for process in running.family():
            size = pss(process.pid)
            total += size
            print(f"  {size:6.0f} MB  {' '.join(process.cmdline())[:100]}")
    print(f"idle, spare included: {total:.0f} MB PSS")


def growth() -> None:
    """Print the memory of the process that trains, and of the others, along a training on Pong."""
    print("Pong, DQN with a replay of 10,000 steps:\n  env steps  training     others")
    with service(slots=1, frozen_seconds=600) as running:
        (run_id,) = running.post(PONG)
        due = 5_000
        while (run := running.ask(f"/v1/runs/{run_id}"))["status"] != "succeeded":
            if run["status"] in ("failed", "cancelled"):
                raise SystemExit(f"{run['status']}: {run['reason']}")
            if run["progress"]["env_steps"] >= due:
                print(f"  {run['progress']['env_steps']:9,}  {_shares(running)}", flush=True)
                due += 5_000
            time.sleep(0.5)


def _shares(running: Service) -> str:
    """Of the trainer that has worked most, and of all other processes."""
    sizes = {}
    for process in running.family():
        with suppress(psutil.NoSuchProcess, FileNotFoundError):
            sizes[process.pid] = pss(process.pid)
    training = max(running.children("worker.jobs.trainer"), key=lambda process: sum(process.cpu_times()[:2])).pid
    return f"{sizes.pop(training):5.0f} MB  {sum(sizes.values()):6.0f} MB"


CASES: dict[str, Callable[[], None]] = {"start": start, "idle": idle, "growth": growth}


def main(argv: Sequence[str] | None = None) -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", choices=CASES, default=list(CASES))
    for name in parser.parse_args(argv).cases:
        CASES[name]()


if __name__ == "__main__":
    main()
