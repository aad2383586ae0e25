"""REINFORCE with a learned baseline: the algorithm that tests/extension adds to a copy of the house."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from worker.rl.algorithms.agent import Agent, replica_of
from worker.rl.envs.spaces import EnvSpec
from worker.rl.functional import policy_gradient, returns
from worker.rl.nets.heads import ActorCritic
from worker.rl.nets.layers import Init
from worker.rl.nets.policies import policy_for
from worker.rl.noise import Noise
from worker.rl.optim import Adam, Parameters
from worker.rl.types import Act, Rollout, Update


def build(
    config: object, env_spec: EnvSpec, seeds: Sequence[int], device: torch.device, total_env_steps: int, num_envs: int
) -> "VPG":
    return VPG(config, env_spec, seeds, device)


class VPG(Agent):
    saved = ("parameters", "optimiser")
    driver = "on_policy"
    distribution = "categorical"

    def __init__(self, config: object, env_spec: EnvSpec, seeds: Sequence[int], device: torch.device) -> None:
        self.config, self.num_steps = config, config.num_steps
        self.choice = policy_for(env_spec.action_space)
        self.network = ActorCritic(
            Init(seeds, "vpg"), env_spec.observation_box, env_spec.action_dim, config.hidden_sizes, config.activation
        ).to(device)
        self.parameters = Parameters(len(seeds), self.network)
        self.optimiser = Adam(self.parameters, config.learning_rate, max_grad_norm=0.5)

    @torch.no_grad()
    def act(self, obs: Tensor, noise: Noise, *, explore: bool) -> Act:
        logits = self.network(obs)[0]
        return Act(self.choice.sample(logits, None, noise) if explore else self.choice.mode(logits), {})

    def update(self, batch: Rollout, noise: Noise) -> Update:
        shape = batch.reward.shape
        with torch.no_grad():
            target = self._returns(batch)
        logits, value = self.network(batch.obs.flatten(1, 2))
        log_prob, _ = self.choice.evaluate(logits, None, batch.action.flatten(1, 2))
        advantage = target.flatten(1) - value.detach()
        policy_loss = policy_gradient.a2c(log_prob, advantage).mean(1)
        value_loss = (target.flatten(1) - value).square().mean(1)
        self.optimiser.step(policy_loss + 0.5 * value_loss)
        assert log_prob.shape == (shape[0], shape[1] * shape[2])
        return Update({"losses/policy": policy_loss.detach(), "losses/value": value_loss.detach()})

    def policy(self, replica: int) -> nn.Module:
        return replica_of(self.network.actor(), replica)

    def finite(self) -> Tensor:
        return self.parameters.finite()

    def _returns(self, batch: Rollout) -> Tensor:
        """Reward to go, bootstrapped where an episode goes on or was truncated: GAE with lambda = 1 plus the value."""
        steps, num_envs = batch.reward.shape[1:]
        value = self.network(batch.obs.flatten(1, 2))[1].view(batch.reward.shape)
        following = torch.cat((value[:, 1:], self.network(batch.last_obs)[1].unsqueeze(1)), 1).flatten(1)
        if batch.final_index.shape[1]:
            padded = torch.nn.functional.pad(following, (0, 1))
            following = padded.scatter(1, batch.final_index, self.network(batch.final_obs)[1])[:, : steps * num_envs]
        gamma = self.config.gamma
        discount = gamma * (~batch.terminated)
        return value + returns.gae(
            batch.reward, value, following.view(value.shape), discount, batch.episode_end, gamma, 1.0
        )
