"""Whole networks: a torso for the observations and a head for what the algorithm asks.

Images pass through a convolutional torso, whose features feed the heads directly; those of critics go through the
hidden layers first, together with the action. Vectors pass through the hidden layers. Inputs and outputs have axes
(R, B, …), ensembles (R, E, B, …).
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from app.schemas.environments import BoxSpace
from worker.rl.nets.layers import Init, Linear, rows_of
from worker.rl.nets.torsos import fan_in_mlp, orthogonal_mlp, torso_for


class ActorCritic(nn.Module):
    """A policy and a value function as the two members of one ensemble, so that one batched matmul serves both.

    The last layer is as wide as the wider of the two; the weights in excess start at zero and never get a gradient.

    Args:
        outputs: numbers the policy is made of: logits, or the means of a Gaussian.
        log_std_init: for a Gaussian, the initial state-independent log standard deviation; None = no such parameter.
    """

    def __init__(
        self,
        init: Init,
        observation: BoxSpace,
        outputs: int,
        hidden: Sequence[int],
        activation: str,
        log_std_init: float | None = None,
    ) -> None:
        super().__init__()
        self.outputs = outputs
        self.torso, features = torso_for(init, observation)
        sizes: Sequence[int] = () if self.torso else hidden
        last = sizes[-1] if sizes else features
        self.towers = orthogonal_mlp(init, 2, features, sizes, _policy_and_value(init, last, outputs), activation)
        self.log_std = (
            None if log_std_init is None else nn.Parameter(torch.full((init.replicas, 1, outputs), log_std_init))
        )

    def forward(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """Policy outputs (R, B, outputs) and values (R, B)."""
        x = obs if self.torso is None else self.torso(obs)
        out = self.towers(_for_members(x, 2)).unflatten(0, (-1, 2))
        return out[:, 0, :, : self.outputs], out[:, 1, :, 0]

    def actor(self) -> "Actor":
        """The policy alone, sharing memory with this network as long as its parameters stay where they are."""
        return Actor(self.torso, rows_of(self.towers, slice(0, None, 2)), self.outputs)


class Actor(nn.Module):
    """The policy of an :class:`ActorCritic`: obs (R, B, …) -> (R, B, outputs)."""

    def __init__(self, torso: nn.Module | None, tower: nn.Module, outputs: int) -> None:
        super().__init__()
        self.torso, self.tower, self.outputs = torso, tower, outputs

    def forward(self, obs: Tensor) -> Tensor:
        out: Tensor = self.tower(obs if self.torso is None else self.torso(obs))
        return out[..., : self.outputs]


def _policy_and_value(init: Init, features: int, outputs: int) -> Linear:
    weight = torch.zeros(init.replicas, 2, features, max(outputs, 1))
    weight[:, 0, :, :outputs] = init.orthogonal(1, features, outputs, 0.01)
    weight[:, 1, :, :1] = init.orthogonal(1, features, 1, 1.0)
    return Linear(weight.flatten(0, 1))


class SquashedGaussian(nn.Module):
    """Mean and log standard deviation of a Gaussian that tanh squashes: obs -> two of (R, B, dims)."""

    LOG_STD_RANGE = (-20.0, 2.0)

    def __init__(self, init: Init, observation: BoxSpace, dims: int, hidden: Sequence[int], activation: str) -> None:
        super().__init__()
        self.torso, features = torso_for(init, observation)
        self.mlp = fan_in_mlp(init, 1, (features, *(() if self.torso else hidden), 2 * dims), activation)

    def forward(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        out = self.mlp(obs if self.torso is None else self.torso(obs))
        mean, log_std = out.chunk(2, -1)
        return mean, log_std.clamp(*self.LOG_STD_RANGE)


class Critics(nn.Module):
    """An ensemble of Q(obs, action): (R, B, …) and (R, B, dims) -> (R, E, B)."""

    def __init__(
        self,
        init: Init,
        observation: BoxSpace,
        dims: int,
        hidden: Sequence[int],
        activation: str,
        members: int = 2,
    ) -> None:
        super().__init__()
        self.members = members
        self.torso, features = torso_for(init, observation)
        self.mlp = fan_in_mlp(init, members, (features + dims, *hidden, 1), activation)

    def forward(self, obs: Tensor, action: Tensor) -> Tensor:
        x = obs if self.torso is None else self.torso(obs)
        x = _for_members(torch.cat((x, action), -1), self.members)
        q: Tensor = self.mlp(x).squeeze(-1).unflatten(0, (-1, self.members))
        return q


def _for_members(x: Tensor, members: int) -> Tensor:
    """The same input for every member: (R, B, F) -> (R * E, B, F)."""
    return x.unsqueeze(1).expand(-1, members, -1, -1).flatten(0, 1)
