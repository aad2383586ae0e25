"""Stochastic policies: what to make of a network's outputs, action values or what policy-gradient agents learn."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from app.schemas.bundle import Distribution
from app.schemas.environments import BoxSpace, DiscreteSpace, MultiDiscreteSpace
from worker.rl.functional import categorical, entropy, gaussian
from worker.rl.noise import Noise


def epsilon_greedy(q: Tensor, epsilon: float, noise: Noise) -> Tensor:
    """The actions of highest value (R, B) by q (R, B, A), save a share ``epsilon`` of them, drawn uniformly."""
    greedy = q.argmax(-1)
    if not epsilon:
        return greedy
    return categorical.epsilon_greedy(greedy, q.shape[-1], epsilon, noise.uniform("epsilon", *greedy.shape[1:]))


class Policy(Protocol):
    """Of a policy-gradient agent.

    ``outputs`` are (R, B, action_dim); ``log_std`` is (R, 1, dims) for Gaussians, None otherwise.
    """

    @property
    def distribution(self) -> Distribution: ...

    def sample(self, outputs: Tensor, log_std: Tensor | None, noise: Noise) -> Tensor:
        """A random action, (R, B, …)."""

    def mode(self, outputs: Tensor) -> Tensor:
        """The most likely action, (R, B, …)."""

    def evaluate(self, outputs: Tensor, log_std: Tensor | None, action: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probability of actions and entropy, (R, B) each."""


def policy_for(space: DiscreteSpace | MultiDiscreteSpace | BoxSpace) -> Policy:
    """The policy that fits an action space."""
    match space:
        case DiscreteSpace():
            return Categorical()
        case BoxSpace():
            return Gaussian()
        case MultiDiscreteSpace(nvec=nvec):
            return MultiCategorical(nvec)


class Categorical:
    """One discrete choice; outputs are its logits."""

    distribution: Distribution = "categorical"

    def sample(self, outputs: Tensor, log_std: Tensor | None, noise: Noise) -> Tensor:
        return categorical.sample(outputs, noise.gumbel("action", *outputs.shape[1:]))

    def mode(self, outputs: Tensor) -> Tensor:
        return outputs.argmax(-1)

    def evaluate(self, outputs: Tensor, log_std: Tensor | None, action: Tensor) -> tuple[Tensor, Tensor]:
        log_p = torch.log_softmax(outputs, -1)
        return categorical.log_prob(log_p, action), entropy.categorical(log_p)


@dataclass(frozen=True)
class MultiCategorical:
    """Several independent discrete choices; outputs are their logits one after the other."""

    nvec: tuple[int, ...]
    distribution: Distribution = "multi_categorical"

    def sample(self, outputs: Tensor, log_std: Tensor | None, noise: Noise) -> Tensor:
        return self.mode(outputs + noise.gumbel("action", *outputs.shape[1:]))

    def mode(self, outputs: Tensor) -> Tensor:
        return torch.stack([logits.argmax(-1) for logits in outputs.split(self.nvec, -1)], -1)

    def evaluate(self, outputs: Tensor, log_std: Tensor | None, action: Tensor) -> tuple[Tensor, Tensor]:
        choices = [torch.log_softmax(logits, -1) for logits in outputs.split(self.nvec, -1)]
        log_probs = [categorical.log_prob(log_p, action[..., i]) for i, log_p in enumerate(choices)]
        return torch.stack(log_probs).sum(0), torch.stack([entropy.categorical(log_p) for log_p in choices]).sum(0)


class Gaussian:
    """A box of actions; outputs are means in the environment's units. Actions are stored as drawn, clipped by envs."""

    distribution: Distribution = "gaussian"

    def sample(self, outputs: Tensor, log_std: Tensor | None, noise: Noise) -> Tensor:
        assert log_std is not None
        return torch.addcmul(outputs, log_std.exp(), noise.normal("action", *outputs.shape[1:]))

    def mode(self, outputs: Tensor) -> Tensor:
        return outputs

    def evaluate(self, outputs: Tensor, log_std: Tensor | None, action: Tensor) -> tuple[Tensor, Tensor]:
        assert log_std is not None
        return gaussian.log_prob(action, outputs, log_std), entropy.gaussian(log_std).expand(outputs.shape[:-1])
