"""Training speed side by side with other libraries: same settings, same machine, same run.

    python benchmarks/peers.py --peer-python benchmarks/.venv/bin/python [--cases dqn c51] [--rounds 3]

Every measurement is a process of its own, on as many cores as it has threads; the libraries take turns, so that a noisy
machine hurts all of them. Rates are env steps per second between two env steps of the training, everything compiled by
then: of time on the clock and of processor time, the median of the rounds. Ratios are ours to the other's, with the
lowest and highest of a round; the goal is against the fastest.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from trainings import Order, Timing

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Contender:
    """Who trains, and how many seeds in one process."""

    library: str
    seeds: int = 1

    def __str__(self) -> str:
        return self.library if self.seeds == 1 else f"{self.library}, {self.seeds} seeds"


@dataclass(frozen=True)
class Case:
    """One training that all contenders do. Ours is the first of them."""

    title: str
    order: Order
    goal: float
    """Ratio of our rate, of all seeds together, to the fastest other one's."""
    rivals: tuple[Contender, ...] = (Contender("Stable-Baselines3"),)
    seeds: int = 1
    """Ours."""
    threads: tuple[int, ...] = (1,)
    """To try; the better one counts on each side."""

    @property
    def contenders(self) -> tuple[Contender, ...]:
        return (Contender("Trainyard", self.seeds), *self.rivals)


OFF_POLICY: dict[str, Any] = {
    "hidden_sizes": [256, 256],
    "gamma": 0.99,
    "buffer_size": 100_000,
    "learning_starts": 100,
    "train_every": 1,
    "gradient_steps": 1,
}
VALUES = OFF_POLICY | {
    "batch_size": 64,
    "learning_rate": 1e-3,
    "target_update_every": 250,
    "epsilon_start": 1.0,
    "epsilon_end": 0.05,
    "epsilon_fraction": 0.1,
}
PPO = {
    "hidden_sizes": [64, 64],
    "gamma": 0.99,
    "learning_rate": 3e-4,
    "num_steps": 128,
    "epochs": 4,
    "num_minibatches": 4,
}
CARTPOLE = "CartPole-v1"
ON_CARTPOLE = Order("ppo", CARTPOLE, PPO, warm_up=10_240, env_steps=112_640, num_envs=8)
DQN = Order("dqn", CARTPOLE, VALUES | {"loss": "huber"}, warm_up=2_000, env_steps=10_000)
NARROW = replace(DQN, settings=DQN.settings | {"hidden_sizes": [64, 64]})
C51 = replace(DQN, algorithm="c51", settings=VALUES | {"num_atoms": 51, "v_min": 0.0, "v_max": 100.0})
SAC = Order("sac", "HalfCheetah-v5", OFF_POLICY | {"batch_size": 256, "learning_rate": 3e-4}, 500, 2_500)

CASES = {
    "dqn": Case(
        "DQN CartPole-v1, batch 64, 256 x 256, one update per step",
        DQN,
        1.4,
        tuple(map(Contender, ("Stable-Baselines3", "Tianshou", "SBX"))),
        threads=(1, 2),
    ),
    "c51": Case("C51 CartPole-v1, batch 64, 256 x 256, 51 atoms", C51, 2.5, (Contender("Tianshou"),)),
    "dqn8": Case("DQN CartPole-v1, 64 x 64, eight seeds to one", NARROW, 3.5, (Contender("Trainyard"),), seeds=8),
    "ppo": Case("PPO CartPole-v1, 8 x 128", ON_CARTPOLE, 1.8),
    "ppo8": Case("PPO CartPole-v1, 8 x 128, eight seeds to one", ON_CARTPOLE, 6.0, seeds=8, threads=(1, 2)),
    "sac": Case("SAC HalfCheetah-v5, batch 256, 256 x 256, one update per step", SAC, 1.6),
}
REPLAY = ("prioritized", "memory")
"""Cases of ``replay.py``, which compares with nobody."""


@dataclass(frozen=True)
class Result:
    """What the rounds of one contender with one number of threads gave; rates are env steps per second."""

    contender: str
    threads: int
    wall: list[float]
    processor: list[float]
    mebibytes: float

    @property
    def rate(self) -> float:
        return statistics.median(self.wall)


def measure(contender: Contender, order: Order, python: str) -> Timing:
    """One training in a process of its own."""
    environment = os.environ | {"OMP_NUM_THREADS": str(order.threads)}
    if order.threads == 1:
        environment["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"
    order = replace(order, seeds=contender.seeds, cores=cores(order.threads))
    command = [python, str(HERE / "trainings.py"), contender.library, json.dumps(asdict(order))]
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return Timing(**json.loads(done.stdout.splitlines()[-1]))


def cores(count: int) -> tuple[int, ...]:
    """The last of the cores this process may use, where the system can say."""
    return tuple(sorted(os.sched_getaffinity(0))[-count:]) if hasattr(os, "sched_getaffinity") else ()


def compare(case: Case, pythons: Mapping[str, str], rounds: int, threads: Sequence[int]) -> list[Result]:
    """All contenders in alternation; of each the better number of threads, ours first."""
    timings: dict[tuple[Contender, int], list[Timing]] = {}
    for number in range(rounds):
        for contender in case.contenders:
            python = pythons.get(contender.library, pythons[""])
            for count in threads or case.threads:
                timing = measure(contender, replace(case.order, threads=count), python)
                timings.setdefault((contender, count), []).append(timing)
                rate = timing.env_steps / timing.wall
                print(f"round {number + 1}: {contender}, threads {count}: {rate:,.0f}/s", file=sys.stderr, flush=True)
    best: dict[Contender, Result] = {}
    for (contender, count), taken in timings.items():
        walls, processors = ([t.env_steps / getattr(t, clock) for t in taken] for clock in ("wall", "processor"))
        result = Result(str(contender), count, walls, processors, max(t.mebibytes for t in taken))
        best[contender] = max(best.get(contender, result), result, key=lambda r: r.rate)
    return list(best.values())


def report(case: Case, results: list[Result]) -> None:
    """Print one case as a table."""
    ours, *others = results
    print(f"\n## {case.title}\n")
    print("| library | threads | steps/s | per processor second | ratio (rounds) | of processor time | MiB |")
    print("| --- " * 7 + "|")
    for result in results:
        pairs = [a / b for a, b in zip(ours.wall, result.wall, strict=True)]
        ratio = f"{ours.rate / result.rate:.2f} ({min(pairs):.2f} to {max(pairs):.2f})"
        processor = statistics.median(result.processor)
        print(
            f"| {result.contender} | {result.threads} | {result.rate:,.0f} | {processor:,.0f} "
            f"| {ratio if result is not ours else ''} "
            f"| {f'{statistics.median(ours.processor) / processor:.2f}' if result is not ours else ''} "
            f"| {result.mebibytes:,.0f} |"
        )
    fastest = max(others, key=lambda r: r.rate)
    print(f"\n{ours.rate / fastest.rate:.2f} times {fastest.contender}; goal {case.goal}", flush=True)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", default=sys.executable, help="interpreter that has requirements.txt")
    parser.add_argument("--cases", nargs="+", choices=[*CASES, *REPLAY], default=[*CASES, *REPLAY])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, nargs="+", default=(), help="to try, instead of each case's own")
    parser.add_argument("--json", type=Path, help="write what was measured here, too")
    arguments = parser.parse_args(argv)
    pythons = {"Trainyard": sys.executable, "": arguments.peer_python}
    measured: dict[str, list[dict[str, Any]]] = {}
    for name in arguments.cases:
        if name in CASES:
            results = compare(CASES[name], pythons, arguments.rounds, arguments.threads)
            report(CASES[name], results)
            measured[name] = [asdict(result) for result in results]
        else:
            subprocess.run([sys.executable, "-m", "benchmarks.replay", name], cwd=HERE.parent, check=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(measured, indent=2) + "\n")


if __name__ == "__main__":
    main()
