"""Prioritized sampling: in proportion to errors, unbiased by its weights, and never what is not held."""

from copy import deepcopy

import numpy as np
import pytest
import torch
from torch import Tensor

from worker.rl.noise import Noise
from worker.rl.replay.prioritized import Prioritized, importance_weights
from worker.rl.replay.ring import Ring
from worker.rl.types import Transition

EPSILON = 1e-3
BETA = 0.4


def empty(replicas: int = 2, capacity: int = 12, num_envs: int = 1, alpha: float = 0.6) -> Prioritized:
    ring = Ring(replicas, num_envs, capacity, ((1,), np.float32), ((), np.int64))
    return Prioritized(ring, 0.9, torch.device("cpu"), alpha=alpha, beta=BETA, epsilon=EPSILON)


def grow(replay: Prioritized, steps: int) -> None:
    """Each transition's observation, action and reward is its running number; every fifth ends its episode."""
    shape = len(replay.ring.obs), replay.ring.num_envs
    for _ in range(steps):
        t = replay.ring.steps
        now = np.broadcast_to(t * shape[1] + np.arange(shape[1]), shape)
        replay.ring.observe(now[..., None].astype(np.float32))
        ended = now % 5 == 4
        replay.ring.add(now, now.astype(np.float32), ended, ended, now[..., None].astype(np.float32) + shape[1])


def draw(replay: Prioritized, noise: Noise, size: int, done: float = 0.5) -> Transition:
    (batch,) = replay.sample(noise, 1, size, done)
    return batch


def rate(replay: Prioritized, noise: Noise, error: Tensor) -> None:
    """Give every transition held the error (R, numbers) of its number, by drawing until all were drawn."""
    unrated = torch.ones_like(error, dtype=torch.bool)
    unrated[:, : int(replay.ring.steps - replay.ring.size) * replay.ring.num_envs] = False
    while unrated.any():
        batch = draw(replay, noise, 64)
        replay.update(error.gather(1, batch.action))
        unrated.scatter_(1, batch.action, False)


def chances(error: Tensor, alpha: float) -> Tensor:
    """(1), written out."""
    powers = (error.double() + EPSILON) ** alpha
    return powers / powers.sum(-1, keepdim=True)


@pytest.mark.parametrize("alpha", [0.6, 1.0, 0.5, 0.0])
def test_frequencies_follow_the_errors(alpha: float) -> None:
    replay, noise = empty(alpha=alpha), Noise([0, 1])
    grow(replay, 12)
    error = torch.rand(2, 12, generator=torch.Generator().manual_seed(0)) * 3
    rate(replay, noise, error)
    expected = 24_000 * chances(error, alpha)
    for replica in range(2):
        counts = torch.zeros(12, dtype=torch.float64)
        for _ in range(24):
            counts += torch.bincount(draw(replay, noise, 1000).action[replica], minlength=12)
        chi_square = float(((counts - expected[replica]) ** 2 / expected[replica]).sum())
        assert chi_square < 31.3  # 0.1 % point of 11 degrees of freedom


def test_weights_are_powers_of_the_chances_over_the_greatest_of_the_batch() -> None:
    replay, noise = empty(), Noise([0, 1])
    grow(replay, 12)
    error = torch.rand(2, 12, generator=torch.Generator().manual_seed(0)) * 3
    rate(replay, noise, error)
    batch = draw(replay, noise, 5, done=0.25)
    weight = (12 * chances(error, 0.6).gather(1, batch.action)) ** -(0.4 + 0.25 * 0.6)
    assert batch.weight is not None and batch.weight.dtype == torch.float32
    torch.testing.assert_close(batch.weight.double(), weight / weight.amax(1, keepdim=True), rtol=1e-6, atol=0)


def test_full_weights_take_the_bias_away() -> None:
    """sum_i P_i w_i x_i = mean x where w_i = 1 / (N P_i)."""
    rng = np.random.default_rng(0)
    chance, x = rng.random((3, 50)), rng.normal(size=(3, 50))
    chance /= chance.sum(1, keepdims=True)
    weight = importance_weights(chance, 1.0)
    unbiased = (chance * weight * x).sum(1) / (chance * weight).sum(1)
    np.testing.assert_allclose(unbiased, x.mean(1), rtol=0, atol=1e-15)


def test_exponent_zero_is_a_uniform_replay() -> None:
    replay, noise = empty(alpha=0.0), Noise([0, 1])
    grow(replay, 12)
    rate(replay, noise, torch.rand(2, 12) * 100)
    batch = draw(replay, noise, 120, done=1.0)
    assert batch.weight is not None and bool((batch.weight == 1).all())
    for actions in batch.action:  # a stratum of ten draws to each of the twelve
        assert torch.bincount(actions, minlength=12).sub(10).abs().max() <= 1


def test_what_is_new_gets_the_greatest_priority_seen() -> None:
    replay, noise = empty(capacity=20), Noise([0, 1])
    grow(replay, 4)
    draw(replay, noise, 8)
    assert (replay.tree.leaves[:, :4] == 1).all()
    replay.update(torch.tensor([[5.0] + [0.1] * 7, [0.2] * 8]))
    grow(replay, 1)
    draw(replay, noise, 8)
    expected = [(5 + EPSILON) ** 0.6, 1.0]
    np.testing.assert_allclose(replay.tree.leaves[:, 4], expected, rtol=1e-6)
    replay.update(torch.full((2, 8), 0.01))
    grow(replay, 1)
    draw(replay, noise, 8)
    np.testing.assert_allclose(replay.tree.leaves[:, 5], expected, rtol=1e-6)


def test_of_a_transition_drawn_twice_the_last_error_counts() -> None:
    replay, noise = empty(replicas=1), Noise([0])
    grow(replay, 3)
    batch = draw(replay, noise, 30)
    error = torch.rand(1, 30)
    replay.update(error)
    draw(replay, noise, 1)
    for number in range(3):
        last = error[0, batch.action[0] == number][-1]
        assert replay.tree.leaves[0, number] == pytest.approx(float(last + EPSILON) ** 0.6)


@pytest.mark.parametrize("num_envs", [1, 3])
def test_priorities_follow_the_ring_around(num_envs: int) -> None:
    """Against a dictionary by running number; nothing is drawn that was never written or is overwritten."""
    replay, noise, rng = empty(1, capacity=7, num_envs=num_envs), Noise([0]), np.random.default_rng(0)
    known: dict[int, float] = {}
    greatest = 1.0
    for _ in range(60):
        grow(replay, int(rng.integers(1, 4)))
        newest = replay.ring.steps * num_envs
        held = {k: known.get(k, greatest) for k in range(newest - len(replay), newest)}
        batch = draw(replay, noise, 10)
        assert set(batch.action[0].tolist()) <= held.keys()
        assert torch.equal(batch.obs[..., 0], batch.action.float())
        assert torch.equal(batch.next_obs[..., 0], batch.action + float(num_envs))
        leaves = replay.tree.leaves[0]
        assert np.count_nonzero(leaves) == len(held)
        places = np.array(list(held)) % len(leaves)
        np.testing.assert_allclose(leaves[places], np.array(list(held.values())) ** 0.6, rtol=1e-6)
        error = torch.rand(1, 10) * 4
        replay.update(error)
        greatest = max(greatest, float(error.max()) + EPSILON)
        known |= held | {int(k): float(e) + EPSILON for k, e in zip(batch.action[0], error[0], strict=True)}


def test_errors_of_steps_that_were_overwritten_meanwhile_are_void() -> None:
    replay, noise = empty(capacity=4), Noise([0, 1])
    grow(replay, 4)
    draw(replay, noise, 40)
    grow(replay, 2)
    replay.update(torch.full((2, 40), 0.5))
    draw(replay, noise, 40)
    rated = (0.5 + EPSILON) ** 0.6
    np.testing.assert_allclose(replay.tree.leaves, [[1, 0, rated, rated, 1]] * 2)


def test_a_replay_that_was_filled_and_wrapped_before_the_first_draw() -> None:
    replay, noise = empty(capacity=12), Noise([0, 1])
    grow(replay, 1 + 13 * 5)  # back at the same row
    assert bool((draw(replay, noise, 60).action >= 66 - 12).all())


def test_errors_that_are_no_numbers_stay_with_their_replica() -> None:
    replay, healthy = empty(), empty()
    noise, other = Noise([0, 1]), Noise([0, 1])
    for each in (replay, healthy):
        grow(each, 12)
    for _ in range(5):
        mine, theirs = draw(replay, noise, 8), draw(healthy, other, 8)
        assert torch.equal(mine.action[1], theirs.action[1])
        error = torch.rand(2, 8, generator=torch.Generator().manual_seed(0))
        healthy.update(error)
        error[0, :3] = torch.tensor([float("nan"), float("inf"), 1e38])
        replay.update(error)


def test_a_replica_draws_the_same_alone_and_packed() -> None:
    packed, alone = empty(), empty(replicas=1)
    together, own = Noise([3, 4]), Noise([4])
    for _ in range(10):
        grow(packed, 2)
        grow(alone, 2)
        batch, single = draw(packed, together, 9), draw(alone, own, 9)
        assert torch.equal(batch.action[1], single.action[0])
        assert batch.weight is not None and single.weight is not None
        assert torch.equal(batch.weight[1], single.weight[0])
        packed.update(batch.action * torch.tensor([[2.0], [1.0]]))
        alone.update(single.action.float())


def test_batches_are_drawn_one_at_a_time() -> None:
    at_once, singly = empty(), empty()
    noise, other = Noise([0, 1]), Noise([0, 1])
    for replay in (at_once, singly):
        grow(replay, 9)
    for batch in at_once.sample(noise, 4, 16, 0.5):
        single = draw(singly, other, 16)
        assert torch.equal(batch.action, single.action)
        at_once.update(batch.reward)
        singly.update(single.reward)


@pytest.mark.parametrize("steps", [5, 12, 31])
def test_goes_on_from_a_saved_state(steps: int) -> None:
    replay, noise = empty(), Noise([0, 1])
    for _ in range(steps):
        grow(replay, 1)
        replay.update(draw(replay, noise, 6).reward % 5)
    other, state, position = empty(), deepcopy(replay.state()), noise.state()
    other.load(state)
    again = Noise([0, 1])
    again.load(position)
    for _ in range(20):
        for each in (replay, other):
            grow(each, 1)
        here, there = draw(replay, noise, 6), draw(other, again, 6)
        assert all(
            torch.equal(a, b) for a, b in zip(here[:6], there[:6], strict=True) if a is not None and b is not None
        )
        replay.update(here.reward % 5)
        other.update(there.reward % 5)


def test_select_drops_and_copies_replicas() -> None:
    replay, noise = empty(replicas=3), Noise([0, 1, 2])
    grow(replay, 15)
    for _ in range(4):
        draw(replay, noise, 10)
        replay.update(torch.rand(3, 10) * torch.tensor([[1.0], [2.0], [3.0]]))
    kept = deepcopy(replay)
    kept.select([2, 0, 2])
    noise.select([2, 0, 2])
    other = Noise([0, 1, 2])
    other.load(noise.state())
    batch, whole = draw(kept, noise, 20), draw(replay, other, 20)
    assert torch.equal(batch.action, whole.action[[2, 0, 2]])
    np.testing.assert_array_equal(kept.greatest, replay.greatest[[2, 0, 2]])
