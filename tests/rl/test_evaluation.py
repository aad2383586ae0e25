import numpy as np
import pytest
import torch

from app.schemas import algorithms as configs
from app.schemas.experiment import EnvironmentSpec
from tests.rl import toys
from worker.rl import envs, evaluation
from worker.rl.algorithms import ppo
from worker.rl.envs import vector
from worker.rl.evaluation import Evaluator

SEEDS = [1, 2]


def agent_for(environment: EnvironmentSpec, seeds: list[int]) -> ppo.PPO:
    spec = envs.make(environment, seeds, 1).spec
    return ppo.build(configs.PPO(hidden_sizes=(16,)), spec, seeds, torch.device("cpu"), 1000, 1)


def run(evaluator: Evaluator, agent: ppo.PPO, index: int) -> evaluation.Evaluation:
    result = evaluator.run(agent, index, lambda: False)
    assert result is not None
    return result


def test_every_copy_plays_its_share() -> None:
    environment = toys.spec("Counting-v0", {"name": "ppo"}, num_envs=1, total=1, kwargs={"die_at": 3}).environment
    episodes = evaluation.COPIES * 2 + 5
    result = run(Evaluator(environment, SEEDS, episodes), agent_for(environment, SEEDS), 0)
    assert result.returns.shape == result.lengths.shape == (2, episodes)
    assert (result.returns == 3).all() and (result.lengths == 3).all()


def test_it_is_a_function_of_policy_seed_and_index() -> None:
    environment = EnvironmentSpec(id="CartPole-v1")
    agent, evaluator = agent_for(environment, SEEDS), Evaluator(environment, SEEDS, 20)
    first = run(evaluator, agent, 100)
    other = run(evaluator, agent, 200)
    again = run(evaluator, agent, 100)
    assert np.array_equal(first.returns, again.returns) and not np.array_equal(first.returns, other.returns)
    alone = run(Evaluator(environment, [2], 20), agent_for(environment, [2]), 100)
    assert np.array_equal(alone.returns[0], first.returns[1])
    evaluator.select([1])
    agent.select([1])
    assert np.array_equal(run(evaluator, agent, 100).returns, alone.returns)


def test_an_episode_without_end_is_ended_and_the_next_one_begins_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    environment = toys.spec("Endless-v0", {"name": "ppo"}, num_envs=1, total=1).environment
    monkeypatch.setattr(vector, "LONGEST_EPISODE", 4)
    result = run(Evaluator(environment, SEEDS, evaluation.COPIES + 3), agent_for(environment, SEEDS), 0)
    assert (result.lengths == 4).all() and (result.returns == 1 + 2 + 3 + 4).all()


def test_an_evaluation_that_nobody_waits_for_is_left() -> None:
    environment = EnvironmentSpec(id="CartPole-v1")
    asked = iter([False] * 5 + [True])
    assert Evaluator(environment, SEEDS, 20).run(agent_for(environment, SEEDS), 0, lambda: next(asked)) is None
    assert next(asked, None) is None
