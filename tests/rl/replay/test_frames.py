"""Stacks of frames, each frame stored once, against a plain list of transitions with whole stacks."""

from copy import deepcopy
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from worker.rl.noise import Noise
from worker.rl.replay.prioritized import Prioritized
from worker.rl.replay.ring import Array, Ring, Rows
from worker.rl.replay.uniform import Uniform

R = 2
FRAME = {0: (2, 5, 4), 2: (5, 4, 2)}
"""Frames of two channels, by where the channels are."""


@dataclass
class Stacks:
    """Random images, stacked like an environment's adapter does it: zeros before an episode's first."""

    ring: Ring
    axis: int
    end_probability: float
    rng: np.random.Generator
    expected: list[tuple[Array, ...]] = field(default_factory=list)

    def frame(self) -> Array:
        return self.rng.integers(1, 256, (R, self.ring.num_envs, *FRAME[self.axis]), np.uint8)

    def push(self, stack: Array, frame: Array) -> Array:
        return np.concatenate([stack, frame], 2 + self.axis).take(range(2, 2 + 2 * self.ring.stack), 2 + self.axis)

    def begin(self) -> None:
        frame = self.frame()
        zeros = np.concatenate([np.zeros_like(frame)] * self.ring.stack, 2 + self.axis)
        self.current = self.push(zeros, frame)

    def steps(self, count: int) -> None:
        shape = (R, self.ring.num_envs)
        for _ in range(count):
            reward = self.rng.normal(size=shape).astype(np.float32)
            ended = self.rng.random(shape) < self.end_probability
            terminated = ended & (self.rng.random(shape) < 0.5)
            acted_on, next_obs = self.current, self.push(self.current, self.frame())
            self.begin()
            self.current[~ended] = next_obs[~ended]
            self.ring.observe(acted_on)
            self.ring.add(np.zeros(shape, np.int64), reward, terminated, ended, next_obs)
            self.expected.append((acted_on, ended, next_obs))

    def cut(self, replicas: Array) -> None:
        self.ring.cut(replicas)
        if self.expected:
            acted_on, ended, next_obs = self.expected[-1]
            self.expected[-1] = acted_on, ended | replicas[:, None], next_obs

    def everything(self, n_step: int) -> Rows:
        return self.ring.gather(np.tile(np.arange(self.ring.size * self.ring.num_envs), (R, 1)), n_step)

    def check(self, n_step: int) -> None:
        held = self.expected[-self.ring.capacity :]
        got = self.everything(n_step)
        wanted = np.stack([step[0] for step in held], 1).reshape(got.obs.shape)
        np.testing.assert_array_equal(got.obs, wanted)
        next_obs = got.next_obs.reshape(R, len(held), self.ring.num_envs, *got.next_obs.shape[2:])
        for replica, t, env in np.ndindex(next_obs.shape[:3]):
            last = t
            while last < min(t + n_step, len(held)) - 1 and not held[last][1][replica, env]:
                last += 1
            np.testing.assert_array_equal(next_obs[replica, t, env], held[last][2][replica, env])


def stacks(capacity: int, num_envs: int, stack: int, axis: int, end_probability: float) -> Stacks:
    shape = [side * (stack if i == axis else 1) for i, side in enumerate(FRAME[axis])]
    ring = Ring(R, num_envs, capacity, (shape, np.uint8), ((), np.int64), stack, axis)
    sim = Stacks(ring, axis, end_probability, np.random.default_rng(0))
    sim.begin()
    return sim


@pytest.mark.parametrize("n_step", [1, 3])
@pytest.mark.parametrize("end_probability", [0.0, 0.3, 1.0])
@pytest.mark.parametrize(("capacity", "num_envs", "axis"), [(1, 1, 2), (6, 2, 0), (13, 1, 2)])
@pytest.mark.parametrize("stack", [1, 2, 4])
def test_every_stack_comes_back_as_it_was(
    stack: int, capacity: int, num_envs: int, axis: int, end_probability: float, n_step: int
) -> None:
    """From the first step on, past wrap-arounds, where the oldest need frames from before them, and after cuts."""
    sim = stacks(capacity, num_envs, stack, axis, end_probability)
    for _ in range(15):
        sim.steps(int(sim.rng.integers(1, 5)))
        sim.check(n_step)
        if sim.rng.random() < 0.3:
            sim.cut(np.ones(R, bool))
            sim.check(n_step)
            sim.begin()


@pytest.mark.parametrize("steps", [3, 8, 9, 10, 11, 12, 13, 31])
def test_goes_on_from_a_saved_state(steps: int) -> None:
    sim = stacks(9, 1, 4, 2, 0.2)
    sim.steps(steps)
    sim.cut(np.ones(R, bool))
    other = stacks(9, 1, 4, 2, 0.2)
    other.ring.load(deepcopy(sim.ring.state()))
    other.expected = list(sim.expected)
    other.check(1)
    for _ in range(6):
        other.steps(3)
        other.check(1)


def test_select_keeps_episodes_going() -> None:
    sim = stacks(9, 2, 3, 0, 0.1)
    sim.steps(25)
    sim.ring.select([1, 0])
    sim.expected = [tuple(array[[1, 0]] for array in step) for step in sim.expected]
    sim.current = sim.current[[1, 0]]
    sim.check(1)
    sim.steps(4)
    sim.check(3)


def test_replays_draw_whole_stacks() -> None:
    sim = stacks(9, 1, 4, 2, 0.2)
    sim.steps(23)
    everything = sim.everything(1)
    device = torch.device("cpu")
    prioritized = Prioritized(sim.ring, 0.9, device, alpha=0.6, beta=0.4, epsilon=1e-6)
    for replay in (Uniform(sim.ring, 0.9, device), prioritized):
        (batch,) = replay.sample(Noise([0, 1]), 1, 50, 0.5)
        assert batch.obs.shape == (R, 50, 5, 4, 8) and batch.obs.dtype == torch.uint8
        for replica in range(R):
            ages = [list(everything.reward[replica]).index(reward) for reward in batch.reward[replica].numpy()]
            assert torch.equal(batch.obs[replica], torch.from_numpy(everything.obs[replica][ages]))
            assert torch.equal(batch.next_obs[replica], torch.from_numpy(everything.next_obs[replica][ages]))


def test_a_million_stacks_of_four_take_the_room_of_a_million_frames() -> None:
    ring = Ring(1, 1, 1_000_000, ((84, 84, 4), np.uint8), ((), np.int64), 4, 2)
    arrays = [value for value in vars(ring).values() if isinstance(value, np.ndarray)]
    assert sum(array.nbytes for array in arrays) < 1.004 * 84 * 84 * 1e6
