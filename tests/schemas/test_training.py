"""When a run is evaluated and saved unless its spec says so."""

import pytest

from app.schemas.environments import catalogue
from app.schemas.experiment import EVALUATION_SHARE, ExperimentSpec, TrainingSpec, resolve


def training(environment_id: str, algorithm: str, **given: int) -> TrainingSpec:
    spec = {"environment": {"id": environment_id}, "algorithm": {"name": algorithm}, "training": given}
    return resolve(ExperimentSpec.model_validate(spec)).training


@pytest.mark.parametrize(
    ("environment_id", "algorithm", "total"),
    [
        ("CartPole-v1", "ppo", 100_000),
        ("Pendulum-v1", "sac", 20_000),
        ("HalfCheetah-v5", "sac", 1_000_000),
        ("MinAtar/Breakout-v1", "dqn", 1_000_000),
        ("ALE/Breakout-v5", "dqn", 10_000_000),
    ],
)
def test_ordinary_runs_have_twenty_evaluations_of_ten_episodes(environment_id: str, algorithm: str, total: int) -> None:
    resolved = training(environment_id, algorithm, total_env_steps=total)
    assert (resolved.evaluate_every, resolved.evaluation_episodes) == (total // 20, 10)


@pytest.mark.parametrize(
    ("total", "every", "episodes"),
    [(1, 1, 1), (10_000, 10_000, 1), (100_000, 100_000, 7), (1_000_000, 142_858, 10)],
)
def test_evaluations_of_long_games_do_not_dwarf_the_training(total: int, every: int, episodes: int) -> None:
    resolved = training("ALE/Breakout-v5", "dqn", total_env_steps=total)
    assert (resolved.evaluate_every, resolved.evaluation_episodes) == (every, episodes)
    limit = catalogue()["ALE/Breakout-v5"].max_episode_steps
    assert limit is not None
    assert -(-total // every) * episodes * limit <= max(EVALUATION_SHARE * total, limit)  # one episode at the least


def test_what_is_given_wins() -> None:
    resolved = training("ALE/Breakout-v5", "dqn", evaluate_every=1_000, evaluation_episodes=10)
    assert (resolved.evaluate_every, resolved.evaluation_episodes) == (1_000, 10)
    assert training("ALE/Breakout-v5", "dqn", evaluate_every=1_000).evaluation_episodes == 7
    assert training("ALE/Breakout-v5", "dqn", evaluation_episodes=1).evaluate_every == 14_286
    assert training("CartPole-v1", "ppo", evaluation_episodes=1_000).evaluate_every == 5_000


def test_a_resolved_spec_resolves_to_itself() -> None:
    spec = ExperimentSpec.model_validate({"environment": {"id": "ALE/Breakout-v5"}, "algorithm": {"name": "dqn"}})
    once = resolve(spec)
    assert resolve(ExperimentSpec.model_validate(once.model_dump(mode="json"))) == once
