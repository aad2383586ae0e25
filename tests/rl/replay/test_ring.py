"""The ring against a plain list of transitions, over random patterns of episode ends."""

import os
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from worker.rl.replay.ring import Array, Ring

R = 3


@dataclass
class Simulation:
    """Random episodes whose observations name themselves: (replica, environment, running number)."""

    ring: Ring
    end_probability: float
    rng: np.random.Generator
    expected: list[tuple[Array, ...]] = field(default_factory=list)
    number: int = 0

    def observe(self) -> Array:
        self.number += 1
        obs = np.empty((R, self.ring.num_envs, 3), np.float32)
        obs[..., 0] = np.arange(R)[:, None]
        obs[..., 1] = np.arange(self.ring.num_envs)
        obs[..., 2] = self.number
        return obs

    def begin(self) -> None:
        self.current = self.observe()

    def steps(self, count: int) -> None:
        shape = (R, self.ring.num_envs)
        for _ in range(count):
            action = self.rng.integers(0, 5, shape)
            reward = self.rng.normal(size=shape).astype(np.float32)
            ended = self.rng.random(shape) < self.end_probability
            terminated = ended & (self.rng.random(shape) < 0.5)
            next_obs = self.observe()
            after = np.where(ended[..., None], self.observe(), next_obs)
            self.ring.observe(self.current)
            self.ring.add(action, reward, terminated, ended, next_obs)
            self.expected.append((self.current, action, reward, terminated, ended, next_obs))
            self.current = after

    def cut(self, replicas: Array) -> None:
        self.ring.cut(replicas)
        if self.expected:
            *rest, ended, next_obs = self.expected[-1]
            self.expected[-1] = (*rest, ended | replicas[:, None], next_obs)

    def check(self) -> None:
        held = self.expected[-self.ring.capacity :]
        assert self.ring.size == len(held)
        index = np.tile(np.arange(len(held) * self.ring.num_envs), (R, 1))
        got = self.ring.gather(index)
        for i, array in ((0, got.obs), (1, got.action), (2, got.reward), (3, got.terminated), (5, got.next_obs)):
            wanted = np.stack([step[i] for step in held], 1).reshape(array.shape)
            np.testing.assert_array_equal(array, wanted)


def simulation(capacity: int, num_envs: int, end_probability: float, seed: int = 0) -> Simulation:
    ring = Ring(R, num_envs, capacity, ((3,), np.float32), ((), np.int64))
    return Simulation(ring, end_probability, np.random.default_rng(seed))


@pytest.mark.parametrize("end_probability", [0.0, 0.05, 0.5, 1.0])
@pytest.mark.parametrize("num_envs", [1, 3])
@pytest.mark.parametrize("capacity", [1, 7, 40])
def test_every_transition_comes_back_as_it_was(capacity: int, num_envs: int, end_probability: float) -> None:
    sim = simulation(capacity, num_envs, end_probability)
    sim.begin()
    for _ in range(40):
        sim.steps(int(sim.rng.integers(1, 9)))
        sim.check()


@pytest.mark.parametrize("end_probability", [0.0, 0.3])
def test_new_episodes_may_begin_anywhere_after_a_cut(end_probability: float) -> None:
    sim = simulation(20, 2, end_probability)
    for _ in range(30):
        sim.cut(np.ones(R, bool))
        if sim.number % 3 == 0:
            sim.cut(np.ones(R, bool))  # nothing in flight: nothing to cut
        sim.begin()
        sim.steps(int(sim.rng.integers(1, 6)))
        sim.check()


def test_a_cut_ends_the_episodes_of_the_replicas_named() -> None:
    sim = simulation(20, 2, 0.0)
    sim.begin()
    sim.steps(5)
    assert (sim.ring.final[:, :5] < 0).all()
    sim.cut(np.array([True, False, True]))
    assert (sim.ring.final[[0, 2], 4] >= 0).all() and (sim.ring.final[1, 4] < 0).all()
    assert (sim.ring.final[:, :4] < 0).all()
    sim.steps(3)
    sim.check()


def test_no_index_outside_what_is_held() -> None:
    sim = simulation(10, 2, 0.1)
    sim.begin()
    sim.steps(3)
    with pytest.raises(IndexError):
        sim.ring.gather(np.full((R, 1), 6))
    with pytest.raises(IndexError):
        sim.ring.gather(np.full((R, 1), -1))


@pytest.mark.parametrize("steps", [3, 10, 33])
def test_goes_on_from_a_saved_state(steps: int) -> None:
    sim = simulation(10, 2, 0.3)
    sim.begin()
    sim.steps(steps)
    sim.cut(np.ones(R, bool))
    state = deepcopy(sim.ring.state())
    other = simulation(10, 2, 0.3, seed=1)
    other.ring.load(state)
    other.expected, other.number = list(sim.expected), sim.number
    other.check()
    other.begin()
    other.steps(25)
    other.check()


def test_select_drops_and_copies_replicas() -> None:
    sim = simulation(10, 2, 0.3)
    sim.begin()
    sim.steps(17)
    index = np.tile(np.arange(20), (R, 1))
    before = sim.ring.gather(index)
    sim.ring.select([2, 0, 2])
    after = sim.ring.gather(index)
    np.testing.assert_array_equal(after.next_obs, before.next_obs[[2, 0, 2]])
    np.testing.assert_array_equal(after.reward, before.reward[[2, 0, 2]])
    sim.ring.select([1])
    np.testing.assert_array_equal(sim.ring.gather(index[:1]).obs, before.obs[[0]])


def test_memory_is_taken_only_as_it_is_used() -> None:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    before = resident()
    ring = Ring(1, 1, 1_000_000, ((64,), np.float32), ((), np.int64))
    assert ring.obs.nbytes > 250e6
    assert resident() - before < 25e6
