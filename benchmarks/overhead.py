"""``python -m benchmarks.overhead``: what training through the service costs against calling the driver.

Both train the same spec with the same number of threads, in turn, so that a busy machine disturbs both alike. The time
is that from the first training step to the end of the run, its evaluations and checkpoints included.
"""

import argparse
import statistics
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import psutil
import torch

from app.schemas.experiment import ExperimentSpec, resolve
from benchmarks.service import Service, cartpole, service
from worker.rl import drivers, memory
from worker.rl.reporter import MemoryReporter, Outcome, Reason, Result, State


@dataclass
class Stopwatch(MemoryReporter):
    """Keeps everything in memory and takes the time."""

    began: float = 0.0
    ended: float = field(default=0.0)

    def started(self, env_step: int) -> None:
        super().started(env_step)
        self.began = time.perf_counter()

    def finish(
        self, replica: int, outcome: Outcome, result: Result | None, reason: Reason | None, state: State | None
    ) -> None:
        super().finish(replica, outcome, result, reason, state)
        self.ended = time.perf_counter()


@dataclass(frozen=True)
class Cost:
    """Of one training: seconds from its first step to its end, and processor seconds of the process that trained."""

    wall: float
    cpu: float


def direct(spec: ExperimentSpec, seeds: Sequence[int]) -> Cost:
    """Training in this process."""
    reporter = Stopwatch(list(seeds))
    before = time.process_time()
    drivers.train(spec, seeds, reporter)
    return Cost(reporter.ended - reporter.began, time.process_time() - before)


def through(running: Service, spec: ExperimentSpec, seeds: Sequence[int]) -> Cost:
    """Training through the service."""
    running.await_spare()
    [trainer] = running.children("worker.jobs.trainer")
    before = latest = sum(trainer.cpu_times()[:2])
    runs = running.post(spec.model_dump(mode="json") | {"seeds": list(seeds)})
    with suppress(psutil.NoSuchProcess):
        while trainer.status() != psutil.STATUS_ZOMBIE:
            latest = sum(trainer.cpu_times()[:2])
            time.sleep(0.02)
    for run_id in runs:
        running.await_status(run_id, "succeeded", every=0.5)
    times = [running.times(run_id) for run_id in runs]
    return Cost(max(ended for _, ended in times) - min(began for began, _ in times), latest - before)


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--env-steps", type=int, default=500_000)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--pairs", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    memory.keep_freed()
    seeds = range(arguments.seeds)
    spec = resolve(ExperimentSpec.model_validate(cartpole(arguments.env_steps)))
    direct(resolve(ExperimentSpec.model_validate(cartpole(20_000))), seeds)  # warms up
    pairs = []
    with service() as running:
        for _ in range(arguments.pairs):
            pairs.append((direct(spec, seeds), through(running, spec, seeds)))
            alone, served = pairs[-1]
            print(
                f"  driver {alone.wall:.2f} s ({alone.cpu:.2f} s of processor time), "
                f"service {served.wall:.2f} s ({served.cpu:.2f} s)"
            )
    wall = statistics.median(served.wall for _, served in pairs) / statistics.median(alone.wall for alone, _ in pairs)
    cpu = statistics.median(served.cpu for _, served in pairs) / statistics.median(alone.cpu for alone, _ in pairs)
    print(f"{arguments.seeds} seeds of {arguments.env_steps} env steps: the service costs {100 * (wall - 1):+.1f} % of")
    print(f"time, and {100 * (cpu - 1):+.1f} % of the trainer's processor time (which counts on a busy machine)")


if __name__ == "__main__":
    main()
