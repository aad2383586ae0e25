"""Tables learn: the bars of the textbook's worlds, ten seeds side by side."""

from typing import Any

import gymnasium
import numpy as np
import pytest

from app.schemas.experiment import ExperimentSpec, resolve
from tests.rl import judge
from worker.rl.reporter import MemoryReporter

SEEDS = list(range(10))


def learned(name: str, environment: str, env_steps: int, **fields: object) -> tuple[ExperimentSpec, MemoryReporter]:
    """With the preset for the environment, evaluated ten times on the way (or, in short runs, at the end)."""
    task = resolve(
        ExperimentSpec.model_validate(
            {
                "environment": {"id": environment},
                "algorithm": {"name": name, "preset": "auto", **fields},
                "training": {
                    "total_env_steps": env_steps,
                    "evaluate_every": max(1000, env_steps // 10),
                    "evaluation_episodes": 10 if environment.startswith("Cliff") else 100,
                },
            }
        )
    )
    return task, judge.trained(task, SEEDS, packed=True)


def finals(reporter: MemoryReporter) -> list[float | None]:
    return [result.final_return for _, result, _ in reporter.finished.values() if result is not None]


def test_planning_finds_the_way_along_the_cliff_where_its_absence_does_not() -> None:
    _, planned = learned("dyna_q", "CliffWalking-v1", 600)
    assert finals(planned).count(-13.0) >= 8, finals(planned)
    _, unplanned = learned("dyna_q", "CliffWalking-v1", 600, planning_steps=0)
    assert -13.0 not in finals(unplanned), finals(unplanned)


@pytest.mark.learn
@pytest.mark.parametrize(
    ("fields", "bar"),
    [({"name": "q_learning"}, -13.0), ({"name": "sarsa"}, -17.0), ({"name": "sarsa", "expected": True}, -15.0)],
    ids=["q_learning", "sarsa", "expected_sarsa"],
)
def test_the_cliff_tells_them_apart(fields: dict[str, Any], bar: float) -> None:
    """Greedily, at the end of training: the shortest way, the safest, and the best for one who slips now and then."""
    _, reporter = learned(environment="CliffWalking-v1", env_steps=30_000, **fields)
    assert finals(reporter).count(bar) >= 8, finals(reporter)


def test_the_best_way_for_one_who_slips_costs_15() -> None:
    """Value iteration over policies that act at random one time in ten: what expected SARSA is to find."""
    env = gymnasium.make("CliffWalking-v1").unwrapped
    outcomes: dict[int, dict[int, list[tuple[float, int, float, bool]]]] = env.P  # type: ignore[attr-defined]
    q = np.zeros((len(outcomes), 4))
    for _ in range(200):
        value = 0.9 * q.max(1) + 0.1 * q.mean(1)
        for state, actions in outcomes.items():
            for action, ((_, after, reward, done),) in actions.items():
                q[state, action] = reward + (0.0 if done else value[after])
    state, total, done = 36, 0.0, False
    while not done:
        ((_, state, reward, done),) = outcomes[state][int(q[state].argmax())]
        total += reward
    assert total == -15.0


@pytest.mark.learn
@pytest.mark.parametrize(
    ("name", "environment", "env_steps", "bar"),
    [
        ("q_learning", "Taxi-v4", 200_000, 7.0),
        ("dyna_q", "Taxi-v4", 30_000, 7.0),
        ("q_learning", "FrozenLake-v1", 150_000, 0.68),
    ],
)
def test_reaches_the_bar_with_its_preset(name: str, environment: str, env_steps: int, bar: float) -> None:
    task, reporter = learned(name, environment, env_steps)
    scores = judge.returns(task, reporter, episodes=1000)
    assert sum(score >= bar for score in scores.values()) >= 8, scores
