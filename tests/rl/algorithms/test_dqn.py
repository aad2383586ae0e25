"""DQN against the update written out with torch's own layers and optimiser, and the identities of its parts."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from app.schemas import algorithms as configs
from app.schemas.environments import BoxSpace, DiscreteSpace
from tests.rl.toys import spec
from worker.rl.algorithms import dqn
from worker.rl.drivers import train
from worker.rl.envs import EnvSpec
from worker.rl.noise import Noise
from worker.rl.reporter import MemoryReporter
from worker.rl.types import Transition

SPACE = EnvSpec("toy", BoxSpace(shape=(3,), low=(-1, -1, -1), high=(1, 1, 1)), DiscreteSpace(n=4))
CPU = torch.device("cpu")


def agent(seeds: list[int], **config: Any) -> dqn.DQN:
    return dqn.build(configs.DQN(**{"hidden_sizes": (16, 16), **config}), SPACE, seeds, CPU, 1000, 1)


def batches(count: int, replicas: int, size: int = 8) -> list[Transition]:
    g = torch.Generator().manual_seed(7)

    def draw(*shape: int) -> Tensor:
        return torch.randn(replicas, size, *shape, generator=g)

    return [
        Transition(
            obs=draw(3),
            action=torch.randint(0, 4, (replicas, size), generator=g),
            reward=3 * draw(),
            discount=0.9 * (torch.rand(replicas, size, generator=g) < 0.7),
            next_obs=draw(3),
        )
        for _ in range(count)
    ]


def plain(network: nn.Module, replica: int) -> nn.Sequential:
    """The replica's network made of ``torch.nn.Linear``."""
    parts: list[nn.Module] = []
    layers: Any = network
    for layer in layers.advantage.layers:
        linear = nn.Linear(layer.weight.shape[1], layer.weight.shape[2])
        with torch.no_grad():
            linear.weight.copy_(layer.weight[replica].T)
            linear.bias.copy_(layer.bias[replica, 0])
        parts += [linear, nn.ReLU()]
    return nn.Sequential(*parts[:-1])


@pytest.mark.parametrize("loss", ["mse", "huber"])
def test_updates_equal_the_pseudo_code(loss: str) -> None:
    ours = agent([1, 2], loss=loss, target_update_every=5, max_grad_norm=1.0, learning_rate=1e-2)
    theirs = [(plain(ours.network, r), plain(ours.network, r)) for r in range(2)]
    optimisers = [torch.optim.Adam(online.parameters(), lr=1e-2) for online, _ in theirs]
    for number, batch in enumerate(batches(12, 2), start=1):
        update = ours.update(batch, Noise([1, 2]))
        for r, (online, target) in enumerate(theirs):
            with torch.no_grad():
                y = batch.reward[r] + batch.discount[r] * target(batch.next_obs[r]).amax(-1)
            q = online(batch.obs[r])[torch.arange(8), batch.action[r]]
            value = 0.5 * F.mse_loss(q, y) if loss == "mse" else F.huber_loss(q, y)
            torch.testing.assert_close(update.metrics["losses/q"][r], value.detach(), rtol=1e-5, atol=1e-6)
            assert update.priority is not None
            torch.testing.assert_close(update.priority[r], (y - q).detach().abs(), rtol=1e-4, atol=1e-5)
            optimisers[r].zero_grad()
            value.backward()
            nn.utils.clip_grad_norm_(online.parameters(), 1.0)
            optimisers[r].step()
            if number % 5 == 0:
                target.load_state_dict(online.state_dict())
    for r, (online, target) in enumerate(theirs):
        for theirs_, ours_ in ((online, ours.network), (target, ours.target_network)):
            now = plain(ours_, r)
            for a, b in zip(now.parameters(), theirs_.parameters(), strict=True):
                torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_without_a_future_it_is_regression_to_the_reward() -> None:
    """gamma = 0: whatever the target network says, the taken actions' values become their rewards."""
    ours = agent([1, 2], gamma=0.0, learning_rate=1e-2, target_update_every=3)
    (batch,) = batches(1, 2)
    batch = batch._replace(discount=torch.zeros_like(batch.discount))
    for _ in range(400):
        ours.update(batch, Noise([1, 2]))
    q = ours.network(batch.obs).gather(-1, batch.action.unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(q, batch.reward, rtol=0, atol=0.05)


def test_the_target_network_moves_only_every_so_many_updates() -> None:
    ours = agent([1], target_update_every=3)
    start = ours.target_parameters.buffers[0].clone()
    for number, batch in enumerate(batches(7, 1), start=1):
        ours.update(batch, Noise([1]))
        online, target = ours.parameters.buffers[0], ours.target_parameters.buffers[0]
        assert torch.equal(target, online) == (number % 3 == 0)
        assert torch.equal(target, start) == (number < 3)


def test_a_weighted_sample_counts_by_its_weight() -> None:
    (batch,) = batches(1, 1)
    weight = torch.zeros(1, 8)
    weight[0, 2] = 8.0
    alone = Transition(*(field[:, 2:3] for field in batch[:5]))
    weighted, single = agent([1]), agent([1])
    a = weighted.update(batch._replace(weight=weight), Noise([1])).metrics["losses/q"]
    b = single.update(alone, Noise([1])).metrics["losses/q"]
    torch.testing.assert_close(a, b)
    torch.testing.assert_close(weighted.parameters.buffers, single.parameters.buffers)


def test_epsilon_falls_linearly_with_env_steps_then_stays() -> None:
    ours = agent([1], epsilon_start=1.0, epsilon_end=0.1, epsilon_fraction=0.5)
    for env_step, expected in ((0, 1.0), (250, 0.55), (500, 0.1), (900, 0.1)):
        ours.env_step = env_step
        assert ours.exploration == pytest.approx(expected)


def test_explores_with_probability_epsilon_and_evaluates_greedily() -> None:
    ours = agent([1, 2], epsilon_start=0.4, epsilon_end=0.4)
    obs = torch.zeros(2, 5000, 3)
    greedy = ours.act(obs, Noise([1, 2]), explore=False).action
    assert all(len(row.unique()) == 1 for row in greedy)
    explored = ours.act(obs, Noise([1, 2]), explore=True).action
    deviating = (explored != greedy).float().mean(1)
    torch.testing.assert_close(deviating, torch.full((2,), 0.4 * 3 / 4), atol=0.02, rtol=0)
    assert all(len(row.unique()) == 4 for row in explored)


def test_evaluation_epsilon_applies_where_nothing_is_explored() -> None:
    ours = agent([1], evaluation_epsilon=1.0)
    actions = ours.act(torch.zeros(1, 500, 3), Noise([1]), explore=False).action
    assert len(actions.unique()) == 4 and ours.epsilon == 1.0


def test_a_time_limit_is_no_end_of_the_world() -> None:
    """Reward 1 for ever, cut every 5 steps: V = 1 / (1 - 0.9). Bootstrapping by "done" would stop at 4.1."""
    config = {
        "name": "dqn", "gamma": 0.9, "hidden_sizes": [16], "learning_rate": 1e-2, "batch_size": 32,
        "learning_starts": 50, "target_update_every": 10, "buffer_size": 200,
    }  # fmt: skip
    reporter = MemoryReporter([3])
    train(spec("Toy-v0", config, num_envs=1, total=1500), [3], reporter)
    points = reporter.series[3]["dqn/q_mean"]
    assert points[-1][1] == pytest.approx(10.0, abs=0.3)


def test_the_policy_is_the_network_of_one_replica() -> None:
    ours = agent([1, 2])
    obs = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(0))
    values: Tensor = ours.network(obs)
    for r in range(2):
        torch.testing.assert_close(ours.policy(r)(obs[r]), values[r])
