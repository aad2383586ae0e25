"""SAC against the update written out with torch.distributions, and the identities of its parts."""

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from torch import Tensor, nn
from torch.distributions import Normal, TransformedDistribution
from torch.distributions.transforms import TanhTransform

from app.schemas import algorithms as configs
from app.schemas.environments import BoxSpace
from tests.rl.toys import Toy, spec
from worker.rl.algorithms import sac
from worker.rl.drivers import train
from worker.rl.envs import EnvSpec
from worker.rl.noise import Noise
from worker.rl.reporter import MemoryReporter
from worker.rl.types import Transition


class Push(Toy):
    """Pays 1 a step whatever is done."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(action_space=Box(-1, 1, (1,), np.float32), **kwargs)


if "Push-v0" not in gymnasium.registry:
    gymnasium.register("Push-v0", Push, max_episode_steps=5)

CPU = torch.device("cpu")
LOW, HIGH = torch.tensor([-2.0, 0.0]), torch.tensor([2.0, 1.0])


def env_spec(low: Tensor = LOW, high: Tensor = HIGH) -> EnvSpec:
    action = BoxSpace(shape=(2,), low=tuple(low.tolist()), high=tuple(high.tolist()))
    return EnvSpec("toy", BoxSpace(shape=(3,), low=(-1, -1, -1), high=(1, 1, 1)), action)


def agent(seeds: list[int], space: EnvSpec | None = None, **config: Any) -> sac.SAC:
    return sac.build(configs.SAC(**{"hidden_sizes": (16, 16), **config}), space or env_spec(), seeds, CPU, 1000, 1)


def batch(replicas: int, number: int = 0, size: int = 8) -> Transition:
    """Actions are uniform in [-1, 1]; see :func:`scaled`."""
    g = torch.Generator().manual_seed(number)

    def draw(*shape: int) -> Tensor:
        return torch.randn(replicas, size, *shape, generator=g)

    return Transition(
        obs=draw(3),
        action=2 * torch.rand(replicas, size, 2, generator=g) - 1,
        reward=draw(),
        discount=0.9 * (torch.rand(replicas, size, generator=g) < 0.7),
        next_obs=draw(3),
    )


def scaled(transition: Transition, low: Tensor = LOW, high: Tensor = HIGH) -> Transition:
    return transition._replace(action=low + (transition.action + 1) / 2 * (high - low))


def plain(mlp: Any, row: int) -> nn.Sequential:
    """One row of a stacked network made of ``torch.nn.Linear``."""
    parts: list[nn.Module] = []
    for layer in mlp.layers:
        parts += [layer.one(row).requires_grad_(), nn.ReLU()]
    return nn.Sequential(*parts[:-1])


class Reference:
    """One replica, as Haarnoja et al. write it."""

    def __init__(self, ours: Any, replica: int) -> None:
        self.actor = plain(ours.actor.mlp, replica)
        self.critics = [plain(ours.critic.mlp, 2 * replica + i) for i in range(2)]
        self.targets = [plain(ours.critic_target.mlp, 2 * replica + i) for i in range(2)]
        self.log_alpha = torch.zeros((), requires_grad=True)
        self.actor_optimiser = torch.optim.Adam(self.actor.parameters(), lr=1e-3)
        self.critic_optimiser = torch.optim.Adam([p for c in self.critics for p in c.parameters()], lr=2e-3)
        self.alpha_optimiser = torch.optim.Adam([self.log_alpha], lr=1e-3)

    def sample(self, obs: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = self.actor(obs).chunk(2, -1)
        std = log_std.clamp(-20, 2).exp()
        distribution: Any = TransformedDistribution(Normal(mean, std), [TanhTransform(cache_size=1)])
        action = distribution.transforms[0](mean + std * noise)
        return action, distribution.log_prob(action).sum(-1)

    def update(self, b: Transition, target_noise: Tensor, actor_noise: Tensor) -> None:
        alpha = self.log_alpha.exp().detach()
        with torch.no_grad():
            action, log_prob = self.sample(b.next_obs, target_noise)
            q = torch.stack([t(torch.cat((b.next_obs, action), -1))[:, 0] for t in self.targets])
            y = b.reward + b.discount * (q.amin(0) - alpha * log_prob)
        loss = sum(0.5 * (c(torch.cat((b.obs, b.action), -1))[:, 0] - y).square().mean() for c in self.critics)
        self.step(self.critic_optimiser, loss)
        action, log_prob = self.sample(b.obs, actor_noise)
        q = torch.stack([c(torch.cat((b.obs, action), -1))[:, 0] for c in self.critics])
        self.step(self.actor_optimiser, (alpha * log_prob - q.amin(0)).mean())
        self.step(self.alpha_optimiser, -self.log_alpha * (log_prob.detach() - 2.0).mean())
        for target, critic in zip(self.targets, self.critics, strict=True):
            for lagged, online in zip(target.parameters(), critic.parameters(), strict=True):
                lagged.data.mul_(0.99).add_(0.01 * online.data)

    def step(self, optimiser: torch.optim.Optimizer, loss: Any) -> None:
        for each in (self.actor_optimiser, self.critic_optimiser, self.alpha_optimiser):
            each.zero_grad()
        loss.backward()
        optimiser.step()


def test_updates_equal_the_pseudo_code() -> None:
    ours = agent([1, 2], learning_rate=1e-3, critic_learning_rate=2e-3, tau=0.01)
    theirs = [Reference(ours, r) for r in range(2)]
    noise, same = Noise([1, 2]), Noise([1, 2])
    for number in range(10):
        b = batch(2, number)
        ours.update(scaled(b), noise)
        target_noise, actor_noise = same.normal("target", 8, 2), same.normal("actor", 8, 2)
        for r, reference in enumerate(theirs):
            fields = [field[r] for field in b[:5]]
            reference.update(Transition(*fields), target_noise[r], actor_noise[r])
    for r, reference in enumerate(theirs):
        pairs = [(plain(ours.actor.mlp, r), reference.actor)]
        pairs += [(plain(ours.critic.mlp, 2 * r + i), reference.critics[i]) for i in range(2)]
        pairs += [(plain(ours.critic_target.mlp, 2 * r + i), reference.targets[i]) for i in range(2)]
        for mine, other in pairs:
            for a, b_ in zip(mine.parameters(), other.parameters(), strict=True):
                torch.testing.assert_close(a, b_, rtol=1e-3, atol=2e-5)
        torch.testing.assert_close(ours.temperature.log_alpha[r, 0], reference.log_alpha, rtol=1e-4, atol=1e-6)


def test_without_a_future_and_entropy_it_regresses_to_the_reward_and_climbs_it() -> None:
    """gamma = 0, alpha -> 0: both critics become the reward, the mean action what maximises it."""
    unit = env_spec(-torch.ones(2), torch.ones(2))
    ours = agent([1, 2], unit, learning_rate=3e-3, fixed_temperature=True, initial_temperature=1e-6)
    noise, best = Noise([1, 2]), torch.tensor([0.5, -0.3])
    for number in range(1000):
        b = batch(2, number, 64)
        reward = -(b.action - best).square().sum(-1)
        ours.update(b._replace(reward=reward, discount=torch.zeros_like(reward)), noise)
    b = batch(2, 1000, 64)
    q = ours.critic(b.obs, b.action)
    reward = -(b.action - best).square().sum(-1)
    assert float((q.detach() - reward.unsqueeze(1)).abs().mean((0, 2)).max()) < 0.1
    assert float((ours.act(b.obs, noise, explore=False).action - best).abs().mean()) < 0.1


@pytest.mark.parametrize("smaller", [0, 1])
def test_targets_take_the_smaller_of_the_twins(smaller: int) -> None:
    ours = agent([1, 2], fixed_temperature=True, initial_temperature=1e-8)
    values = torch.tensor([5.0, 5.0])
    values[smaller] = 3.0
    layers: Any = ours.critic_target.mlp.layers
    with torch.no_grad():
        layers[-1].weight.zero_()
        layers[-1].bias.copy_(values.repeat(2).view(4, 1, 1))
    b = batch(2)
    target = ours.update(b, Noise([1, 2])).metrics["sac/q_mean"]
    torch.testing.assert_close(target, (b.reward + b.discount * 3.0).mean(-1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("target_entropy", "sign"), [(50.0, 1), (-50.0, -1)])
def test_temperature_rises_while_entropy_is_too_low(target_entropy: float, sign: int) -> None:
    ours = agent([1, 2], target_entropy=target_entropy)
    ours.update(batch(2), Noise([1, 2]))
    assert bool((sign * ours.temperature.log_alpha > 0).all())


def test_a_fixed_temperature_stays() -> None:
    ours = agent([1], fixed_temperature=True, initial_temperature=0.2)
    update = ours.update(batch(1), Noise([1]))
    torch.testing.assert_close(ours.temperature.log_alpha.exp(), torch.tensor([[0.2]]))
    torch.testing.assert_close(update.metrics["sac/alpha"], torch.tensor([0.2]))


def test_updates_do_not_see_the_scale_of_actions() -> None:
    """Entropy is measured in [-1, 1], whatever the environment's units."""
    wide, unit = agent([1]), agent([1], env_spec(-torch.ones(2), torch.ones(2)))
    noise, same = Noise([1]), Noise([1])
    for number in range(3):
        a = wide.update(scaled(batch(1, number)), noise)
        b = unit.update(batch(1, number), same)
        torch.testing.assert_close(a.metrics, b.metrics, rtol=1e-4, atol=1e-5)


def test_target_entropy_is_minus_the_dimensions_unless_given() -> None:
    assert agent([1]).target_entropy == -2.0
    assert agent([1], target_entropy=-0.5).target_entropy == -0.5


def test_acts_within_the_bounds_and_deterministically_in_evaluation() -> None:
    ours, noise = agent([1, 2]), Noise([1, 2])
    obs = 5 * torch.randn(2, 500, 3, generator=torch.Generator().manual_seed(0))
    first = ours.act(obs, noise, explore=True).action
    assert first.shape == (2, 500, 2)
    assert bool((first >= LOW).all()) and bool((first <= HIGH).all())
    assert not torch.equal(first, ours.act(obs, noise, explore=True).action)
    mean = ours.act(obs, noise, explore=False).action
    assert torch.equal(mean, ours.act(obs, noise, explore=False).action)


def test_the_policy_is_the_actor_of_one_replica() -> None:
    ours = agent([1, 2])
    obs = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(0))
    mean, log_std = ours.actor(obs)
    for r in range(2):
        torch.testing.assert_close(ours.policy(r)(obs[r]), (mean[r], log_std[r]))


def test_a_time_limit_is_no_end_of_the_world() -> None:
    """Reward 1 for ever, cut every 5 steps: V = 1 / (1 - 0.9). Bootstrapping by "done" would stop at 4.1."""
    config = {
        "name": "sac", "gamma": 0.9, "hidden_sizes": [16], "learning_rate": 1e-2, "batch_size": 32,
        "learning_starts": 50, "tau": 0.1, "buffer_size": 200, "fixed_temperature": True, "initial_temperature": 1e-6,
    }  # fmt: skip
    reporter = MemoryReporter([3])
    train(spec("Push-v0", config, num_envs=1, total=1500), [3], reporter)
    assert reporter.series[3]["sac/q_mean"][-1][1] == pytest.approx(10.0, abs=0.3)


def test_learns_from_images() -> None:
    image = BoxSpace(shape=(36, 36, 3), dtype="uint8", low=(0,), high=(255,))
    ours = agent([1, 2], EnvSpec("images", image, env_spec().action_space))
    g = torch.Generator().manual_seed(0)
    obs = torch.randint(0, 256, (2, 8, 36, 36, 3), generator=g, dtype=torch.uint8)
    before = [buffer.clone() for buffer in (*ours.actor_parameters.buffers, *ours.critic_parameters.buffers)]
    update = ours.update(scaled(batch(2))._replace(obs=obs, next_obs=obs.flip(1)), Noise([1, 2]))
    assert all(bool(value.isfinite().all()) for value in update.metrics.values())
    after = (*ours.actor_parameters.buffers, *ours.critic_parameters.buffers)
    assert not any(torch.equal(a, b) for a, b in zip(before, after, strict=True))
