"""Soft actor-critic with automatic temperature (Haarnoja et al. 2018, arXiv 1812.05905; equation numbers are its).

Deviations from the paper: the loss of the temperature is taken in ``log alpha``, as in the authors' code; entropy is
measured in the normalised action space [-1, 1], so that a target entropy means the same for every environment.
"""

import math
from collections.abc import Sequence
from copy import deepcopy

import torch
from torch import Tensor, nn

from app.schemas import algorithms as configs
from worker.rl.algorithms.agent import Agent, replica_of
from worker.rl.envs.spaces import EnvSpec
from worker.rl.functional import gaussian, td
from worker.rl.nets.heads import Critics, SquashedGaussian
from worker.rl.nets.layers import Init
from worker.rl.noise import Noise
from worker.rl.optim import Adam, Parameters, polyak
from worker.rl.types import Act, Transition, Update


def build(
    config: configs.SAC,
    env_spec: EnvSpec,
    seeds: Sequence[int],
    device: torch.device,
    total_env_steps: int,
    num_envs: int,
) -> "SAC":
    """A new agent; every replica's weights depend on its seed alone."""
    box, dims = env_spec.observation_box, env_spec.action_dim
    actor = SquashedGaussian(Init(seeds, "actor"), box, dims, config.hidden_sizes, config.activation)
    critic = Critics(Init(seeds, "critic"), box, dims, config.hidden_sizes, config.activation)
    bounds = (env_spec.action_low.to(device), env_spec.action_high.to(device))
    return SAC(config, actor.to(device), critic.to(device), bounds, len(seeds))


class SAC(Agent):
    saved = (
        "actor_parameters",
        "critic_parameters",
        "critic_target_parameters",
        "temperature_parameters",
        "actor_optimiser",
        "critic_optimiser",
        "temperature_optimiser",
    )
    driver = "off_policy"
    distribution = "tanh_gaussian"

    def __init__(
        self, config: configs.SAC, actor: nn.Module, critic: nn.Module, bounds: tuple[Tensor, Tensor], replicas: int
    ) -> None:
        self.config = config
        low, high = bounds
        self.center, self.half_range = (high + low) / 2, (high - low) / 2
        dims = len(low)
        self.target_entropy = -float(dims) if config.target_entropy is None else config.target_entropy
        self.actor, self.critic, self.critic_target = actor, critic, deepcopy(critic)
        self.temperature = Temperature(config.initial_temperature, replicas).to(low.device)
        self.actor_parameters = Parameters(replicas, self.actor)
        self.critic_parameters = Parameters(replicas, self.critic)
        self.critic_target_parameters = Parameters(replicas, self.critic_target)
        self.temperature_parameters = Parameters(replicas, self.temperature)
        self.actor_optimiser = Adam(self.actor_parameters, config.learning_rate)
        self.critic_optimiser = Adam(self.critic_parameters, config.critic_learning_rate or config.learning_rate)
        self.temperature_optimiser = Adam(self.temperature_parameters, config.learning_rate)

    @torch.no_grad()
    def act(self, obs: Tensor, noise: Noise, *, explore: bool) -> Act:
        mean, log_std = self.actor(obs)
        if explore:
            mean = torch.addcmul(mean, log_std.exp(), noise.normal("act", *mean.shape[1:]))
        return Act(torch.addcmul(self.center, mean.tanh(), self.half_range), {})

    def update(self, batch: Transition, noise: Noise) -> Update:
        action = (batch.action - self.center) / self.half_range
        batch = batch._replace(action=action)
        metrics = self._critic_step(batch, noise) | self._actor_step(batch, noise)
        polyak(self.critic_target_parameters, self.critic_parameters, self.config.tau)
        return Update(metrics)

    def _critic_step(self, batch: Transition, noise: Noise) -> dict[str, Tensor]:
        with torch.no_grad():
            next_action, next_log_prob = self._sample(batch.next_obs, noise, "target")
            next_q = self.critic_target(batch.next_obs, next_action).amin(1)
            soft_value = next_q - self.temperature.log_alpha.exp() * next_log_prob  # (3)
            target = td.target(batch.reward, batch.discount, soft_value)
        loss = td.weighted_mse(self.critic(batch.obs, batch.action), target.unsqueeze(1))  # (5)
        self.critic_optimiser.step(loss)
        return {"losses/critic": loss.detach(), "sac/q_mean": target.mean(-1)}

    def _actor_step(self, batch: Transition, noise: Noise) -> dict[str, Tensor]:
        action, log_prob = self._sample(batch.obs, noise, "actor")
        q = self.critic(batch.obs, action).amin(1)
        alpha = self.temperature.log_alpha.detach().exp()
        loss = (alpha * log_prob - q).mean(-1)  # (9)
        self.actor_optimiser.step(loss)
        entropy = -log_prob.detach().mean(-1)
        if not self.config.fixed_temperature:
            self.temperature_optimiser.step(self.temperature.log_alpha[:, 0] * (entropy - self.target_entropy))  # (18)
        return {"losses/actor": loss.detach(), "sac/entropy": entropy, "sac/alpha": alpha[:, 0]}

    def _sample(self, obs: Tensor, noise: Noise, stream: str) -> tuple[Tensor, Tensor]:
        mean, log_std = self.actor(obs)
        return gaussian.tanh_sample(mean, log_std, noise.normal(stream, *mean.shape[1:]))

    def policy(self, replica: int) -> nn.Module:
        return replica_of(self.actor, replica)

    def finite(self) -> Tensor:
        return self.actor_parameters.finite() & self.critic_parameters.finite()


class Temperature(nn.Module):
    """``log alpha``, (R, 1): the weight of entropy against return."""

    def __init__(self, initial: float, replicas: int) -> None:
        super().__init__()
        self.log_alpha = nn.Parameter(torch.full((replicas, 1), math.log(initial)))
