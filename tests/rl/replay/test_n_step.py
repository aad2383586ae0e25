"""n-step transitions against sums written out over a plain list of steps."""

import numpy as np
import pytest
import torch

from tests.rl.replay.test_ring import R, Simulation, simulation
from worker.rl.noise import Noise
from worker.rl.replay.ring import Array
from worker.rl.replay.uniform import Uniform

GAMMA = 0.9


def slow(sim: Simulation, replica: int, env: int, start: int, n_step: int) -> tuple[float, float, Array, int]:
    """Return, discount, bootstrap observation and steps taken of the transition from one step on."""
    total, k = 0.0, 0
    over = False
    while k < n_step and start + k < len(sim.expected) and not over:
        _, _, reward, terminated, ended, next_obs = sim.expected[start + k]
        total += GAMMA**k * float(reward[replica, env])
        over = bool(ended[replica, env])
        k += 1
    discount = 0.0 if terminated[replica, env] else GAMMA**k
    return total, discount, next_obs[replica, env], k


def check(sim: Simulation, n_step: int) -> None:
    ring = sim.ring
    held = ring.size * ring.num_envs
    got = ring.gather(np.tile(np.arange(held), (R, 1)), n_step, GAMMA)
    steps = np.broadcast_to(got.steps, (R, held))
    for replica in range(R):
        for age in range(held):
            start, env = len(sim.expected) - ring.size + age // ring.num_envs, age % ring.num_envs
            total, discount, next_obs, k = slow(sim, replica, env, start, n_step)
            at = replica, age
            assert got.reward[at] == pytest.approx(total, rel=1e-5, abs=1e-6)
            assert (steps[at], got.terminated[at]) == (k, discount == 0)
            np.testing.assert_array_equal(got.next_obs[at], next_obs)
            np.testing.assert_array_equal(got.obs[at], sim.expected[start][0][replica, env])
            assert got.action[at] == sim.expected[start][1][replica, env]


@pytest.mark.parametrize("n_step", [1, 2, 3, 5])
@pytest.mark.parametrize("end_probability", [0.0, 0.2, 1.0])
@pytest.mark.parametrize(("capacity", "num_envs"), [(1, 1), (7, 2), (20, 1)])
def test_every_window_is_summed_up_to_its_end(
    capacity: int, num_envs: int, end_probability: float, n_step: int
) -> None:
    """Also past wrap-arounds and cuts, and for the newest steps, which have fewer successors."""
    sim = simulation(capacity, num_envs, end_probability, seed=n_step)
    sim.begin()
    for _ in range(12):
        sim.steps(int(sim.rng.integers(1, 6)))
        check(sim, n_step)
        if sim.rng.random() < 0.3:
            sim.cut(np.ones(R, bool))
            check(sim, n_step)
            sim.begin()


def test_one_step_is_a_window_of_one() -> None:
    sim = simulation(20, 2, 0.3)
    sim.begin()
    sim.steps(33)
    index = np.tile(np.arange(40), (R, 1))
    plain, windowed = sim.ring.gather(index), sim.ring.gather(index, 1, GAMMA)
    for name in ("obs", "action", "reward", "terminated", "next_obs"):
        np.testing.assert_array_equal(getattr(plain, name), getattr(windowed, name))
    reward, steps = sim.ring._returns(index + (sim.ring.head - sim.ring.size) * 2, 1, GAMMA)
    np.testing.assert_array_equal(reward, plain.reward)
    assert (steps == 1).all()


def test_windows_as_long_as_episodes_give_monte_carlo_returns() -> None:
    sim = simulation(60, 1, 0.2)
    sim.begin()
    sim.steps(60)
    sim.cut(np.ones(R, bool))
    got = sim.ring.gather(np.tile(np.arange(60), (R, 1)), 60, GAMMA)
    for replica in range(R):
        to_go = 0.0
        for t in range(59, -1, -1):
            reward, ended = sim.expected[t][2][replica, 0], sim.expected[t][4][replica, 0]
            to_go = float(reward) + (0.0 if ended else GAMMA * to_go)
            assert got.reward[replica, t] == pytest.approx(to_go, rel=1e-4, abs=1e-5)


def test_batches_carry_the_discount_of_the_steps_taken() -> None:
    sim = simulation(40, 2, 0.2)
    sim.begin()
    sim.steps(50)
    replay = Uniform(sim.ring, GAMMA, torch.device("cpu"), n_step=3)
    (batch,) = replay.sample(Noise([1, 2, 3]), 1, 500, 0.5)
    possible = torch.tensor([0.0, *(GAMMA**k for k in (1, 2, 3))])
    assert torch.equal(batch.discount.unique(), possible.sort().values)
    assert batch.reward.dtype == batch.discount.dtype == torch.float32


def test_a_limit_on_time_is_no_end_of_value() -> None:
    """One state, reward 1, truncated every five steps: learned from n-step targets the value is 1 / (1 - gamma)."""
    ring = simulation(40, 1, 0.0).ring
    nothing = np.zeros((R, 1), bool)
    for t in range(40):
        ring.observe(np.zeros((R, 1, 3), np.float32))
        ring.add(nothing, np.ones((R, 1), np.float32), nothing, nothing | (t % 5 == 4), np.zeros((R, 1, 3), np.float32))
    for n_step in (1, 3, 10):
        rows = ring.gather(np.tile(np.arange(40), (R, 1)), n_step, GAMMA)
        assert not rows.terminated.any()
        np.testing.assert_allclose(rows.reward + GAMMA**rows.steps * 10, 10, rtol=1e-6)
