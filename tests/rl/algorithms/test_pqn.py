"""PQN against the update written out with torch's own layers and optimiser, and the identities of its parts."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from app.schemas import algorithms as configs
from app.schemas.environments import DiscreteSpace
from tests.rl import toys
from worker.rl.algorithms import pqn
from worker.rl.algorithms.agent import replica_of
from worker.rl.drivers import train
from worker.rl.envs.spaces import EnvSpec
from worker.rl.nets.layers import Init
from worker.rl.noise import Noise
from worker.rl.reporter import MemoryReporter
from worker.rl.types import Rollout

SPACE = EnvSpec("Toy", toys.box(3), DiscreteSpace(n=4))
SEEDS, T, N = [1, 2], 8, 3


def agent_for(seeds: list[int] = SEEDS, **fields: Any) -> pqn.PQN:
    fields = {"num_steps": T, "num_minibatches": 2, "epochs": 2, "hidden_sizes": (16, 16)} | fields
    return pqn.build(configs.PQN(**fields), SPACE, seeds, torch.device("cpu"), 100 * T * N, N)


def rollout_of(replicas: int = 2, seed: int = 0) -> Rollout:
    """Random in everything. Step (4, 1) of the first replica is truncated; the others' final observation is padding."""
    g = torch.Generator().manual_seed(seed)
    terminated = torch.rand(replicas, T, N, generator=g) < 0.1
    ends = terminated.clone()
    terminated[0, 4, 1], ends[0, 4, 1] = False, True
    final_index = torch.full((replicas, 1), T * N)
    final_index[0] = 4 * N + 1
    return Rollout(
        torch.randn(replicas, T, N, 3, generator=g),
        torch.randint(4, (replicas, T, N), generator=g),
        torch.randn(replicas, T, N, generator=g),
        terminated,
        ends,
        torch.randn(replicas, N, 3, generator=g),
        torch.randn(replicas, 1, 3, generator=g),
        final_index,
    )


def slow_targets(network: nn.Module, batch: Rollout, replica: int, gamma: float, lambda_: float) -> Tensor:
    """One step after the other, backwards in time, (T, N)."""
    targets = torch.zeros(T, N)
    for n in range(N):
        for t in reversed(range(T)):
            following = batch.obs[replica, t + 1, n] if t < T - 1 else batch.last_obs[replica, n]
            if int(batch.final_index[replica, 0]) == t * N + n:
                following = batch.final_obs[replica, 0]
            value = network(following.unsqueeze(0)).max()
            if batch.terminated[replica, t, n]:
                targets[t, n] = batch.reward[replica, t, n]
            elif batch.episode_end[replica, t, n] or t == T - 1:
                targets[t, n] = batch.reward[replica, t, n] + gamma * value
            else:
                mixed = (1 - lambda_) * value + lambda_ * targets[t + 1, n]
                targets[t, n] = batch.reward[replica, t, n] + gamma * mixed
    return targets


def test_updates_equal_the_pseudo_code() -> None:
    ours = agent_for(learning_rate=1e-2, max_grad_norm=1.0, q_lambda=0.7, gamma=0.9)
    networks = [ours.policy(r).requires_grad_(True) for r in range(2)]
    optimisers = [torch.optim.Adam(network.parameters()) for network in networks]
    for number in range(4):
        batch = rollout_of(seed=number)
        update = ours.update(batch, Noise(SEEDS))
        for r, (network, optimiser) in enumerate(zip(networks, optimisers, strict=True)):
            with torch.no_grad():
                target = slow_targets(network, batch, r, 0.9, 0.7).flatten()
            optimiser.param_groups[0]["lr"] = 1e-2 * (1 - number / 100)
            losses, noise = [], Noise(SEEDS)
            for _ in range(2):
                for index in noise.permutation("minibatch", T * N)[r].split(T * N // 2):
                    q = network(batch.obs[r].flatten(0, 1)[index])
                    taken = q[torch.arange(len(index)), batch.action[r].flatten()[index]]
                    loss = 0.5 * F.mse_loss(taken, target[index])
                    optimiser.zero_grad()
                    loss.backward()
                    nn.utils.clip_grad_norm_(network.parameters(), 1.0)
                    optimiser.step()
                    losses.append(loss.detach())
            mean = torch.stack(losses).mean()
            torch.testing.assert_close(update.metrics["losses/q"][r], mean, rtol=1e-3, atol=1e-4)
    for r, network in enumerate(networks):
        for a, b in zip(ours.policy(r).parameters(), network.parameters(), strict=True):
            torch.testing.assert_close(a, b.detach(), rtol=1e-3, atol=1e-4)


def test_epsilon_falls_linearly_with_env_steps_then_stays() -> None:
    ours = agent_for(epsilon_start=1.0, epsilon_end=0.1, epsilon_fraction=0.5)
    for updates, expected in ((0, 1.0), (25, 0.55), (50, 0.1), (90, 0.1)):
        ours.updates = updates
        assert ours.exploration == pytest.approx(expected)


def test_explores_with_probability_epsilon_and_evaluates_greedily() -> None:
    ours = agent_for(epsilon_start=0.4, epsilon_end=0.4)
    obs = torch.zeros(2, 5000, 3)
    greedy = ours.act(obs, Noise(SEEDS), explore=False).action
    assert all(len(row.unique()) == 1 for row in greedy)
    explored = ours.act(obs, Noise(SEEDS), explore=True).action
    deviating = (explored != greedy).float().mean(1)
    torch.testing.assert_close(deviating, torch.full((2,), 0.4 * 3 / 4), atol=0.02, rtol=0)
    assert all(len(row.unique()) == 4 for row in explored)


def test_evaluation_epsilon_applies_where_nothing_is_explored() -> None:
    ours = agent_for([1], evaluation_epsilon=1.0)
    actions = ours.act(torch.zeros(1, 500, 3), Noise([1]), explore=False).action
    assert len(actions.unique()) == 4 and ours.epsilon == 1.0


def test_the_learning_rate_falls_to_zero() -> None:
    ours = agent_for(learning_rate=1e-2)
    ours.updates = 1000
    before = ours.parameters.buffers[0].clone()
    ours.update(rollout_of(), Noise(SEEDS))
    assert torch.equal(ours.parameters.buffers[0], before)


@pytest.mark.parametrize("lambda_", [0.0, 0.65])
def test_a_time_limit_is_no_end_of_the_world(lambda_: float) -> None:
    """Reward 1 for ever, cut every 5 steps: V = 1 / (1 - 0.9). Bootstrapping by "done" would stop at 4.1."""
    config = {
        "name": "pqn", "gamma": 0.9, "hidden_sizes": [16], "learning_rate": 1e-2, "num_steps": 8,
        "num_minibatches": 2, "epochs": 4, "q_lambda": lambda_,
    }  # fmt: skip
    reporter = MemoryReporter([3])
    train(toys.spec("Toy-v0", config, num_envs=4, total=6400), [3], reporter)
    points = reporter.series[3]["pqn/q_mean"]
    assert points[-1][1] == pytest.approx(10.0, abs=0.1)


@pytest.mark.parametrize("shape", [(3,), (10, 10, 4), (36, 40, 3)])
def test_every_hidden_layer_is_normalised(shape: tuple[int, ...]) -> None:
    """Scaling the weights before it by ten changes nothing."""
    network = pqn.NormalizedQNetwork(Init(SEEDS, "q"), toys.box(*shape), 4, (16, 16), "relu")
    image = len(shape) == 3
    obs = torch.randint(0, 256, (2, 5, *shape), dtype=torch.uint8) if image else torch.randn(2, 5, *shape)
    before = network(obs)
    layers = [*network.layers][:-1] if network.torso is None else [*network.torso.children()][1:-1]
    assert len(layers) == {3: 2, 10: 2, 36: 4}[shape[0]]
    with torch.no_grad():
        for layer in layers:
            layer.weight.mul_(10.0)
            layer.bias.mul_(10.0)
    torch.testing.assert_close(network(obs), before, rtol=1e-3, atol=1e-3)
    for r in range(2):
        torch.testing.assert_close(replica_of(network, r)(obs[r]), network(obs)[r], rtol=1e-4, atol=1e-5)
