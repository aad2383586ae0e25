"""Training speed side by side with Stable-Baselines3: same settings, same machine, runs in alternation.

    python benchmarks/peers.py --peer-python benchmarks/.venv/bin/python [--tasks ppo sac] [--repeats 3]

Every measurement is a process of its own. It counts env steps from the first step of training to the last; building,
evaluating and saving are left out on both sides. Each side gets the thread count that suits it, out of those listed for
the task. Prints env steps per second (the median of the repeats), the ratio and peak memory. On a machine that is busy
with other things, `--clock cpu --threads 1` counts seconds of processor time instead.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
Clock = Callable[[], float]


@dataclass(frozen=True)
class Task:
    """What both sides train. ``ours`` are our hyper-parameters, ``peer`` the same ones in the peer's names."""

    title: str
    environment: str
    num_envs: int
    env_steps: int
    ours: dict[str, Any]
    peer: dict[str, Any]
    seeds: int = 1
    """Runs trained together by us; the peer always trains one, and the ratio is of the aggregate."""
    threads: tuple[int, ...] = (1, 2)
    goal: float = 1.0


PPO_OURS = {"name": "ppo", "num_steps": 128, "epochs": 4, "num_minibatches": 4, "hidden_sizes": [64, 64]}
PPO_PEER = {"n_steps": 128, "n_epochs": 4, "batch_size": 256, "policy_kwargs": {"net_arch": [64, 64]}}
OFF_POLICY_OURS = {
    "hidden_sizes": [256, 256],
    "buffer_size": 100_000,
    "learning_starts": 100,
    "train_every": 1,
    "gradient_steps": 1,
}
OFF_POLICY_PEER = {
    "policy_kwargs": {"net_arch": [256, 256]},
    "buffer_size": 100_000,
    "learning_starts": 100,
    "train_freq": 1,
    "gradient_steps": 1,
}

TASKS = {
    "ppo": Task("PPO CartPole-v1, one seed", "CartPole-v1", 8, 204_800, PPO_OURS, PPO_PEER, goal=1.8),
    "ppo8": Task("PPO CartPole-v1, eight seeds", "CartPole-v1", 8, 204_800, PPO_OURS, PPO_PEER, seeds=8, goal=6.0),
    "dqn": Task(
        "DQN CartPole-v1",
        "CartPole-v1",
        1,
        12_000,
        {"name": "dqn", "batch_size": 64, "learning_rate": 1e-3, "target_update_every": 250, **OFF_POLICY_OURS},
        {"batch_size": 64, "learning_rate": 1e-3, "target_update_interval": 250, **OFF_POLICY_PEER},
        goal=1.5,
    ),
    "sac": Task(
        "SAC HalfCheetah-v5",
        "HalfCheetah-v5",
        1,
        3_000,
        {"name": "sac", "batch_size": 256, "learning_rate": 3e-4, **OFF_POLICY_OURS},
        {"batch_size": 256, "learning_rate": 3e-4, **OFF_POLICY_PEER},
        goal=1.6,
    ),
}


def measure_ours(task: Task, clock: Clock) -> float:
    """Env steps per second of all seeds together, by the driver that the service calls."""
    sys.path.insert(0, str(ROOT))
    from app.schemas.experiment import ExperimentSpec, resolve
    from worker.rl import memory
    from worker.rl.drivers import train
    from worker.rl.reporter import MemoryReporter

    memory.keep_freed()  # as a trainer does

    class Stopwatch(MemoryReporter):
        began = 0.0
        ended = 0.0

        def started(self, env_step: int) -> None:
            super().started(env_step)
            self.began = clock()

        def progress(self, env_step: int) -> None:
            super().progress(env_step)
            if env_step >= task.env_steps and not self.ended:
                self.ended = clock()

    seeds = list(range(task.seeds))
    training = {"total_env_steps": task.env_steps, "evaluation_episodes": 1}
    training |= {"evaluate_every": task.env_steps, "checkpoint_every": task.env_steps}
    spec = resolve(
        ExperimentSpec.model_validate(
            {
                "environment": {"id": task.environment, "num_envs": task.num_envs},
                "algorithm": task.ours,
                "training": training,
                "seeds": seeds,
            }
        )
    )
    watch = Stopwatch(seeds)
    train(spec, seeds, watch)
    return task.seeds * task.env_steps / (watch.ended - watch.began)


def measure_peer(task: Task, clock: Clock) -> float:
    """Env steps per second of Stable-Baselines3's ``learn``."""
    import stable_baselines3
    from stable_baselines3.common.env_util import make_vec_env

    environments = make_vec_env(task.environment, n_envs=task.num_envs, seed=0)
    algorithm = getattr(stable_baselines3, task.ours["name"].upper())
    model = algorithm("MlpPolicy", environments, seed=0, device="cpu", **task.peer)
    began = clock()
    model.learn(task.env_steps)
    return float(model.num_timesteps / (clock() - began))


def child(side: str, name: str, threads: int, clock: Clock) -> None:
    """The body of one measurement: prints its result as JSON."""
    import torch

    torch.set_num_threads(threads)
    rate = {"ours": measure_ours, "peer": measure_peer}[side](TASKS[name], clock)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    print(json.dumps({"rate": rate, "mebibytes": peak}))


@dataclass
class Row:
    """The outcome of one task."""

    task: str
    ours: float
    peer: float
    ratio: float
    goal: float
    ours_threads: int
    peer_threads: int
    ours_mebibytes: float
    peer_mebibytes: float


def compare(name: str, interpreters: dict[str, str], repeats: int, clock: str, counts: Sequence[int]) -> Row:
    """Alternate the two sides and all thread counts; the best thread count's median for each."""
    task = TASKS[name]
    results: dict[tuple[str, int], list[dict[str, float]]] = {}
    for _ in range(repeats):
        for side, python in interpreters.items():
            for threads in counts or (task.threads if side == "ours" else (1, 2)):
                command = [python, __file__, "--clock", clock, "--child", side, name, str(threads)]
                environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
                done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
                results.setdefault((side, threads), []).append(json.loads(done.stdout.splitlines()[-1]))
    best: dict[str, tuple[float, int, float]] = {}
    for (side, threads), rows in results.items():
        rate = statistics.median(row["rate"] for row in rows)
        peak = max(row["mebibytes"] for row in rows)
        best[side] = max(best.get(side, (0.0, 0, 0.0)), (rate, threads, peak))
    ours, peer = best["ours"], best["peer"]
    return Row(task.title, ours[0], peer[0], ours[0] / peer[0], task.goal, ours[1], peer[1], ours[2], peer[2])


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", default=sys.executable, help="interpreter that has stable-baselines3")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu is for one thread on a busy machine")
    parser.add_argument("--threads", type=int, nargs="+", default=(), help="thread counts to try on both sides")
    parser.add_argument("--json", type=Path, help="write the rows here, too")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.child:
        side, name, threads = arguments.child
        child(side, name, int(threads), CLOCKS[arguments.clock])
        return
    interpreters = {"ours": sys.executable, "peer": arguments.peer_python}
    rows = []
    print("| task | Trainyard | Stable-Baselines3 | ratio | goal | threads | MiB |\n" + "| --- " * 7 + "|")
    for name in arguments.tasks:
        row = compare(name, interpreters, arguments.repeats, arguments.clock, arguments.threads)
        rows.append(asdict(row))
        print(
            f"| {row.task} | {row.ours:,.0f}/s | {row.peer:,.0f}/s | {row.ratio:.2f} | {row.goal} "
            f"| {row.ours_threads}, {row.peer_threads} | {row.ours_mebibytes:.0f}, {row.peer_mebibytes:.0f} |",
            flush=True,
        )
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
