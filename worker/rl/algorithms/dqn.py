"""Deep Q-network (Mnih et al. 2015, https://doi.org/10.1038/nature14236).

Deviations from the paper: Adam instead of centred RMSProp, the squared error by default (Obando-Ceron & Castro 2021,
arXiv 2011.14826, find both better), the target network counted in updates.
"""

from collections.abc import Sequence
from copy import deepcopy
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from app.schemas import algorithms as configs
from worker.rl.algorithms.agent import Agent, replica_of
from worker.rl.envs.spaces import EnvSpec
from worker.rl.functional import td
from worker.rl.nets.heads import QNetwork
from worker.rl.nets.layers import Init
from worker.rl.noise import Noise
from worker.rl.optim import Adam, Parameters, polyak
from worker.rl.types import Act, Transition, Update


class Head(Protocol):
    """What a network's outputs (R, B, …) mean: values, or distributions of returns."""

    def q(self, outputs: Tensor) -> Tensor:
        """Expected return of each action, (R, B, A)."""

    def target(self, outputs: Tensor, action: Tensor, reward: Tensor, discount: Tensor) -> Tensor:
        """Target of the taken action's outputs, from those at the next state and the action (R, B) chosen there."""

    def loss(self, outputs: Tensor, action: Tensor, target: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor]:
        """Loss of each replica (R,) and size of each sample's error (R, B), which a prioritized replay ranks by."""


class ScalarHead:
    """One number per action: its expected return."""

    def __init__(self, loss: Literal["mse", "huber"]) -> None:
        self._loss = td.weighted_mse if loss == "mse" else td.weighted_huber

    def q(self, outputs: Tensor) -> Tensor:
        return outputs

    def target(self, outputs: Tensor, action: Tensor, reward: Tensor, discount: Tensor) -> Tensor:
        return td.target(reward, discount, _of(action, outputs))

    def loss(self, outputs: Tensor, action: Tensor, target: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor]:
        td_error = target - _of(action, outputs)
        return self._loss(td_error, weight), td_error.detach().abs()


def _of(action: Tensor, outputs: Tensor) -> Tensor:
    """Outputs of one action each: (R, B) and (R, B, A) -> (R, B)."""
    return outputs.gather(-1, action.unsqueeze(-1)).squeeze(-1)


def build(
    config: configs.DQN,
    env_spec: EnvSpec,
    seeds: Sequence[int],
    device: torch.device,
    total_env_steps: int,
    num_envs: int,
) -> "DQN":
    """A new agent; every replica's weights depend on its seed alone."""
    init = Init(seeds, "q")
    actions = env_spec.action_dim
    network = QNetwork(init, env_spec.observation_box, actions, config.hidden_sizes, config.activation).to(device)
    return DQN(config, network, ScalarHead(config.loss), actions, len(seeds), total_env_steps)


class DQN(Agent):
    saved = ("parameters", "target_parameters", "optimiser", "updates")
    driver = "off_policy"
    distribution = "epsilon_greedy"

    def __init__(
        self, config: configs.DQN, network: nn.Module, head: Head, actions: int, replicas: int, total_env_steps: int
    ) -> None:
        self.config, self.head, self.actions = config, head, actions
        self.epsilon = config.evaluation_epsilon
        self._annealed_by = config.epsilon_fraction * total_env_steps
        self.network, self.target_network = network, deepcopy(network)
        self.parameters = Parameters(replicas, self.network)
        self.target_parameters = Parameters(replicas, self.target_network)
        self.optimiser = Adam(self.parameters, config.learning_rate, max_grad_norm=config.max_grad_norm)
        self.updates = 0

    @property
    def exploration(self) -> float:
        """Epsilon now: it falls linearly with env steps, then stays."""
        start, end = self.config.epsilon_start, self.config.epsilon_end
        return start + min(1.0, self.env_step / self._annealed_by) * (end - start)

    @torch.no_grad()
    def act(self, obs: Tensor, noise: Noise, *, explore: bool) -> Act:
        action = self.head.q(self.network(obs)).argmax(-1)
        epsilon = self.exploration if explore else self.epsilon
        if epsilon:
            deviate, choice = noise.uniform("epsilon", *action.shape[1:], 2).unbind(-1)
            action = torch.where(deviate < epsilon, (choice * self.actions).long(), action)
        return Act(action, {})

    def update(self, batch: Transition, noise: Noise) -> Update:
        with torch.no_grad():
            next_outputs = self.target_network(batch.next_obs)
            next_action = self.head.q(next_outputs).argmax(-1)
            target = self.head.target(next_outputs, next_action, batch.reward, batch.discount)
        outputs = self.network(batch.obs)
        loss, priority = self.head.loss(outputs, batch.action, target, batch.weight)
        self.optimiser.step(loss)
        self.updates += 1
        if self.updates % self.config.target_update_every == 0:
            polyak(self.target_parameters, self.parameters, self.config.tau)
        metrics = {"losses/q": loss.detach(), "dqn/q_mean": self.head.q(outputs.detach()).mean((1, 2))}
        return Update(metrics, priority)

    def policy(self, replica: int) -> nn.Module:
        return GreedyPolicy(replica_of(self.network, replica), self.head)

    def finite(self) -> Tensor:
        return self.parameters.finite()


class GreedyPolicy(nn.Module):
    """obs (B, …) -> action values (B, A)."""

    def __init__(self, network: nn.Module, head: Head) -> None:
        super().__init__()
        self.network, self.head = network, head

    def forward(self, obs: Tensor) -> Tensor:
        return self.head.q(self.network(obs))
