"""Deep Q-network (Mnih et al. 2015, https://doi.org/10.1038/nature14236) and the parts added to it.

Double Q-learning (van Hasselt et al. 2016, arXiv 1509.06461) is a line of the update. What is learned of the return is
a :class:`Head`: its mean, C51 (Bellemare et al. 2017, 1707.06887), QR-DQN (Dabney et al. 2018, 1710.10044) and IQN
(Dabney et al. 2018, 1806.06923). Dueling streams and noisy layers belong to the network, n-step returns and priorities
to the replay. All of them but quantiles make Rainbow (Hessel et al. 2018, 1710.02298).

Deviations from the papers: Adam instead of centred RMSProp, the squared error by default (Obando-Ceron & Castro 2021,
2011.14826, find both better), the target network counted in updates; no rescaling of gradients under dueling streams;
IQN acts by the mean of its quantiles at fixed fractions and, unless it is double, chooses the next action by those that
the target is made of.
"""

from abc import abstractmethod
from collections.abc import Sequence
from copy import deepcopy
from typing import Literal

import torch
from torch import Tensor, nn

from app.schemas import algorithms as configs
from worker.rl.algorithms.agent import Agent, replica_of
from worker.rl.envs.spaces import EnvSpec
from worker.rl.functional import categorical_values, quantile_values, schedules, td
from worker.rl.nets.layers import Init
from worker.rl.nets.policies import epsilon_greedy
from worker.rl.nets.q_network import QNetwork
from worker.rl.noise import Noise
from worker.rl.optim import Adam, Parameters, polyak
from worker.rl.types import Act, Transition, Update


class Head(nn.Module):
    """What a network's outputs, (R, B, A) or (R, B, A, N), mean: values, or distributions of returns."""

    @abstractmethod
    def q(self, outputs: Tensor) -> Tensor:
        """Expected return of each action, (R, B, A)."""

    @abstractmethod
    def target(self, outputs: Tensor, action: Tensor, reward: Tensor, discount: Tensor) -> Tensor:
        """Target of the taken action's outputs, from those at the next state and the action (R, B) chosen there."""

    @abstractmethod
    def loss(
        self, outputs: Tensor, action: Tensor, target: Tensor, weight: Tensor | None, fractions: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Loss of each replica (R,) and, of a weighted sample, each error's size (R, B), which its replay ranks by.

        ``fractions`` (R, B, N) are those that an implicit network was asked for.
        """

    def metrics(self, target: Tensor) -> dict[str, Tensor]:
        """What is worth knowing of the targets, (R, B) each."""
        return {}


class ScalarHead(Head):
    """One number per action: its expected return."""

    def __init__(self, loss: Literal["mse", "huber"]) -> None:
        super().__init__()
        self._loss = td.weighted_mse if loss == "mse" else td.weighted_huber

    def q(self, outputs: Tensor) -> Tensor:
        return outputs

    def target(self, outputs: Tensor, action: Tensor, reward: Tensor, discount: Tensor) -> Tensor:
        return td.target(reward, discount, _of(action, outputs))

    def loss(
        self, outputs: Tensor, action: Tensor, target: Tensor, weight: Tensor | None, fractions: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        prediction = _of(action, outputs)
        loss = self._loss(prediction, target, weight)
        return loss, None if weight is None else (target - prediction.detach()).abs()


class CategoricalHead(Head):
    """Logits of returns at fixed atoms from ``v_min`` to ``v_max``: C51."""

    support: Tensor

    def __init__(self, v_min: float, v_max: float, num_atoms: int) -> None:
        super().__init__()
        self.register_buffer("support", torch.linspace(v_min, v_max, num_atoms))

    def q(self, outputs: Tensor) -> Tensor:
        return categorical_values.mean(outputs, self.support)

    def target(self, outputs: Tensor, action: Tensor, reward: Tensor, discount: Tensor) -> Tensor:
        return categorical_values.target(reward, discount, _of(action, outputs).softmax(-1), self.support)

    def loss(
        self, outputs: Tensor, action: Tensor, target: Tensor, weight: Tensor | None, fractions: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        cross_entropy = categorical_values.cross_entropy(_of(action, outputs), target)
        loss = td.weighted_mean(cross_entropy, weight)
        if weight is None:
            return loss, None
        divergence = cross_entropy.detach() - categorical_values.entropy(target)  # Kullback-Leibler's
        return loss, divergence.clamp_(min=0)

    def metrics(self, target: Tensor) -> dict[str, Tensor]:
        return {"dqn/mass_at_v_min": target[..., 0], "dqn/mass_at_v_max": target[..., -1]}


class QuantileHead(Head):
    """Quantiles of returns: at the midpoints of ``count`` equal parts (QR-DQN) or at fractions asked for (IQN)."""

    midpoints: Tensor

    def __init__(self, count: int, kappa: float) -> None:
        super().__init__()
        self.kappa = kappa
        self.register_buffer("midpoints", quantile_values.midpoints(count))

    def q(self, outputs: Tensor) -> Tensor:
        return outputs.mean(-1)

    def target(self, outputs: Tensor, action: Tensor, reward: Tensor, discount: Tensor) -> Tensor:
        return td.target(reward.unsqueeze(-1), discount.unsqueeze(-1), _of(action, outputs))

    def loss(
        self, outputs: Tensor, action: Tensor, target: Tensor, weight: Tensor | None, fractions: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        tau = self.midpoints if fractions is None else fractions
        loss = quantile_values.quantile_huber(_of(action, outputs), target, tau, self.kappa)
        return td.weighted_mean(loss, weight), None if weight is None else loss.detach()


def _of(action: Tensor, outputs: Tensor) -> Tensor:
    """Outputs of one action each: (R, B) and (R, B, A, …) -> (R, B, …)."""
    index = action.unsqueeze(-1)
    if outputs.dim() == 4:
        index = index.unsqueeze(-1).expand(-1, -1, -1, outputs.shape[-1])
    return outputs.gather(2, index).squeeze(2)


def build(
    config: configs.DQN,
    env_spec: EnvSpec,
    seeds: Sequence[int],
    device: torch.device,
    total_env_steps: int,
    num_envs: int,
) -> "DQN":
    """A new agent; every replica's weights depend on its seed alone."""
    network = QNetwork(
        Init(seeds, "q"),
        env_spec.observation_box,
        env_spec.action_dim,
        config.hidden_sizes,
        config.activation,
        atoms=config.num_quantiles if config.distribution == "quantile" else config.num_atoms,
        dueling=config.dueling,
        noisy_std=config.noisy_std,
        implicit=config.num_policy_quantiles,
    )
    return DQN(config, network.to(device), _head(config).to(device), len(seeds), total_env_steps)


def _head(config: configs.DQN) -> Head:
    if config.num_atoms is not None:
        assert config.v_min is not None and config.v_max is not None
        return CategoricalHead(config.v_min, config.v_max, config.num_atoms)
    if config.num_quantiles is not None:
        assert config.huber_kappa is not None
        return QuantileHead(config.num_quantiles, config.huber_kappa)
    assert config.loss is not None
    return ScalarHead(config.loss)


class DQN(Agent):
    saved = ("parameters", "target_parameters", "optimiser", "updates")
    driver = "off_policy"
    distribution = "epsilon_greedy"

    def __init__(self, config: configs.DQN, network: QNetwork, head: Head, replicas: int, total_env_steps: int) -> None:
        self.config, self.head = config, head
        self.epsilon = config.evaluation_epsilon
        self._asked = (config.num_quantiles or 0) if config.distribution == "implicit" else 0
        self._annealed_by = (config.epsilon_fraction or 1.0) * total_env_steps
        self.network, self.target_network = network, deepcopy(network)
        self.parameters = Parameters(replicas, self.network)
        self.target_parameters = Parameters(replicas, self.target_network)
        self.optimiser = Adam(
            self.parameters, config.learning_rate, eps=config.adam_epsilon, max_grad_norm=config.max_grad_norm
        )
        self.updates = 0

    @property
    def exploration(self) -> float:
        """Epsilon now: it falls linearly with env steps, then stays. Noisy layers explore without."""
        start, end = self.config.epsilon_start or 0.0, self.config.epsilon_end or 0.0
        return schedules.linear(start, end, self.env_step / self._annealed_by)

    @torch.no_grad()
    def act(self, obs: Tensor, noise: Noise, *, explore: bool) -> Act:
        outputs = self.network(obs, self._weight_noise(noise, "act") if explore else None)
        epsilon = self.exploration if explore else self.epsilon
        return Act(epsilon_greedy(self.head.q(outputs), epsilon, noise), {})

    def update(self, batch: Transition, noise: Noise) -> Update:
        size = batch.reward.shape[1]
        with torch.no_grad():
            asked = self._fractions(noise, "target", size)
            next_outputs = self.target_network(batch.next_obs, self._weight_noise(noise, "target"), asked)
            chooser = next_outputs
            if self.config.double:
                chooser = self.network(batch.next_obs, self._weight_noise(noise, "selection"))
            next_q = self.head.q(chooser)
            target = self.head.target(next_outputs, next_q.argmax(-1), batch.reward, batch.discount)
        asked = self._fractions(noise, "online", size)
        outputs = self.network(batch.obs, self._weight_noise(noise, "online"), asked)
        loss, priority = self.head.loss(outputs, batch.action, target, batch.weight, asked)
        self.optimiser.step(loss)
        self.updates += 1
        if self.updates % self.config.target_update_every == 0:
            polyak(self.target_parameters, self.parameters, self.config.tau)
        metrics = {"losses/q": loss.detach(), "dqn/q_mean": next_q}
        return Update(metrics | self.head.metrics(target), priority)

    def policy(self, replica: int) -> nn.Module:
        return GreedyPolicy(replica_of(self.network, replica), deepcopy(self.head))

    def finite(self) -> Tensor:
        return self.parameters.finite()

    def _weight_noise(self, noise: Noise, purpose: str) -> Tensor | None:
        """For one pass through noisy layers; None for plain ones."""
        size = self.network.noise_size
        return noise.normal(f"noisy/{purpose}", size) if size else None

    def _fractions(self, noise: Noise, purpose: str, size: int) -> Tensor | None:
        """What an implicit network is asked for; None for others."""
        return noise.uniform(f"fractions/{purpose}", size, self._asked) if self._asked else None


class GreedyPolicy(nn.Module):
    """obs (B, …) -> action values (B, A)."""

    def __init__(self, network: nn.Module, head: Head) -> None:
        super().__init__()
        self.network, self.head = network, head

    def forward(self, obs: Tensor) -> Tensor:
        return self.head.q(self.network(obs))
