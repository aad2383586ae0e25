"""DQN and SAC learn: tiny tasks always, the published bars under ``learn``."""

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete

from app.schemas import algorithms as configs
from app.schemas.experiment import ExperimentSpec, resolve
from app.schemas.presets import PRESETS
from tests.rl import judge
from tests.rl.toys import Toy, spec

SEEDS = [0, 1, 2, 3, 4]


class Side(Toy):
    """One-step episodes: pays 1 for naming the side of zero the observation is on."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(action_space=Discrete(2), **kwargs)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        reward = float(action == (self.where > 0))
        return self._obs(), reward, True, False, {}

    def _obs(self) -> np.ndarray:
        self.where = self.np_random.uniform(-1, 1)
        return np.array([self.where], np.float32)


class Reach(Side):
    """One-step episodes: pays up to 1 for an action near twice the observation."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.action_space = Box(-2, 2, (1,), np.float32)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        reward = 1 - abs(float(action[0]) - 2 * self.where)
        return self._obs(), reward, True, False, {}


for name, entry in (("Side", Side), ("Reach", Reach)):
    if f"{name}-v0" not in gymnasium.registry:
        gymnasium.register(f"{name}-v0", entry)

QUICK = {"hidden_sizes": [32, 32], "batch_size": 64, "learning_starts": 100, "buffer_size": 2000}
DQN_QUICK = QUICK | {"name": "dqn", "learning_rate": 3e-3, "target_update_every": 20}
SAC_QUICK = QUICK | {"name": "sac", "learning_rate": 5e-3, "target_entropy": -2.0}


@pytest.mark.parametrize(
    ("environment", "config", "bar"), [("Side-v0", DQN_QUICK, 0.95), ("Reach-v0", SAC_QUICK, 0.85)]
)
def test_learns_a_tiny_task(environment: str, config: dict[str, Any], bar: float) -> None:
    task = spec(environment, config, num_envs=1, total=1000, episodes=50)
    scores = judge.returns(task, judge.trained(task, [0, 1], packed=True))
    assert min(scores.values()) >= bar, scores


@pytest.mark.learn
@pytest.mark.parametrize("packed", [True, False], ids=["packed", "unpacked"])
@pytest.mark.parametrize(
    ("name", "environment", "env_steps", "bar"),
    [("dqn", "CartPole-v1", 50_000, 475.0), ("sac", "Pendulum-v1", 15_000, -200.0)],
)
def test_reaches_the_bar_with_its_preset(name: str, environment: str, env_steps: int, bar: float, packed: bool) -> None:
    assert_reaches(name, environment, env_steps, bar, packed=packed)


@pytest.mark.learn
@pytest.mark.parametrize("name", configs.DQN.variants)
def test_every_part_of_dqn_balances_the_pole_with_its_preset(name: str) -> None:
    assert (name, "CartPole-v1") in PRESETS
    assert_reaches(name, "CartPole-v1", 100_000, 475.0, packed=True)


def assert_reaches(name: str, environment: str, env_steps: int, bar: float, *, packed: bool) -> None:
    task = resolve(
        ExperimentSpec.model_validate(
            {
                "environment": {"id": environment},
                "algorithm": {"name": name, "preset": "auto"},
                "training": {"total_env_steps": env_steps, "evaluation_episodes": 20},
            }
        )
    )
    scores = judge.returns(task, judge.trained(task, SEEDS, packed=packed))
    assert sum(score >= bar for score in scores.values()) >= 4, scores
