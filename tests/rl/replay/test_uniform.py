"""Uniform sampling: fair, reproducible, independent of how many batches are drawn at a time."""

import numpy as np
import pytest
import torch

from worker.rl.noise import Noise
from worker.rl.replay import uniform
from worker.rl.replay.ring import Ring
from worker.rl.replay.uniform import Uniform


def filled(steps: int, replicas: int = 2) -> Uniform:
    """Step t has observation, action and reward t; every third ends its episode, every sixth by termination."""
    replay = Uniform(Ring(replicas, 1, 12, ((1,), np.float32), ((), np.int64)), 0.9, torch.device("cpu"))
    for t in range(steps):
        now = np.full((replicas, 1), t)
        obs = np.full((replicas, 1, 1), t, np.float32)
        next_obs = np.where(now % 3 == 2, -1, 1)[..., None] * (obs + 1)
        replay.ring.observe(obs)
        replay.ring.add(now, now.astype(np.float32), now % 6 == 5, now % 3 == 2, next_obs)
    return replay


def test_batches_pair_each_observation_with_its_own_step() -> None:
    for batch in filled(30).sample(Noise([0, 1]), 5, 64, 0.5):
        assert batch.obs.shape == (2, 64, 1) and batch.reward.shape == (2, 64)
        t = batch.action
        assert bool((t >= 18).all())
        assert torch.equal(batch.obs[..., 0], t.float()) and torch.equal(batch.reward, t.float())
        torch.testing.assert_close(batch.discount, torch.where(t % 6 == 5, 0.0, 0.9))
        assert torch.equal(batch.next_obs[..., 0], torch.where(t % 3 == 2, -1.0, 1.0) * (t + 1))


def test_one_call_for_many_batches_draws_what_single_calls_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    replay, together, singly = filled(30), Noise([0, 1]), Noise([0, 1])
    monkeypatch.setattr(uniform, "AT_ONCE", 4 * 2 * 2 * 32 * 4)  # four of them
    batches = list(replay.sample(together, 6, 32, 0.5))
    for batch in batches:
        (single,) = replay.sample(singly, 1, 32, 0.5)
        assert all(torch.equal(a, b) for a, b in zip(batch[:5], single[:5], strict=True))
    assert all(field.is_contiguous() for field in batches[3][:5])


def test_a_replica_draws_the_same_alone_and_packed() -> None:
    (packed,) = filled(30).sample(Noise([3, 4]), 1, 50, 0.5)
    (alone,) = filled(30, replicas=1).sample(Noise([4]), 1, 50, 0.5)
    assert torch.equal(packed.action[1], alone.action[0])
    assert not torch.equal(packed.action[0], packed.action[1])


def test_every_transition_is_as_likely() -> None:
    (batch,) = filled(30).sample(Noise([0, 1]), 1, 24_000, 0.5)
    counts = torch.bincount(batch.action[0] - 18, minlength=12).double()
    chi_square = float(((counts - 2000) ** 2 / 2000).sum())
    assert len(counts) == 12 and chi_square < 31.3  # 0.1 % point of 11 degrees of freedom
