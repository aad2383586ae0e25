"""Preallocated storage of one rollout of T steps of N copies of R replicas."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worker.rl.types import Rollout

Array = NDArray[Any]


class RolloutStorage:
    """Written step by step, read as a :class:`Rollout` whose tensors stay valid until writing begins anew."""

    def __init__(
        self,
        replicas: int,
        num_envs: int,
        steps: int,
        obs: tuple[Sequence[int], torch.dtype],
        action: tuple[Sequence[int], torch.dtype],
        device: torch.device,
    ) -> None:
        self.steps, self.device = steps, device
        self._obs_kind, self._action_kind = obs, action
        self._allocate(replicas, steps, num_envs)

    def _allocate(self, *lead: int) -> None:
        (shape, dtype), (action_shape, action_dtype) = self._obs_kind, self._action_kind
        self.obs = torch.zeros(*lead, *shape, dtype=dtype, device=self.device)
        self.action = torch.zeros(*lead, *action_shape, dtype=action_dtype, device=self.device)
        self.reward = np.zeros(lead, np.float32)
        self.terminated = np.zeros(lead, bool)
        self.episode_end = np.zeros(lead, bool)
        self._obs_at, self._action_at = self.obs.unbind(1), self.action.unbind(1)
        self._finals: list[tuple[int, Array, Array]] = []

    def begin(self) -> None:
        """Forget the last rollout."""
        self._finals.clear()

    def observe(self, t: int, obs: Array) -> Tensor:
        """Keep what step ``t`` acts on, (R, N, …); the stored tensor."""
        stored = self._obs_at[t]
        stored.copy_(torch.from_numpy(obs))
        return stored

    def add(self, t: int, action: Tensor, reward: Array, terminated: Array, truncated: Array, next_obs: Array) -> None:
        """Keep the action of step ``t`` and what came of it, (R, N, …) each."""
        self._action_at[t].copy_(action)
        self.reward[:, t] = reward
        self.terminated[:, t] = terminated
        np.logical_or(terminated, truncated, out=self.episode_end[:, t])
        if truncated.any():
            where = truncated & ~terminated
            self._finals.append((t, where, next_obs[where]))

    def rollout(self, last_obs: Array, cut: Array) -> Rollout:
        """All steps. Replicas that are ``cut``, (R,) bool, end their episodes at the last one, bootstrapped."""
        ends = torch.from_numpy(self.episode_end).to(self.device, copy=True)
        ends[:, -1] |= torch.from_numpy(cut).to(self.device).unsqueeze(1)
        final_obs, final_index = self._padded_finals()
        return Rollout(
            self.obs,
            self.action,
            torch.from_numpy(self.reward).to(self.device),
            torch.from_numpy(self.terminated).to(self.device),
            ends,
            torch.from_numpy(last_obs).to(self.device, copy=True),
            final_obs,
            final_index,
        )

    def select(self, keep: Sequence[int]) -> None:
        """Keep these replicas, in this order; what is stored is lost."""
        self._allocate(len(keep), *self.reward.shape[1:])

    def _padded_finals(self) -> tuple[Tensor, Tensor]:
        replicas, steps, num_envs = self.reward.shape
        rows: list[list[Array]] = [[] for _ in range(replicas)]
        places: list[list[int]] = [[] for _ in range(replicas)]
        for t, where, finals in self._finals:
            for (r, n), obs in zip(np.argwhere(where), finals, strict=True):
                rows[r].append(obs)
                places[r].append(t * num_envs + int(n))
        longest = max(map(len, places))
        obs = torch.zeros(replicas, longest, *self.obs.shape[3:], dtype=self.obs.dtype)
        index = torch.full((replicas, longest), steps * num_envs, dtype=torch.int64)
        for r, place in enumerate(places):
            if place:
                obs[r, : len(place)] = torch.from_numpy(np.stack(rows[r]))
                index[r, : len(place)] = torch.tensor(place)
        return obs.to(self.device), index.to(self.device)
