"""DQN against the update written out with torch's own layers and optimiser, and the identities of its parts."""

from copy import deepcopy
from typing import Any, get_args

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

NAMES = get_args(configs.DQN.model_fields["name"].annotation)
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
        parts += [layer.one(replica).requires_grad_(), nn.ReLU()]
    return nn.Sequential(*parts[:-1])


def loss_of(kind: str, online: nn.Module, target: nn.Module, batch: Transition, r: int) -> tuple[Tensor, Tensor]:
    """Loss and priorities of one replica's batch, written like the papers' formulas; 4 actions, 5 atoms."""
    rows, obs, taken = torch.arange(8), batch.obs[r], batch.action[r]
    reward, discount, next_obs = batch.reward[r], batch.discount[r], batch.next_obs[r]
    if kind in ("mse", "huber", "double"):
        with torch.no_grad():
            chosen = (online if kind == "double" else target)(next_obs).argmax(-1)
            y = reward + discount * target(next_obs)[rows, chosen]
        q = online(obs)[rows, taken]
        value = F.huber_loss(q, y) if kind == "huber" else 0.5 * F.mse_loss(q, y)
        return value, (y - q).detach().abs()
    out, next_out = online(obs).view(8, 4, 5), target(next_obs).view(8, 4, 5).detach()
    if kind == "c51":
        z = torch.linspace(-4, 4, 5)
        chosen = (next_out.softmax(-1) * z).sum(-1).argmax(-1)
        moved = (reward[:, None] + discount[:, None] * z).clamp(-4, 4)
        kernel = (1 - (moved[:, None, :] - z[:, None]).abs() / 2).clamp(0, 1)
        m = (kernel @ next_out.softmax(-1)[rows, chosen][..., None]).squeeze(-1)
        log_p = out[rows, taken].log_softmax(-1)
        divergence = F.kl_div(log_p.detach(), m, reduction="none").sum(-1)
        return -(m * log_p).sum(-1).mean(), divergence
    chosen = next_out.mean(-1).argmax(-1)
    y = reward[:, None] + discount[:, None] * next_out[rows, chosen]
    u = y[:, None, :] - out[rows, taken][:, :, None]
    tau = (torch.arange(5) + 0.5) / 5
    huber = torch.where(u.abs() <= 1, 0.5 * u**2, u.abs() - 0.5)
    each = ((tau[:, None] - (u.detach() < 0).float()).abs() * huber).mean(-1).sum(-1)
    return each.mean(), each.detach()


KINDS: dict[str, dict[str, Any]] = {
    "mse": {"loss": "mse"},
    "huber": {"loss": "huber"},
    "double": {"name": "double_dqn"},
    "c51": {"name": "c51", "v_min": -4.0, "v_max": 4.0, "num_atoms": 5},
    "quantile": {"name": "qr_dqn", "num_quantiles": 5},
}


@pytest.mark.parametrize("kind", KINDS)
def test_updates_equal_the_pseudo_code(kind: str) -> None:
    ours = agent([1, 2], target_update_every=5, max_grad_norm=1.0, learning_rate=1e-2, **KINDS[kind])
    theirs = [(plain(ours.network, r), plain(ours.network, r)) for r in range(2)]
    optimisers = [torch.optim.Adam(online.parameters(), lr=1e-2) for online, _ in theirs]
    for number, batch in enumerate(batches(12, 2), start=1):
        update = ours.update(batch._replace(weight=torch.ones(2, 8)), Noise([1, 2]))
        for r, (online, target) in enumerate(theirs):
            value, priority = loss_of(kind, online, target, batch, r)
            torch.testing.assert_close(update.metrics["losses/q"][r], value.detach(), rtol=1e-5, atol=1e-6)
            assert update.priority is not None
            torch.testing.assert_close(update.priority[r], priority, rtol=1e-4, atol=1e-5)
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


@pytest.mark.parametrize("name", NAMES)
def test_a_time_limit_is_no_end_of_the_world(name: str) -> None:
    """Reward 1 for ever, cut every 5 steps: V = 1 / (1 - 0.9). Bootstrapping by "done" would stop at 4.1."""
    config: dict[str, Any] = {
        "name": name, "gamma": 0.9, "hidden_sizes": [16], "learning_rate": 1e-2, "batch_size": 32,
        "learning_starts": 50, "target_update_every": 10, "buffer_size": 200,
    }  # fmt: skip
    if configs.DQN(name=name).distribution == "c51":
        config |= {"v_min": 0.0, "v_max": 20.0, "num_atoms": 21}
    reporter = MemoryReporter([3])
    train(spec("Toy-v0", config, num_envs=1, total=1500), [3], reporter)
    points = reporter.series[3]["dqn/q_mean"]
    assert points[-1][1] == pytest.approx(10.0, abs=0.3)


def test_double_is_dqn_where_both_networks_agree() -> None:
    single, double = agent([1, 2], target_update_every=1), agent([1, 2], name="double_dqn", target_update_every=1)
    for batch in batches(3, 2):
        a, b = single.update(batch, Noise([1, 2])), double.update(batch, Noise([1, 2]))
        assert torch.equal(a.metrics["losses/q"], b.metrics["losses/q"])
    torch.testing.assert_close(single.parameters.buffers, double.parameters.buffers, rtol=0, atol=0)


def test_the_target_of_double_is_never_above_dqns() -> None:
    online, lagged = (torch.randn(2, 8, 4, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2))
    (batch,), head = batches(1, 2), dqn.ScalarHead("mse")
    single, double = (head.target(lagged, q.argmax(-1), batch.reward, batch.discount) for q in (lagged, online))
    assert bool((double <= single).all()) and bool((double < single).any())


@pytest.mark.parametrize("name", NAMES)
def test_the_target_network_gets_no_gradient_and_takes_no_part_in_acting(name: str) -> None:
    ours = agent([1], name=name)
    (batch,), before = batches(1, 1), ours.target_parameters.buffers[0].clone()
    ours.update(batch, Noise([1]))
    assert torch.equal(ours.target_parameters.buffers[0], before)
    action = ours.act(batch.obs, Noise([1]), explore=False).action
    ours.target_parameters.buffers[0].fill_(torch.nan)
    assert torch.equal(ours.act(batch.obs, Noise([1]), explore=False).action, action)


def test_every_pass_of_noisy_layers_has_noise_of_its_own() -> None:
    ours, noise = agent([1, 2], name="rainbow"), Noise([1, 2])
    (batch,), size = batches(1, 2), ours.network.noise_size
    ours.update(batch, noise)
    passes = {f"normal/noisy/{purpose}": size for purpose in ("target", "selection", "online")}
    assert noise.state() == passes
    ours.act(batch.obs, noise, explore=True)
    assert noise.state() == passes | {"normal/noisy/act": size}
    ours.act(batch.obs, noise, explore=False)
    assert noise.state() == passes | {"normal/noisy/act": size}


def test_noise_explores_instead_of_epsilon() -> None:
    ours, noise = agent([1, 2], name="rainbow", noisy_std=5.0), Noise([1, 2])
    obs = torch.randn(2, 50, 3, generator=torch.Generator().manual_seed(0))
    explored = torch.stack([ours.act(obs, noise, explore=True).action for _ in range(20)])
    assert ours.exploration == 0 and not torch.equal(explored[0], explored[1])
    assert all(len(explored[:, r].unique()) == 4 for r in range(2))
    greedy = [ours.act(obs, noise, explore=False).action for _ in range(2)]
    assert torch.equal(*greedy)


def test_iqn_draws_fractions_to_learn_and_none_to_act() -> None:
    ours, noise = agent([1, 2], name="iqn", num_quantiles=3), Noise([1, 2])
    (batch,) = batches(1, 2)
    ours.update(batch, noise)
    drawn = {"uniform/fractions/target": 24, "uniform/fractions/online": 24}
    assert noise.state() == drawn
    ours.act(batch.obs, noise, explore=False)
    assert noise.state() == drawn


def test_iqn_learns_the_quantiles_of_the_return_at_any_fraction() -> None:
    """Rewards uniform on [0, 1] with nothing to follow: the quantile at tau is tau."""
    ours = agent([1], name="iqn", learning_rate=3e-3, huber_kappa=0.05)
    g, noise = torch.Generator().manual_seed(0), Noise([1])
    blank = torch.zeros(1, 64, 3)
    action, zeros = torch.zeros(1, 64, dtype=torch.int64), torch.zeros(1, 64)
    for _ in range(600):
        ours.update(Transition(blank, action, torch.rand(1, 64, generator=g), zeros, blank), noise)
    fractions = torch.tensor([[[0.1, 0.3, 0.5, 0.7, 0.9]]])
    quantiles = ours.network(torch.zeros(1, 1, 3), None, fractions)[0, 0, 0]
    torch.testing.assert_close(quantiles, fractions[0, 0], rtol=0, atol=0.08)


def test_returns_beyond_the_atoms_are_reported() -> None:
    ours = agent([1], name="c51", v_min=-1.0, v_max=1.0)
    (batch,) = batches(1, 1)
    reward = torch.tensor([[9.0, 9.0, 9.0, 9.0, 9.0, 9.0, -9.0, 0.0]])
    metrics = ours.update(batch._replace(reward=reward, discount=torch.zeros(1, 8)), Noise([1])).metrics
    assert float(metrics["dqn/mass_at_v_max"].mean()) == pytest.approx(6 / 8)
    assert float(metrics["dqn/mass_at_v_min"].mean()) == pytest.approx(1 / 8)


def test_the_priority_of_a_distribution_that_is_right_is_zero() -> None:
    head = dqn.CategoricalHead(-1.0, 1.0, 5)
    logits = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    action = torch.tensor([[0, 1, 2], [3, 0, 1]])
    target = head.target(logits, action, torch.zeros(2, 3), torch.ones(2, 3))
    weight = torch.ones(2, 3)
    _, priority = head.loss(logits, action, target, weight, None)
    torch.testing.assert_close(priority, torch.zeros(2, 3), rtol=0, atol=1e-6)
    _, priority = head.loss(-logits, action, target, weight, None)
    assert priority is not None and bool((priority > 0.1).all())
    assert head.loss(logits, action, target, None, None)[1] is None


@pytest.mark.parametrize("name", NAMES)
def test_a_weighted_sample_of_any_kind_counts_by_its_weight(name: str) -> None:
    (batch,) = batches(1, 2)
    ours, alike = (agent([1, 2], name=name) for _ in range(2))
    a = ours.update(batch._replace(weight=torch.full((2, 8), 0.5)), Noise([1, 2]))
    b = alike.update(batch._replace(weight=torch.ones(2, 8)), Noise([1, 2]))
    torch.testing.assert_close(2 * a.metrics["losses/q"], b.metrics["losses/q"])
    assert a.priority is not None and b.priority is not None
    torch.testing.assert_close(a.priority, b.priority)


@pytest.mark.parametrize("name", NAMES)
def test_the_policy_is_a_copy_of_one_replica(name: str) -> None:
    ours = agent([1, 2], name=name)
    obs = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(0))
    values = ours.head.q(ours.network(obs))
    policies = [ours.policy(r) for r in range(2)]
    before = deepcopy(policies[0].state_dict())
    for batch in batches(2, 2):
        ours.update(batch, Noise([1, 2]))
    for r, policy in enumerate(policies):
        torch.testing.assert_close(policy(obs[r]), values[r])
    assert all(torch.equal(value, before[key]) for key, value in policies[0].state_dict().items())
