import importlib.util
import sys
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete

from app.schemas.environments import catalogue, kind
from app.schemas.experiment import EnvironmentSpec
from tests.rl import toys
from worker.rl import envs
from worker.rl.envs import atari, minatar, vector
from worker.rl.envs.vector import LoopVectorEnv, env_seeds, make_one
from worker.rl.errors import EnvironmentFailure, UnsupportedSpace

TRAINABLE = [
    entry.id
    for entry in catalogue().values()
    if kind(entry.observation_space) in ("vector", "image", "discrete") and entry.package != "ale-py"
]

ONE_START = {"CliffWalking-v1", "CliffWalkingSlippery-v1", "FrozenLake-v1", "FrozenLake8x8-v1"} | {
    f"MinAtar/{game}-v1" for game in ("Asterix", "Seaquest", "SpaceInvaders")
}


def random_action(spec: envs.EnvSpec, rng: np.random.Generator) -> np.ndarray:
    """For one copy of one replica."""
    shape = (1, 1, *spec.action_shape)
    if spec.action_dtype == torch.float32:
        return rng.uniform(spec.action_low.numpy(), spec.action_high.numpy(), shape).astype(np.float32)
    return rng.integers(0, spec.action_dim, shape)


def made(name: str, num_envs: int = 2, seeds: tuple[int, ...] = (0, 1), **kwargs: Any) -> LoopVectorEnv:
    return LoopVectorEnv(name, kwargs, list(seeds), num_envs)


def test_truncation_shows_the_true_final_observation_and_then_the_reset_one() -> None:
    env = made("Counting-v0")
    assert env.reset(0).ravel().tolist() == [0] * 4
    for age in range(1, 12):
        step = env.step(np.zeros((2, 2), np.int64))
        ended = age % 5 == 0
        assert (step.next_obs == (age - 1) % 5 + 1).all(), "every step is a real transition"
        assert (step.truncated == ended).all() and not step.terminated.any()
        assert (step.obs == (0 if ended else step.next_obs)).all()
        assert (step.reward == 1).all()


def test_termination_is_told_from_truncation() -> None:
    env = made("Counting-v0", die_at=3)
    env.reset(0)
    for age in range(1, 7):
        step = env.step(np.zeros((2, 2), np.int64))
        assert (step.terminated == (age % 3 == 0)).all() and not step.truncated.any()


def test_an_episode_that_dies_at_its_time_limit_is_both() -> None:
    env = made("Counting-v0", die_at=5)
    env.reset(0)
    for _ in range(5):
        step = env.step(np.zeros((2, 2), np.int64))
    assert step.terminated.all() and step.truncated.all()


@pytest.mark.parametrize("name", TRAINABLE)
def test_a_reset_forgets_everything_before_it(name: str) -> None:
    """What exact resume rests on, in every environment of the catalogue that can be trained on."""
    used, fresh = (envs.make(EnvironmentSpec(id=name), [1], 1) for _ in range(2))
    rng = np.random.default_rng(0)
    used.reset(0)
    for _ in range(40):
        used.step(random_action(used.spec, rng))
    first = used.reset(64).copy()
    assert np.array_equal(first, fresh.reset(64))
    for _ in range(60):
        action = random_action(used.spec, rng)
        steps = used.step(action), fresh.step(action)
        assert all(np.array_equal(a, b) for a, b in zip(*steps, strict=True))
    assert np.array_equal(used.reset(64), first)
    if name not in ONE_START:
        assert not np.array_equal(used.reset(65), first)
    used.close(), fresh.close()


@pytest.mark.parametrize("name", [e.id for e in catalogue().values() if e.package == "gymnasium.box2d"])
def test_a_box2d_world_does_not_outlive_a_reset(name: str) -> None:
    """What is left of one shows only in some episodes, and late."""
    seeds, (before, after) = ([1], (40, 40)) if name == "CarRacing-v3" else ([1, 2, 3], (400, 200))
    used, fresh = (envs.make(EnvironmentSpec(id=name), seeds, 2) for _ in range(2))
    rng = np.random.default_rng(0)

    def action() -> np.ndarray:
        return np.stack([np.stack([random_action(used.spec, rng)[0, 0] for _ in range(2)]) for _ in seeds])

    used.reset(0)
    for _ in range(before):
        used.step(action())
    assert np.array_equal(used.reset(64), fresh.reset(64))
    for _ in range(after):
        taken = action()
        assert all(np.array_equal(a, b) for a, b in zip(used.step(taken), fresh.step(taken), strict=True))
    used.close(), fresh.close()


@pytest.mark.parametrize("name", ["Pendulum-v1", "CartPole-v1"])
def test_a_replica_does_not_depend_on_its_pack(name: str) -> None:
    environment = EnvironmentSpec(id=name)
    pack, alone = envs.make(environment, [3, 4, 5], 2), envs.make(environment, [4], 2)
    action = np.zeros((3, 2, 1), np.float32) if name == "Pendulum-v1" else np.zeros((3, 2), np.int64)
    assert np.array_equal(pack.reset(0)[1], alone.reset(0)[0])
    for _ in range(30):
        together, single = pack.step(action), alone.step(action[1:2])
        assert all(np.array_equal(p[1], q[0]) for p, q in zip(together, single, strict=True))


@pytest.mark.parametrize("name", ["Pendulum-v1", "CartPole-v1"])
def test_those_who_stay_notice_nothing(name: str) -> None:
    environment = EnvironmentSpec(id=name)
    left, whole = envs.make(environment, [3, 4, 5], 2), envs.make(environment, [3, 4, 5], 2)
    action = np.zeros((3, 2, 1), np.float32) if name == "Pendulum-v1" else np.ones((3, 2), np.int64)
    left.reset(0), whole.reset(0)
    for _ in range(5):
        left.step(action), whole.step(action)
    left.select([2, 0])
    for _ in range(30):
        a, b = left.step(action[[2, 0]]), whole.step(action)
        assert all(np.array_equal(p, q[[2, 0]]) for p, q in zip(a, b, strict=True))


def test_training_and_evaluation_never_share_a_seed() -> None:
    train = {s for seed in range(20) for s in env_seeds(seed, "train", 0, 20)}
    evaluation = {s for seed in range(20) for s in env_seeds(seed, "evaluation", 0, 20)}
    assert len(train) == len(evaluation) == 400 and not train & evaluation


def test_discrete_actions_get_their_start_and_boxes_are_clipped() -> None:
    starting = made("Toy-v0", action_space=Discrete(2, start=3))
    starting.reset(0)
    starting.step(np.array([[0, 1], [1, 0]]))
    box = made("Toy-v0", action_space=Box(np.float32(-2), np.float32(0.5), (1,)))
    box.reset(0)
    for value in (9.0, -np.inf, np.nan):
        box.step(np.full((2, 2, 1), value, np.float32))  # the toy asserts that actions fit


def test_an_environment_registered_without_a_limit_gets_the_catalogues() -> None:
    env = envs.make(EnvironmentSpec(id="CliffWalking-v1"), [1], 1)
    obs = env.reset(0)
    limit = catalogue()["CliffWalking-v1"].max_episode_steps
    assert obs.dtype == np.int64 and limit == 1000
    for age in range(1, limit + 1):
        step = env.step(np.zeros((1, 1), np.int64))  # up, against the wall
        assert not step.terminated and step.truncated == (age == limit)
    assert (step.next_obs, step.obs) == (0, obs) and step.obs.shape == (1, 1)


def test_every_kind_of_space_is_stepped() -> None:
    match = made("Match-v0")
    assert match.reset(0).shape == (2, 2, 2)
    assert match.step(np.ones((2, 2, 2), np.int64)).terminated.all()
    flash = made("Flash-v0")
    assert flash.reset(0).dtype == np.uint8
    assert flash.step(np.zeros((2, 2), np.int64)).obs.shape == (2, 2, 36, 36, 3)


def test_an_unsupported_space_is_refused_in_words() -> None:
    with pytest.raises(UnsupportedSpace, match="Blackjack-v1: observations are a Tuple"):
        made("Blackjack-v1")


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_failures_of_the_environment_name_it() -> None:
    env = made("Toy-v0", fail_at=2)
    env.reset(0)
    env.step(np.zeros((2, 2), np.int64))
    with pytest.raises(EnvironmentFailure, match="Toy-v0 raised in step: RuntimeError: the motor is on fire"):
        env.step(np.zeros((2, 2), np.int64))
    with pytest.raises(EnvironmentFailure, match="Toy-v0 cannot be made"):
        made("Toy-v0", colour="red")
    with pytest.raises(EnvironmentFailure, match="CartPole-v1 cannot be made"):
        envs.make(EnvironmentSpec(id="CartPole-v1", kwargs={"colour": "red"}), [0], 1)
    assert not EnvironmentFailure.retryable


def test_copies_made_before_a_failure_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[gymnasium.Env] = []
    closed: list[gymnasium.Env] = []

    def fail_third(*args: Any) -> gymnasium.Env:
        if len(opened) == 2:
            raise EnvironmentFailure("no more of them")
        opened.append(make_one(*args))
        return opened[-1]

    monkeypatch.setattr(vector, "make_one", fail_third)
    monkeypatch.setattr(toys.Toy, "close", lambda self: closed.append(self))
    with pytest.raises(EnvironmentFailure, match="no more"):
        made("Toy-v0")
    assert closed == [env.unwrapped for env in opened] and len(closed) == 2


def test_threads_change_nothing() -> None:
    one = made("InvertedPendulum-v5", 4)
    torch.set_num_threads(2)
    try:
        two = made("InvertedPendulum-v5", 4)
    finally:
        torch.set_num_threads(1)
    assert one._threads is None and two._threads is not None
    action = np.random.default_rng(0).uniform(-3, 3, (40, 2, 4, 1)).astype(np.float32)
    assert np.array_equal(one.reset(0), two.reset(0))
    for i in range(40):
        assert all(np.array_equal(a, b) for a, b in zip(one.step(action[i]), two.step(action[i]), strict=True))
    two.select([1])
    one.select([1])
    assert all(np.array_equal(a, b) for a, b in zip(one.step(action[0][:1]), two.step(action[0][:1]), strict=True))
    two.close()


@pytest.mark.parametrize(
    ("name", "package", "forget"),
    [("ALE/Pong-v5", "ale_py", atari.register), ("MinAtar/Breakout-v1", "minatar", minatar._module)],
)
def test_a_package_that_is_missing_is_named_with_its_extra(
    monkeypatch: pytest.MonkeyPatch, name: str, package: str, forget: Any
) -> None:
    forget.cache_clear()
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "minatar" else find(name))
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(EnvironmentFailure, match=f"{name} cannot be made: .*pip install 'trainyard"):
        make_one(name, {})
