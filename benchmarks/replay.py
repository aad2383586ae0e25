"""``python -m benchmarks.replay [prioritized] [memory]``: what remembering costs, on one core.

``prioritized``: the time of drawing a batch by priority and of giving it new priorities, as a share of an update
together with these, and what of it a replay that draws by chance would not take. ``memory``: what a replay of a million
stacked Atari frames takes.
"""

import argparse
import itertools
import os
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

import numpy as np
import torch

from app.schemas.algorithms import DQN
from app.schemas.experiment import ExperimentSpec, resolve
from worker.rl import envs, memory
from worker.rl.algorithms import dqn
from worker.rl.noise import Noise
from worker.rl.replay.base import Replay
from worker.rl.replay.prioritized import Prioritized
from worker.rl.replay.ring import Ring
from worker.rl.replay.uniform import Uniform

Seconds = tuple[float, float, float]
CPU = torch.device("cpu")
HELD = 131_072
BATCH = 64
UPDATES = 1_000
FRAMES = 1_000_000
STACK = 4
EPISODE = 1_000


def prioritized() -> None:
    """Print the cost of priorities for some networks and numbers of seeds."""
    print("\n## Prioritized replay, share of an update (goal 20 %)\n")
    print("| hidden layers | seeds | draw, µs | learn, µs | new priorities, µs | share | uniform draw, µs | added |")
    print("| --- " * 8 + "|")
    for width, seeds in ((64, 8), (64, 1), (256, 1)):
        by_chance, _, _ = parts(Uniform, width, list(range(seeds)))
        by_priority = partial(Prioritized, alpha=0.6, beta=0.4, epsilon=1e-6)
        drawing, learning, rating = parts(by_priority, width, list(range(seeds)))
        whole = drawing + learning + rating
        print(
            f"| {width} x {width} | {seeds} | {drawing * 1e6:.0f} | {learning * 1e6:.0f} | {rating * 1e6:.0f} "
            f"| {(drawing + rating) / whole:.1%} | {by_chance * 1e6:.0f} "
            f"| {(drawing + rating - by_chance) / whole:.1%} |",
            flush=True,
        )


def parts(kind: Callable[[Ring, float, torch.device], Replay], width: int, seeds: list[int]) -> Seconds:
    """What drawing, learning and giving new priorities take, the medians over many updates on CartPole-v1."""
    spec = resolve(
        ExperimentSpec.model_validate(
            {
                "environment": {"id": "CartPole-v1"},
                "algorithm": {"name": "dqn", "hidden_sizes": [width, width], "batch_size": BATCH, "loss": "huber"},
                "seeds": seeds,
            }
        )
    )
    assert isinstance(spec.algorithm, DQN)
    with closing(envs.make(spec.environment, seeds, 1)) as env:
        agent = dqn.build(spec.algorithm, env.spec, seeds, CPU, spec.training.total_env_steps, 1)
        ring = Ring(len(seeds), 1, HELD, (env.spec.observation_shape, np.float32), ((), np.int64))
        replay = kind(ring, 0.99, CPU)
        noise = Noise(seeds, CPU)
        generator = np.random.default_rng(0)
        ring.observe(env.reset(0))

        def act() -> None:
            action = generator.integers(0, env.spec.action_dim, (len(seeds), 1))
            step = env.step(action)
            ended = step.terminated | step.truncated
            ring.add(action, step.reward, step.terminated, ended, step.next_obs)
            ring.observe(step.obs)

        def update() -> Seconds:
            act()
            began = time.perf_counter()
            [batch] = replay.sample(noise, 1, BATCH, 0.7)
            drawn = time.perf_counter()
            learned = agent.update(batch, noise)
            rated = time.perf_counter()
            replay.update(learned.priority)
            return drawn - began, rated - drawn, time.perf_counter() - rated

        for _ in range(HELD):
            act()
        taken = [update() for _ in range(2 * UPDATES)][UPDATES:]
    drawing, learning, rating = map(statistics.median, zip(*taken, strict=True))
    return drawing, learning, rating


def atari() -> None:
    """Print what a process grows by when it keeps a million steps of random frames, prioritized, and how it draws."""
    generator = np.random.default_rng(0)
    pool = generator.integers(0, 256, (1024, STACK, 84, 84), np.uint8)
    stacks = itertools.cycle(np.moveaxis(pool, 1, -1)[:, None, None])
    before = resident()
    ring = Ring(1, 1, FRAMES, ((84, 84, STACK), np.uint8), ((), np.int64), STACK, channel_axis=2)
    replay = Prioritized(ring, 0.99, CPU, n_step=3, alpha=0.5, beta=0.4, epsilon=1e-6)
    action, reward = np.zeros((1, 1), np.int64), np.zeros((1, 1), np.float32)
    began = time.perf_counter()
    ring.observe(next(stacks))
    for step in range(1, FRAMES + 1):
        ended = np.array([[step % EPISODE == 0]])
        ring.add(action, reward, ended, ended, next(stacks))
        if ended[0, 0]:
            ring.observe(next(stacks))
    added = (time.perf_counter() - began) / FRAMES
    noise = Noise([0], CPU)
    for _ in range(100):
        list(replay.sample(noise, 1, 32, 0.5))
        replay.update(torch.rand(1, 32))
    print("\n## Replay of a million Atari frames, 84 x 84, four to an observation, prioritized (goal 8 GB)\n")
    print(f"{(resident() - before) / 1e9:.2f} GB; {added * 1e6:.0f} µs to add a step")


def resident() -> int:
    """Bytes of this process that are in memory (Linux)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


CASES: dict[str, Callable[[], None]] = {"prioritized": prioritized, "memory": atari}


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", choices=CASES, default=list(CASES))
    arguments = parser.parse_args(argv)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-1:])
    torch.set_num_threads(1)
    memory.keep_freed()
    for name in arguments.cases:
        CASES[name]()


if __name__ == "__main__":
    main()
