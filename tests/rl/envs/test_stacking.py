from typing import Any

import numpy as np
import pytest

from app.schemas.environments import DiscreteSpace
from app.schemas.experiment import EnvironmentSpec
from tests.rl.toys import box
from worker.rl import envs
from worker.rl.envs.stacking import FrameStack
from worker.rl.envs.vector import LoopVectorEnv
from worker.rl.errors import UnsupportedSpace


def made(env_id: str, seeds: list[int], num_envs: int, frames: int) -> tuple[envs.VectorEnv, envs.VectorEnv]:
    """Stacked, and the same without."""
    specs = (EnvironmentSpec(id=env_id, frame_stack=n) for n in (frames, 1))
    stacked, single = (envs.make(spec, seeds, num_envs) for spec in specs)
    return stacked, single


def slow_stack(history: list[np.ndarray], frames: int) -> np.ndarray:
    """The last images of one episode of one copy, zeros before its first."""
    padded = [np.zeros_like(history[0])] * frames + history
    return np.concatenate(padded[-frames:], -1)


@pytest.mark.parametrize("env_id", ["MinAtar/Breakout-v1", "MinAtar/Seaquest-v1", "Flash-v0"])
def test_the_last_frames_of_the_episode_the_newest_last(env_id: str) -> None:
    stacked, single = made(env_id, [0, 1], 2, 3)
    assert stacked.spec.frame_stack == 3
    first, frame = stacked.reset(0), single.reset(0).copy()
    histories = [[frame.reshape(4, *frame.shape[2:])[i]] for i in range(4)]
    assert first.shape[2:] == stacked.spec.observation_shape
    rng = np.random.default_rng(0)
    ends = 0
    for _ in range(120):
        action = rng.integers(0, stacked.spec.action_dim, (2, 2))
        ours, theirs = stacked.step(action), single.step(action)
        assert np.array_equal(ours.reward, theirs.reward) and np.array_equal(ours.terminated, theirs.terminated)
        for i in range(4):
            at = divmod(i, 2)
            histories[i].append(theirs.next_obs[at].copy())
            assert np.array_equal(ours.next_obs[at], slow_stack(histories[i], 3))
            if theirs.terminated[at] or theirs.truncated[at]:
                histories[i] = [theirs.obs[at].copy()]
                ends += 1
            assert np.array_equal(ours.obs[at], slow_stack(histories[i], 3))
    assert ends > 5


def test_a_reset_and_those_who_leave_leave_nothing_behind() -> None:
    (left, whole), action = (made("MinAtar/Freeway-v1", [3, 4, 5], 2, 4)[0] for _ in range(2)), np.zeros((3, 2), int)
    start = left.reset(0).copy()
    whole.reset(0)
    for _ in range(5):
        left.step(action), whole.step(action)
    left.select([2, 0])
    for _ in range(5):
        ours, theirs = left.step(action[:2]), whole.step(action)
        assert np.array_equal(ours.obs, theirs.obs[[2, 0]])
    assert np.array_equal(left.reset(0), start[[2, 0]])
    assert not start[..., :-7].any() and start[..., -7:].any()


def test_channels_may_come_first() -> None:
    class ChannelsFirst:
        """A vector environment of (3, 8, 9) images that count."""

        def __init__(self) -> None:
            self.spec = envs.EnvSpec("E", box(3, 8, 9), DiscreteSpace(n=2))
            self.num_envs, self.age = 1, 0

        def reset(self, cut: int) -> np.ndarray:
            return np.full((1, 1, 3, 8, 9), self.age, np.uint8)

        def step(self, action: Any) -> envs.Step:
            self.age += 1
            obs, no = self.reset(0), np.zeros((1, 1), bool)
            return envs.Step(obs, no.astype(np.float32), no, no, obs)

    env = FrameStack(ChannelsFirst(), 2)
    assert env.spec.observation_shape == (6, 8, 9)
    env.reset(0)
    env.step(0)
    assert env.step(0).obs[0, 0, :, 0, 0].tolist() == [1, 1, 1, 2, 2, 2]
    with pytest.raises(UnsupportedSpace, match="more channels than pixels"):
        FrameStack(ChannelsFirst(), 3)


def test_only_images_are_stacked(monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[object] = []
    monkeypatch.setattr(LoopVectorEnv, "close", lambda self: closed.append(self))
    with pytest.raises(UnsupportedSpace, match="Toy-v0: only images can be stacked"):
        envs.make(EnvironmentSpec(id="Toy-v0", frame_stack=2), [0], 1)
    assert len(closed) == 1
