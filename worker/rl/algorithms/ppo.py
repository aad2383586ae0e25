"""Proximal policy optimisation (Schulman et al. 2017, arXiv 1707.06347) with generalised advantage estimation.

Details that matter, after Huang et al. 2022 (the 37 implementation details): orthogonal initialisation (sqrt 2, 0.01
for the policy, 1 for the value), separate towers, Adam with eps 1e-5, global gradient clipping, advantages normalised
per minibatch, minibatches shuffled each epoch, Gaussian actions stored as drawn and clipped by the environment,
truncated episodes bootstrapped from their final observation.

Deviations: log-probabilities and values of a rollout are computed once before the update instead of while acting (the
weights are the same). Normalisers take in a rollout at a time: acting and learning on a rollout use the same
observation statistics, which then move on; rewards are scaled by statistics that include the rollout. The value loss
has no factor of one half, as in the paper.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from app.schemas import algorithms as configs
from worker.rl.algorithms.agent import EVALUATED, Agent, Value, replica_of
from worker.rl.envs.spaces import EnvSpec
from worker.rl.functional import policy_gradient, returns, schedules
from worker.rl.nets.heads import ActorCritic
from worker.rl.nets.layers import Init
from worker.rl.nets.normalisers import CLIP, RunningNorm
from worker.rl.nets.policies import policy_for
from worker.rl.noise import Noise
from worker.rl.optim import Adam, Parameters
from worker.rl.replay.minibatches import shuffled
from worker.rl.types import Act, Rollout, Update

METRICS = ("losses/policy", "losses/value", "losses/entropy", "ppo/approx_kl", "ppo/clip_fraction")
KL = METRICS.index("ppo/approx_kl")


def build(
    config: configs.PPO,
    env_spec: EnvSpec,
    seeds: Sequence[int],
    device: torch.device,
    total_env_steps: int,
    num_envs: int,
) -> "PPO":
    return PPO(config, env_spec, seeds, device, total_env_steps, num_envs)


class PPO(Agent):
    saved = ("parameters", "optimiser", "observations", "rewards", "discounted", "updates")
    driver = "on_policy"

    def __init__(
        self,
        config: configs.PPO,
        env_spec: EnvSpec,
        seeds: Sequence[int],
        device: torch.device,
        total_env_steps: int,
        num_envs: int,
    ) -> None:
        replicas = len(seeds)
        self.config = config
        self.env_spec = env_spec
        self.num_steps = config.num_steps
        self.updates = 0
        self._updates_planned = total_env_steps / (config.num_steps * num_envs)
        self._policy = policy_for(env_spec.action_space)
        self.distribution = self._policy.distribution
        self.network = ActorCritic(
            Init(seeds, "actor_critic"),
            env_spec.observation_box,
            env_spec.action_dim,
            config.hidden_sizes,
            config.activation,
            config.log_std_init if self.distribution == "gaussian" else None,
        ).to(device)
        self.parameters = Parameters(replicas, self.network)
        self.optimiser = Adam(self.parameters, config.learning_rate, eps=1e-5, max_grad_norm=config.max_grad_norm)
        normalised = config.normalize_observation and not env_spec.image
        self.observations = RunningNorm(replicas, env_spec.observation_shape, device) if normalised else None
        self.rewards = RunningNorm(replicas, (), device) if config.normalize_reward else None
        self.discounted = torch.zeros(replicas, num_envs, device=device)
        self.actor = self.network.actor()

    @torch.no_grad()
    def act(self, obs: Tensor, noise: Noise, *, explore: bool) -> Act:
        outputs = self.actor(self._normalised(obs))
        if explore:
            return Act(self._policy.sample(outputs, self.network.log_std, noise), {})
        return Act(self._policy.mode(outputs), {})

    def update(self, batch: Rollout, noise: Noise) -> Update:
        config = self.config
        remaining = schedules.linear(1.0, 0.0, self.updates / self._updates_planned)
        self.optimiser.lr = config.learning_rate * (remaining if config.learning_rate_schedule == "linear" else 1.0)
        clip_range = config.clip_range * (remaining if config.clip_range_schedule == "linear" else 1.0)
        data = self._evaluate(batch)
        spread = data.target.var(1)
        explained = (1.0 - (data.target - data.value).var(1) / spread).masked_fill(spread == 0, torch.nan)
        metrics, counted = [], []
        active = [True] * self.parameters.replicas
        for part in self._minibatches(data, noise):
            loss, seen = self._loss(part, clip_range)
            metrics.append(seen)
            counted.append(active)
            if config.target_kl is not None:
                kl = seen[KL].tolist()
                active = [a and k <= 1.5 * config.target_kl for a, k in zip(active, kl, strict=True)]
                if not any(active):
                    break
            self.optimiser.step(loss, active)
        self.updates += 1
        if self.observations is not None:
            self.observations.update(batch.obs.flatten(1, 2))
        means = _means(torch.stack(metrics), torch.tensor(counted, device=spread.device).unsqueeze(1))
        return Update(dict(zip(METRICS, means.unbind(), strict=True)) | {"ppo/explained_variance": explained})

    def policy(self, replica: int) -> nn.Module:
        return PPOPolicy(self, replica)

    def finite(self) -> Tensor:
        return self.parameters.finite()

    def load(self, state: Mapping[str, Value]) -> None:
        super().load(state)
        self.discounted.zero_()  # whoever loads a state begins new episodes

    def select(self, keep: Sequence[int]) -> None:
        super().select(keep)
        self.actor = self.network.actor()

    @torch.no_grad()
    def _evaluate(self, batch: Rollout) -> "_Samples":
        """What the weights that acted make of the rollout: log-probabilities, values, advantages."""
        _, steps, num_envs = batch.reward.shape
        size = steps * num_envs
        obs = torch.cat((batch.obs.flatten(1, 2), batch.last_obs, batch.final_obs), 1)
        obs = self._normalised(obs)
        parts = [self.network(part) for part in obs.split(EVALUATED, 1)]
        outputs, values = (torch.cat(part, 1) for part in zip(*parts, strict=True))
        action = batch.action.flatten(1, 2)
        log_prob, _ = self._policy.evaluate(outputs[:, :size], self.network.log_std, action)
        value = values[:, :size]
        advantage = returns.gae(
            self._scaled(batch),
            value.view(batch.reward.shape),
            batch.next_value(values[:, num_envs:]),
            self.config.gamma * (~batch.terminated),
            batch.episode_end,
            self.config.gamma,
            self.config.gae_lambda,
        ).flatten(1)
        return _Samples(obs[:, :size], action, log_prob, value, advantage, advantage + value)

    def _minibatches(self, data: "_Samples", noise: Noise) -> Iterator["_Samples"]:
        """All samples once per epoch, in a new order each time."""
        count, size = self.config.num_minibatches, data.value.shape[1]
        rows = size // count
        # All drawn beforehand: where the updates stop early is no matter of how far the stream is.
        orders = [noise.permutation("minibatch", size) for _ in range(self.config.epochs)]
        for order in orders:
            shuffled = data.take(order)
            if self.config.normalize_advantage and rows > 1:
                advantage = shuffled.advantage.view(-1, count, rows)
                std, mean = torch.std_mean(advantage, 2, keepdim=True)
                shuffled = shuffled._replace(advantage=((advantage - mean) / (std + 1e-8)).flatten(1))
            for start in range(0, size, rows):
                yield shuffled.rows(start, start + rows)

    def _loss(self, part: "_Samples", clip_range: float) -> tuple[Tensor, Tensor]:
        """Loss (R,), and the metrics of ``METRICS``, (metrics, R)."""
        config = self.config
        outputs, value = self.network(part.obs)
        log_prob, entropy = self._policy.evaluate(outputs, self.network.log_std, part.action)
        log_ratio = log_prob - part.log_prob
        ratio = log_ratio.exp()
        surrogate = policy_gradient.clipped_surrogate(ratio, part.advantage, clip_range)
        if config.clip_range_value is None:
            squared = (value - part.target).square()
        else:
            squared = policy_gradient.clipped_value(value, part.value, part.target, config.clip_range_value)
        loss = surrogate + config.value_coefficient * squared
        if config.entropy_coefficient:
            loss = loss - config.entropy_coefficient * entropy
        with torch.no_grad():
            kl = policy_gradient.approx_kl(log_ratio)
            clipped = (ratio - 1).abs() > clip_range
            metrics = torch.stack((surrogate, squared, entropy, kl, clipped.float())).mean(-1)
        return loss.mean(1), metrics

    def _normalised(self, obs: Tensor) -> Tensor:
        return obs if self.observations is None else self.observations(obs)

    def _scaled(self, batch: Rollout) -> Tensor:
        """Rewards over the running standard deviation of their discounted sum, if so configured."""
        if self.rewards is None:
            return batch.reward
        sums = returns.discounted_return(batch.reward, batch.episode_end, self.discounted, self.config.gamma)
        self.discounted = sums[:, -1] * ~batch.episode_end[:, -1]
        self.rewards.update(sums.flatten(1))
        return self.rewards.rescale(batch.reward.flatten(1)).view(batch.reward.shape)


def _means(metrics: Tensor, counted: Tensor) -> Tensor:
    """Means of metrics (minibatches, metrics, R) over the minibatches that count, (minibatches, 1, R) bool."""
    return metrics.where(counted, 0.0).sum(0) / counted.sum(0)


class _Samples(NamedTuple):
    """A rollout without its order, (R, B, …) each."""

    obs: Tensor
    action: Tensor
    log_prob: Tensor
    value: Tensor
    advantage: Tensor
    target: Tensor

    def take(self, order: Tensor) -> "_Samples":
        """Samples in this order, (R, B) int64."""
        return _Samples(*shuffled(self, order))

    def rows(self, start: int, stop: int) -> "_Samples":
        return _Samples(*(x[:, start:stop] for x in self))


class PPOPolicy(nn.Module):
    """One replica's policy for export: obs (B, …) -> ``logits`` or ``(mean, log_std)``, normaliser included."""

    def __init__(self, agent: PPO, replica: int) -> None:
        super().__init__()
        self.actor = replica_of(agent.actor, replica)
        log_std = agent.network.log_std
        self.log_std = None if log_std is None else nn.Parameter(log_std[replica].detach().clone(), requires_grad=False)
        norm = agent.observations
        self.normalised = norm is not None
        if norm is not None:
            self.shift, self.scale = nn.Buffer(norm.shift[replica].clone()), nn.Buffer(norm.scale[replica].clone())

    def forward(self, obs: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        x = ((obs - self.shift) * self.scale).clamp(-CLIP, CLIP) if self.normalised else obs
        outputs: Tensor = self.actor(x)
        return outputs if self.log_std is None else (outputs, self.log_std.expand_as(outputs))
