from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from app.schemas import algorithms as configs
from app.schemas.environments import BoxSpace, DiscreteSpace
from tests.rl import toys
from worker.rl import envs
from worker.rl.algorithms import ppo
from worker.rl.drivers import train
from worker.rl.drivers.on_policy import collect
from worker.rl.envs.spaces import EnvSpec
from worker.rl.functional import policy_gradient
from worker.rl.noise import Noise
from worker.rl.replay.rollout import RolloutStorage
from worker.rl.reporter import MemoryReporter
from worker.rl.types import Rollout

VECTOR = BoxSpace(shape=(3,), low=(None,) * 3, high=(None,) * 3)
DISCRETE = EnvSpec("Toy", VECTOR, DiscreteSpace(n=4))
BOX = EnvSpec("Toy", VECTOR, BoxSpace(shape=(2,), low=(-1, -1), high=(1, 1)))
SEEDS, T, N = [1, 2], 8, 3


def agent_for(env_spec: EnvSpec = DISCRETE, seeds: list[int] = SEEDS, **fields: Any) -> ppo.PPO:
    fields = {"num_steps": T, "num_minibatches": 2, "epochs": 2, "hidden_sizes": (16,)} | fields
    return ppo.build(configs.PPO(**fields), env_spec, seeds, torch.device("cpu"), 100 * T * N, N)


def rollout_of(agent: ppo.PPO, seed: int = 0) -> Rollout:
    """Random observations, actions of the agent."""
    g = torch.Generator().manual_seed(seed)
    obs = torch.randn(2, T, N, 3, generator=g)
    action = agent.act(obs.flatten(1, 2), Noise(SEEDS), explore=True).action
    terminated = torch.rand(2, T, N, generator=g) < 0.1
    return Rollout(
        obs,
        action.unflatten(1, (T, N)),
        torch.randn(2, T, N, generator=g),
        terminated,
        terminated | (torch.rand(2, T, N, generator=g) < 0.1),
        torch.randn(2, N, 3, generator=g),
        torch.zeros(2, 0, 3),
        torch.zeros(2, 0, dtype=torch.int64),
    )


@pytest.mark.parametrize("env_spec", [DISCRETE, BOX])
@pytest.mark.parametrize("normalize", [False, True])
def test_the_first_minibatch_is_a2c(env_spec: EnvSpec, normalize: bool) -> None:
    agent = agent_for(env_spec, normalize_observation=normalize, normalize_advantage=False, value_coefficient=0.0)
    samples = agent._evaluate(rollout_of(agent))
    loss, metrics = agent._loss(samples, 0.2)
    assert float(metrics[ppo.KL].abs().max()) < 1e-6, "KL is zero"
    assert float(metrics[ppo.METRICS.index("ppo/clip_fraction")].max()) == 0.0
    ours = torch.autograd.grad(loss.sum(), agent.parameters.tensors, materialize_grads=True)
    outputs, _ = agent.network(samples.obs)
    log_prob, _ = agent._policy.evaluate(outputs, agent.network.log_std, samples.action)
    a2c = policy_gradient.a2c(log_prob, samples.advantage).mean(1).sum()
    theirs = torch.autograd.grad(a2c, agent.parameters.tensors, materialize_grads=True)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_values_and_targets_of_a_rollout() -> None:
    agent = agent_for(gae_lambda=0.0, gamma=0.9)
    batch = rollout_of(agent)
    final = torch.randn(2, 1, 3)
    truncated = torch.tensor([[4 * N + 1], [T * N]])  # the second replica has none: padded
    ends = batch.episode_end.clone()
    ends[0, 4, 1] = True
    terminated = batch.terminated.clone()
    terminated[0, 4, 1] = False
    batch = batch._replace(final_obs=final, final_index=truncated, episode_end=ends, terminated=terminated)
    samples = agent._evaluate(batch)

    def value(obs: Tensor) -> Tensor:
        return agent.network(obs)[1].detach()

    following = torch.cat((batch.obs[:, 1:], batch.last_obs.unsqueeze(1)), 1)
    next_value = value(following.flatten(1, 2)).clone()
    next_value[0, 4 * N + 1] = value(final)[0, 0]
    expected = batch.reward.flatten(1) + 0.9 * (~terminated).flatten(1) * next_value
    torch.testing.assert_close(samples.target, expected)
    torch.testing.assert_close(samples.value, value(batch.obs.flatten(1, 2)))


def test_each_minibatch_holds_other_samples_of_its_replica() -> None:
    x = torch.arange(2 * 12, dtype=torch.float32).view(2, 12)
    order = Noise(SEEDS).permutation("p", 12)
    taken = ppo._Samples(x.unsqueeze(-1), x, x, x, x, x).take(order)
    assert torch.equal(taken.value.sort(1).values, x)
    assert torch.equal(taken.obs.squeeze(-1), taken.value) and not torch.equal(taken.value[0] + 12, taken.value[1])


def test_schedules_fall_to_zero() -> None:
    agent = agent_for(learning_rate=1e-2, learning_rate_schedule="linear")
    agent.updates = 50
    agent.update(rollout_of(agent), Noise(SEEDS))
    assert agent.optimiser.lr == pytest.approx(0.5e-2)
    agent.updates = 1000
    before = agent.parameters.buffers[0].clone()
    agent.update(rollout_of(agent), Noise(SEEDS))
    assert torch.equal(agent.parameters.buffers[0], before)


STOPPING: dict[str, Any] = {
    "name": "ppo", "num_steps": 32, "num_minibatches": 4, "epochs": 4, "hidden_sizes": (15,),
    "learning_rate": 0.01, "target_kl": 0.01,
}  # fmt: skip


def stopping(seeds: list[int]) -> dict[int, Tensor]:
    """Weights after five updates of which each replica leaves out some of its own."""
    reporter = MemoryReporter(seeds)
    spec = toys.spec("CartPole-v1", STOPPING, num_envs=4, total=6 * 128, every=5 * 128, episodes=1)
    train(spec, seeds, reporter)
    ((_, state),) = reporter.states
    steps = state.tensors["agent/optimiser/steps"]
    assert steps.max() < 5 * 16 and (len(seeds) == 1 or len(steps.unique()) > 1)
    return dict(zip(seeds, state.tensors["agent/parameters/0"], strict=True))


def test_where_a_replica_stops_is_no_matter_to_its_neighbours() -> None:
    pack, other = stopping([1, 2, 3]), stopping([1, 99, 3])
    assert torch.equal(pack[1], other[1]) and torch.equal(pack[3], other[3])
    for seed in (1, 2, 3):
        torch.testing.assert_close(stopping([seed])[seed], pack[seed], rtol=1e-3, atol=1e-4)


def test_metrics_are_of_what_a_replica_learned_from() -> None:
    """Up to the minibatch that stopped it, however long its neighbour goes on."""
    lone = agent_for(target_kl=1e-3, learning_rate=0.05, epochs=10)
    batch = rollout_of(lone)
    pack = agent_for(target_kl=1e-3, learning_rate=0.05, epochs=10)
    still = batch._replace(reward=batch.reward * torch.tensor([1.0, 0.0]).view(2, 1, 1))
    for buffer in pack.parameters.buffers:
        buffer[1] = 0.0  # with no weights and no rewards nothing is learned and nothing stops
    a, b = (agent.update(data, Noise(SEEDS)).metrics for agent, data in ((lone, batch), (pack, still)))
    for name in ppo.METRICS:
        torch.testing.assert_close(a[name][0], b[name][0])
    assert lone.optimiser.steps[0] == pack.optimiser.steps[0] < pack.optimiser.steps[1] == 20
    broken = batch._replace(reward=batch.reward * torch.tensor([1.0, torch.nan]).view(2, 1, 1))
    metrics = agent_for(target_kl=1e-3).update(broken, Noise(SEEDS)).metrics
    assert metrics["losses/policy"].isfinite().tolist() == [True, False], "for the driver to see"


def test_target_kl_stops_a_replica_alone() -> None:
    agent = agent_for(target_kl=1e-3, learning_rate=0.05, epochs=10)
    batch = rollout_of(agent)
    batch = batch._replace(reward=batch.reward * torch.tensor([1.0, 0.0]).view(2, 1, 1))
    agent.update(batch, Noise(SEEDS))
    steps = agent.optimiser.steps.tolist()
    assert all(0 < s <= 20 for s in steps) and min(steps) < 20
    alone = agent_for(seeds=[SEEDS[0]], target_kl=1e-3, learning_rate=0.05, epochs=10)
    alone.update(Rollout(*(x[:1] for x in batch)), Noise(SEEDS[:1]))
    assert alone.optimiser.steps.tolist() == steps[:1]
    torch.testing.assert_close(alone.parameters.buffers[0], agent.parameters.buffers[0][:1], rtol=1e-4, atol=1e-5)


def test_normalisers_move_after_learning_and_stand_still_in_evaluation() -> None:
    agent = agent_for(normalize_observation=True, normalize_reward=True)
    agent.update(rollout_of(agent), Noise(SEEDS))
    assert agent.observations is not None and agent.rewards is not None
    assert agent.observations.count == agent.rewards.count == T * N
    before = {k: v.clone() for k, v in agent.state().items() if isinstance(v, Tensor)}
    agent.act(torch.randn(2, N, 3), Noise(SEEDS), explore=False)
    assert all(torch.equal(v, before[k]) for k, v in agent.state().items() if isinstance(v, Tensor))


def test_cut_episodes_leave_no_discounted_sum() -> None:
    agent = agent_for(normalize_reward=True)
    batch = rollout_of(agent)
    ends = batch.episode_end.clone()
    ends[0, -1], ends[1, -1] = True, False
    agent.update(batch._replace(episode_end=ends), Noise(SEEDS))
    assert not agent.discounted[0].any() and agent.discounted[1].all()


@pytest.mark.parametrize("env_spec", [DISCRETE, BOX])
def test_the_exported_policy_acts_like_the_agent(env_spec: EnvSpec) -> None:
    agent = agent_for(env_spec, normalize_observation=True)
    agent.update(rollout_of(agent), Noise(SEEDS))
    policy, obs = agent.policy(1), torch.randn(2, 5, 3)
    answer = policy(obs[1])
    mode = answer.argmax(-1) if isinstance(answer, Tensor) else answer[0]
    torch.testing.assert_close(mode, agent.act(obs, Noise(SEEDS), explore=False).action[1])
    agent.update(rollout_of(agent, 1), Noise(SEEDS))
    again = policy(obs[1])
    assert all(torch.equal(a, b) for a, b in zip(answer, again, strict=True)), "a copy"


def test_truncation_is_bootstrapped() -> None:
    """One state, reward 1, gamma 0.9, time limit 5: V = 10. Taken for termination it would be at most 4.1."""
    spec = toys.spec("Toy-v0", {"name": "ppo"}, num_envs=4, total=1)
    config = configs.PPO(gamma=0.9, num_steps=16, hidden_sizes=(16,), learning_rate=0.01, max_grad_norm=10.0)
    env = envs.make(spec.environment, SEEDS, 4)
    agent = ppo.build(config, env.spec, SEEDS, torch.device("cpu"), 10**6, 4)
    storage = RolloutStorage(2, 4, 16, ((1,), torch.float32), ((), torch.int64), torch.device("cpu"))
    noise, obs = Noise(SEEDS), env.reset(0)
    for _ in range(120):
        obs = collect(agent, env, storage, noise, obs, lambda: False)
        assert obs is not None
        agent.update(storage.rollout(obs, np.zeros(2, bool)), noise)
    value = agent.network(torch.zeros(2, 1, 1))[1].flatten().tolist()
    assert value == pytest.approx([10.0, 10.0], abs=0.3)
