"""PPO and PQN learn. The whole bar is `make learn`; a small one is in every test run."""

from typing import Any

import pytest

from app.schemas.experiment import ExperimentSpec, resolve
from tests.rl import judge, toys

SEEDS = [0, 1, 2, 3, 4]
BARS = {
    ("ppo", "CartPole-v1"): (100_000, 475.0),
    ("ppo", "Pendulum-v1"): (200_000, -200.0),
    ("pqn", "CartPole-v1"): (100_000, 475.0),
    ("pqn", "Acrobot-v1"): (200_000, -100.0),
}
"""Env steps, and the mean return over 100 fresh episodes that four of five seeds must reach."""


@pytest.mark.learn
@pytest.mark.parametrize(("name", "environment"), BARS)
@pytest.mark.parametrize("packed", [True, False], ids=["packed", "alone"])
def test_the_preset_reaches_its_bar(name: str, environment: str, packed: bool) -> None:
    total, bar = BARS[name, environment]
    spec = resolve(
        ExperimentSpec.model_validate(
            {
                "environment": {"id": environment},
                "algorithm": {"name": name, "preset": "auto"},
                "training": {"total_env_steps": total},
            }
        )
    )
    returns = judge.returns(spec, judge.trained(spec, SEEDS, packed=packed))
    assert sum(value >= bar for value in returns.values()) >= 4, returns


PPO_QUICK = {"name": "ppo", "num_steps": 64, "learning_rate": 2e-3, "gamma": 0.98, "gae_lambda": 0.9, "epochs": 6}
PQN_QUICK = {"name": "pqn", "num_steps": 32, "num_minibatches": 2, "learning_rate": 3e-3}


@pytest.mark.parametrize("fields", [PPO_QUICK, PQN_QUICK], ids=["ppo", "pqn"])
def test_cartpole_is_soon_balanced_for_a_while(fields: dict[str, Any]) -> None:
    spec = toys.spec("CartPole-v1", fields, num_envs=8, total=16_384, every=4_096)
    returns = judge.returns(spec, judge.trained(spec, SEEDS[:3], packed=True), episodes=20)
    assert sorted(returns.values())[1] > 150, returns


@pytest.mark.parametrize(
    ("name", "environment", "bar"),
    [("ppo", "Match-v0", 1.6), ("ppo", "Flash-v0", 0.9), ("pqn", "Flash-v0", 0.9)],
    ids=["ppo-multi-discrete", "ppo-images", "pqn-images"],
)
def test_what_there_is_to_see_is_seen(name: str, environment: str, bar: float) -> None:
    fields = {"name": name, "num_steps": 16, "num_minibatches": 2, "learning_rate": 3e-3, "gamma": 0.5}
    spec = toys.spec(environment, fields, num_envs=8, total=128 * 24, every=128 * 12)
    returns = judge.returns(spec, judge.trained(spec, SEEDS[:1], packed=True), episodes=50)
    assert returns[0] > bar, "chance is about half of this"
