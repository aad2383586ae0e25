"""The values that pass between environments, agents and drivers. Axis 0 is always the replica."""

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor


class Act(NamedTuple):
    """What an agent answers to observations.

    ``action`` is in the environment's units and is stored as it is: (R, N) integers from 0 for discrete actions,
    (R, N, dims) otherwise; the environment adapter clips to a box and adds a discrete ``start``. ``extras`` are stored
    with the transition (log-probability, value, …), each (R, N, …). ``state`` is what a recurrent agent carries on.
    """

    action: Tensor
    extras: dict[str, Tensor]
    state: Tensor | None = None


class Transition(NamedTuple):
    """A batch of transitions, (R, B, …) each. ``discount`` is ``gamma ** n``, zero if and only if terminated."""

    obs: Tensor
    action: Tensor
    reward: Tensor
    discount: Tensor
    next_obs: Tensor
    weight: Tensor | None = None
    """Importance weights (R, B) of a prioritized sample."""
    episode_end: Tensor | None = None
    """Where an episode ends with the transition, (R, B): terminated, truncated or cut."""


class Rollout(NamedTuple):
    """What an on-policy agent learns from: time-major inside a replica, (R, T, N, …) unless said otherwise.

    Two masks: ``terminated`` removes the bootstrap, ``episode_end`` (terminated, truncated or cut) stops traces.
    """

    obs: Tensor
    action: Tensor
    reward: Tensor
    terminated: Tensor
    episode_end: Tensor
    last_obs: Tensor
    """What follows the last step, (R, N, …)."""
    final_obs: Tensor
    """True final observations of truncated episodes, (R, K, …); replicas with fewer than K are padded with zeros."""
    final_index: Tensor
    """Where they belong, (R, K) int64 into the flattened T * N axis; T * N where padded."""

    def next_value(self, value: Tensor) -> Tensor:
        """What each step's true next observation is worth, (R, T, N).

        Args:
            value: Of ``obs`` from the second step on, ``last_obs`` and ``final_obs``, in a row, (R, T * N + K).
        """
        size = self.reward[0].numel()
        # Time-major: what follows a step lies one row of environments on, except where an episode was truncated.
        following = F.pad(value[:, :size], (0, 1)).scatter_(1, self.final_index, value[:, size:])
        return following[:, :size].view(self.reward.shape)


class Update(NamedTuple):
    """What an update reports, on the device: ``metrics`` (R, …) each, of which each replica's mean is taken when they
    are shown; absolute ``priority`` (R, B) for such a replay."""

    metrics: dict[str, Tensor]
    priority: Tensor | None = None
