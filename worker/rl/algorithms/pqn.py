"""Parallelised Q-network (Gallici et al. 2025, "Simplifying Deep Temporal Difference Learning", arXiv 2407.04811).

Q-learning that needs neither a replay, since many environments decorrelate the samples, nor a target network, since
layer normalisation keeps bootstrapping stable. Rollouts are collected epsilon-greedily; their Q(lambda) targets come
from the weights that acted and are then regressed on for a few epochs of minibatches.

Deviations from the paper's code: truncated episodes are bootstrapped from their final observation; Adam instead of
RAdam, whose slow start costs env steps; all outputs of a convolution are normalised together.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from app.schemas import algorithms as configs
from app.schemas.environments import BoxSpace
from worker.rl.algorithms.agent import EVALUATED, Agent, replica_of
from worker.rl.envs.spaces import EnvSpec
from worker.rl.functional import returns, schedules, td
from worker.rl.nets.layers import ACTIVATIONS, Init, LayerNorm, fan_in_linear
from worker.rl.nets.policies import epsilon_greedy
from worker.rl.nets.torsos import torso_for
from worker.rl.noise import Noise
from worker.rl.optim import Adam, Parameters
from worker.rl.replay.minibatches import shuffled
from worker.rl.types import Act, Rollout, Update


def build(
    config: configs.PQN,
    env_spec: EnvSpec,
    seeds: Sequence[int],
    device: torch.device,
    total_env_steps: int,
    num_envs: int,
) -> "PQN":
    """A new agent; every replica's weights depend on its seed alone."""
    network = NormalizedQNetwork(
        Init(seeds, "q"), env_spec.observation_box, env_spec.action_dim, config.hidden_sizes, config.activation
    ).to(device)
    return PQN(config, network, len(seeds), total_env_steps, num_envs)


class PQN(Agent):
    saved = ("parameters", "optimiser", "updates")
    driver = "on_policy"
    distribution = "epsilon_greedy"

    def __init__(
        self, config: configs.PQN, network: nn.Module, replicas: int, total_env_steps: int, num_envs: int
    ) -> None:
        self.config, self.network = config, network
        self.num_steps = config.num_steps
        self.epsilon = config.evaluation_epsilon
        self.parameters = Parameters(replicas, network)
        self.optimiser = Adam(self.parameters, config.learning_rate, max_grad_norm=config.max_grad_norm)
        self.updates = 0
        self._updates_planned = total_env_steps / (config.num_steps * num_envs)

    @property
    def exploration(self) -> float:
        """Epsilon of this rollout: it falls linearly with env steps, then stays."""
        start, end = self.config.epsilon_start, self.config.epsilon_end
        return schedules.linear(start, end, self.updates / (self.config.epsilon_fraction * self._updates_planned))

    @torch.no_grad()
    def act(self, obs: Tensor, noise: Noise, *, explore: bool) -> Act:
        return Act(epsilon_greedy(self.network(obs), self.exploration if explore else self.epsilon, noise), {})

    def update(self, batch: Rollout, noise: Noise) -> Update:
        config = self.config
        rows = batch.reward[0].numel() // config.num_minibatches
        remaining = schedules.linear(1.0, 0.0, self.updates / self._updates_planned)
        self.optimiser.lr = config.learning_rate * (remaining if config.learning_rate_schedule == "linear" else 1.0)
        samples = [batch.obs.flatten(1, 2), batch.action.flatten(1, 2), self._target(batch).flatten(1)]
        losses, values = [], []
        for _ in range(config.epochs):
            parts = shuffled(samples, noise.permutation("minibatch", samples[0].shape[1]))
            for obs, action, target in zip(*(part.split(rows, 1) for part in parts), strict=True):
                q = self.network(obs).gather(-1, action.unsqueeze(-1)).squeeze(-1)
                loss = td.weighted_mse(q, target)
                self.optimiser.step(loss)
                losses.append(loss.detach())
                values.append(q.detach().mean(1))
        self.updates += 1
        return Update({"losses/q": torch.stack(losses).mean(0), "pqn/q_mean": torch.stack(values).mean(0)})

    def policy(self, replica: int) -> nn.Module:
        return replica_of(self.network, replica)

    def finite(self) -> Tensor:
        return self.parameters.finite()

    @torch.no_grad()
    def _target(self, batch: Rollout) -> Tensor:
        """Q(lambda) targets by the weights that acted, (R, T, N)."""
        obs = torch.cat((batch.obs[:, 1:].flatten(1, 2), batch.last_obs, batch.final_obs), 1)
        value = torch.cat([self.network(part).amax(-1) for part in obs.split(EVALUATED, 1)], 1)
        discount = self.config.gamma * (~batch.terminated)
        return returns.q_lambda(
            batch.reward, batch.next_value(value), discount, batch.episode_end, self.config.q_lambda
        )


class NormalizedQNetwork(nn.Module):
    """Action values, obs (R, B, …) -> (R, B, actions), with layer norm before every activation.

    Vectors pass through the hidden layers, images through a convolutional torso.
    """

    def __init__(self, init: Init, observation: BoxSpace, actions: int, hidden: Sequence[int], activation: str) -> None:
        super().__init__()
        self.torso, features = torso_for(init, observation, normalized=True)
        sizes = [features, *(() if self.torso else hidden)]
        self.layers = nn.ModuleList(
            fan_in_linear(init, 1, a, b) for a, b in zip(sizes, [*sizes[1:], actions], strict=True)
        )
        self.norms = nn.ModuleList(LayerNorm(init.replicas, (width,)) for width in sizes[1:])
        self.activation = ACTIVATIONS[activation]

    def forward(self, obs: Tensor) -> Tensor:
        x = obs if self.torso is None else self.torso(obs)
        *hidden, last = self.layers
        for layer, norm in zip(hidden, self.norms, strict=True):
            x = self.activation(norm.forward(layer.forward(x)))
        q: Tensor = last(x)
        return q
