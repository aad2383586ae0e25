"""``python -m benchmarks.overhead``: what training through the service costs against calling the driver.

Both train the same spec with the same number of threads, in turn, so that a busy machine disturbs both alike. The time
is that from the first training step to the end of the run, its evaluations and checkpoints included.
"""

import argparse
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from app.schemas.experiment import ExperimentSpec, resolve
from benchmarks.service import Service, cartpole, service
from worker.rl import drivers
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


def direct(spec: ExperimentSpec, seeds: Sequence[int]) -> float:
    """Seconds of training in this process."""
    reporter = Stopwatch(list(seeds))
    drivers.train(spec, seeds, reporter)
    return reporter.ended - reporter.began


def through(running: Service, spec: ExperimentSpec, seeds: Sequence[int]) -> float:
    """Seconds of training through the service."""
    running.await_spare()
    runs = running.post(spec.model_dump(mode="json") | {"seeds": list(seeds)})
    for run_id in runs:
        running.await_status(run_id, "succeeded", every=0.5)
    times = [running.times(run_id) for run_id in runs]
    return max(ended for _, ended in times) - min(began for began, _ in times)


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--env-steps", type=int, default=500_000)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--pairs", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    seeds = range(arguments.seeds)
    spec = resolve(ExperimentSpec.model_validate(cartpole(arguments.env_steps)))
    direct(resolve(ExperimentSpec.model_validate(cartpole(20_000))), seeds)  # warms up
    pairs = []
    with service() as running:
        for _ in range(arguments.pairs):
            pairs.append((direct(spec, seeds), through(running, spec, seeds)))
            print(f"  driver {pairs[-1][0]:.2f} s, service {pairs[-1][1]:.2f} s")
    ratio = statistics.median(t for _, t in pairs) / statistics.median(d for d, _ in pairs)
    rate = arguments.env_steps * arguments.seeds / statistics.median(t for _, t in pairs)
    print(f"{arguments.seeds} seeds of {arguments.env_steps} env steps: {rate:.0f} env steps/s through the service,")
    print(f"which costs {100 * (ratio - 1):+.1f} %")


if __name__ == "__main__":
    main()
